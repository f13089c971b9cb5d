"""Requests about one index of an OpenSearch cluster: time limits, retries, and where its errors become ours."""

from __future__ import annotations

import base64
import os
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from opensearchpy import OpenSearch
from opensearchpy import exceptions as theirs
from urllib3 import Timeout

from spanqa.json_fields import shortened
from spanqa_retrieval.document import printable
from spanqa_retrieval.errors import CollectionError

USER, PASSWORD, CA = "SPANQA_OPENSEARCH_USER", "SPANQA_OPENSEARCH_PASSWORD", "SPANQA_OPENSEARCH_CA"
DEFAULT_PORT = 9200
CONNECT_S, ANSWER_S = 5.0, 60.0
"""How long a connection and an answer may take, in seconds."""
TRIES, PATIENT_TRIES = 3, 9
"""How often a request is made: where somebody waits for its answer, and where hours of work would be lost."""
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 0.2, 30.0
PASSING = (429, 502, 503, 504)
"""Statuses of a cluster that has too much to do, or mends itself."""
MOST_CONNECTIONS = 32
SCHEMES = {"opensearch": False, "opensearchs": True}
# What OpenSearch allows, and stands for one index in every request; letters of other scripts are left out.
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where an index is.

    Args:
        host: The cluster's host.
        port: Its HTTP port.
        tls: Whether it is spoken to by TLS.
        name: The index's name.
    """

    host: str
    port: int
    tls: bool
    name: str

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"opensearch{'s' if self.tls else ''}://{host}:{self.port}/{self.name}"


def parse_address(text: str) -> Address:
    """Read `opensearch://host:9200/name`, or `opensearchs://` for TLS.

    Raises:
        CollectionError: It is something else, or holds a user or a password.
    """
    if "@" in text:
        # Said without the address: what is wrong in it is a secret.
        raise CollectionError(f"the index's address holds a user or a password: leave them out, set {USER}, {PASSWORD}")
    wanted = "give opensearch://HOST:PORT/NAME, or opensearchs:// for TLS"
    try:
        parts = urlsplit(text)
        port = DEFAULT_PORT if parts.port is None else parts.port
    except ValueError as error:
        raise CollectionError(f"the index is {text!r} ({error}): {wanted}") from error
    name = parts.path.removeprefix("/").removesuffix("/")
    if parts.scheme not in SCHEMES or not parts.hostname or not port or parts.query or parts.fragment or not name:
        raise CollectionError(f"the index is {text!r}: {wanted}")
    if not NAME.fullmatch(name):
        raise CollectionError(
            f"the index's name is {shortened(name)}: give a small letter or a digit, then up to 199 of a-z 0-9 . _ -"
        )
    return Address(host=parts.hostname, port=port, tls=SCHEMES[parts.scheme], name=name)


def backoffs(tries: int) -> Iterator[float]:
    """Give the seconds to wait after each of so many tries but the last, growing, and other ones for everybody."""
    for number in range(tries - 1):
        # Half to one and a half times: many that were turned away together come back apart.
        spread = random.uniform(0.5, 1.5)  # noqa: S311 - spreading load, not secrets
        yield min(FIRST_BACKOFF_S * 2**number, LONGEST_BACKOFF_S) * spread


class Connection:
    """Makes requests about one index. Safe to use from several threads.

    Args:
        address: The index.

    Raises:
        CollectionError: The environment names half of a user and password, or a file of certificates that is none.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        headers = _authorization()
        self._has_user = bool(headers)
        self._client = OpenSearch(
            [{"host": address.host, "port": address.port}],
            use_ssl=address.tls,
            ssl_context=_certificates() if address.tls else None,
            headers=headers,
            timeout=Timeout(connect=CONNECT_S, read=ANSWER_S),
            pool_maxsize=MOST_CONNECTIONS,
            # All tries are made below. A redirect, which might lead the password elsewhere, is an error there.
            max_retries=0,
        )

    def call(
        self,
        send: Callable[[OpenSearch], Any],
        *,
        patient: bool = False,
        passing: tuple[type[theirs.TransportError], ...] = (),
    ) -> Any:
        """Make a request, and make it again while the cluster is away or has too much to do.

        Args:
            send: Makes it; making it twice must do no harm.
            patient: Whether it is worth a minute's tries, and another one where no answer came in time.
            passing: Errors of opensearch-py that are left to the caller.

        Raises:
            CollectionError: The last try's error, in one sentence.
        """
        waits = backoffs(PATIENT_TRIES if patient else TRIES)
        while True:
            try:
                answer = send(self._client)
                if not isinstance(answer, (dict, bool)):
                    raise theirs.SerializationError(type(answer).__name__)
            except passing:
                raise
            except theirs.TransportError as error:
                wait_s = next(waits, None) if _passes(error, patient) else None
                if wait_s is None:
                    raise CollectionError(f"{self.address}: {self._said(error)}") from error
                time.sleep(wait_s)
                continue
            except theirs.SerializationError as error:
                raise CollectionError(
                    f"{self.address}: no OpenSearch answers there: give the address of one"
                ) from error
            return answer

    def _said(self, error: theirs.TransportError) -> str:
        status, reason = error.status_code, reason_of(error.info) or f"HTTP {error.status_code}"
        if isinstance(error, theirs.ConnectionError):
            return _connection_said(error)
        if status == 401:
            what = "the user is not known there, or has another password" if self._has_user else "it asks for a user"
            return f"{what}: set {USER} and {PASSWORD}"
        if status == 403:
            return f"this may not be done ({reason}): ask for the right, or give another user in {USER}"
        if status == 404:
            return f"no index there ({reason}): make one with `spanqa index SOURCE -o {self.address}`"
        if isinstance(status, int) and 300 <= status < 400:
            return f"it answers with a redirect (HTTP {status}), which is not followed: give the address it leads to"
        if status in PASSING:
            return f"the cluster has too much to do, or is not ready ({reason}): try again later"
        return f"the cluster refused a request ({reason}): see that it is OpenSearch 2 or 3, and what its log says"


def reason_of(answer: Any) -> str:
    """Give the reason that an error of OpenSearch's names, in one line; "" where there is none."""
    cause = answer.get("error", answer) if isinstance(answer, dict) else None
    # Of a search it is one shard's; that "all shards failed" tells nothing.
    cause = cause["root_cause"][0] if isinstance(cause, dict) and cause.get("root_cause") else cause
    reason = cause.get("reason") or cause.get("type") if isinstance(cause, dict) else cause
    return printable(reason if len(reason) <= 300 else f"{reason[:300]}...") if isinstance(reason, str) else ""


def _passes(error: theirs.TransportError, patient: bool) -> bool:
    """Whether the same request may succeed in a moment."""
    if isinstance(error, theirs.ConnectionTimeout):
        return patient
    is_away = isinstance(error, theirs.ConnectionError) and not isinstance(error, theirs.SSLError)
    return is_away or error.status_code in PASSING


def _connection_said(error: theirs.ConnectionError) -> str:
    if isinstance(error, theirs.ConnectionTimeout):
        return "no answer in time: try again when the cluster has less to do"
    cause: BaseException | None = error.info if isinstance(error.info, BaseException) else None
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message}): name the file of its CA in {CA}"
    if isinstance(error, theirs.SSLError):
        return "no TLS is spoken there: give opensearch:// where the cluster has none"
    reason = f" ({cause.strerror})" if isinstance(cause, OSError) and cause.strerror else ""
    return f"no OpenSearch answers there{reason}: start it, or give its address, opensearchs:// where it has TLS"


def _authorization() -> dict[str, str]:
    user, password = os.environ.get(USER, ""), os.environ.get(PASSWORD, "")
    if not user and not password:
        return {}
    if not user or not password or ":" in user:
        raise CollectionError(
            f"{USER} and {PASSWORD} must both be set, the former without a colon: set both or neither"
        )
    token = base64.b64encode(f"{user}:{password}".encode("utf-8", "surrogateescape")).decode()
    return {"authorization": f"Basic {token}"}


def _certificates() -> ssl.SSLContext:
    path = os.environ.get(CA) or None
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:  # what ssl raises is of the first kind
        raise CollectionError(f"{CA} is {path!r}, which holds no certificate: name a PEM file") from error
