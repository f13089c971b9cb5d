"""How a connection is made: TLS, certificates, a token, and what keeps it alive."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from spanqa.errors import InputError

COMPRESSIONS = ("none", "gzip")
AUTHORIZATION = "authorization"
DEFAULT_KEEPALIVE_TIMEOUT_S = 20.0
_TOKEN = re.compile(r"[!-~](?:[ -~]*[!-~])?")
"""What a header's value may hold: printable ASCII, no blank at its ends."""
_HEADER = re.compile(r"[a-z0-9_.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionSettings:
    """How a client connects to its servers.

    Args:
        tls: Whether with TLS; a file of certificates means it too.
        ca_file: The certificates, in PEM, of those who may sign a server's; None for the ones that gRPC brings.
        certificate_file: The client's own certificate chain in PEM, for mutual TLS.
        key_file: Its private key in PEM, not encrypted.
        authority: The name that the server's certificate must hold, and that it is called by, where it differs from
            that in the address.
        token: Sent with every call, for a bearer token `env:NAME`, `@FILE` or the token itself; a file is read again
            when it changes. Only with TLS, or to this very machine.
        token_header: The header that it is sent in: after "Bearer " in `authorization`, alone in any other.
        keepalive_s: Ask an idle peer so often, while a call is under way, whether it is there; None asks never. Triton
            ends connections that ask more often than its `--grpc-http2-min-recv-ping-interval-without-data`, which
            is 300 s by default.
        keepalive_timeout_s: How long its answer may take.
        compression: How requests are packed: "none" or "gzip"; the server packs its responses as it likes.

    Raises:
        InputError: They contradict each other, or a token is none.
    """

    tls: bool = False
    ca_file: str | Path | None = None
    certificate_file: str | Path | None = None
    key_file: str | Path | None = None
    authority: str | None = None
    token: str | None = field(default=None, repr=False)
    token_header: str = AUTHORIZATION
    keepalive_s: float | None = None
    keepalive_timeout_s: float = DEFAULT_KEEPALIVE_TIMEOUT_S
    compression: str = "none"

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            given, missing = ("certificate", "key") if self.key_file is None else ("key", "certificate")
            raise InputError(f"the client's {given} is given without its {missing}: mutual TLS needs both")
        if self.compression not in COMPRESSIONS:
            raise InputError(f"compression is {self.compression!r}: give {' or '.join(COMPRESSIONS)}")
        for name in ("keepalive_s", "keepalive_timeout_s"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and 0.1 <= value < 1e6):
                raise InputError(f"{name} is {value!r}: give a number of seconds from 0.1")
        if _HEADER.fullmatch(self.token_header) is None or self.token_header.endswith("-bin"):
            raise InputError(
                f"the token's header is {self.token_header!r}: give a name of lower-case letters, digits, - and _"
            )

    @property
    def is_secure(self) -> bool:
        """Whether connections are made with TLS."""
        return self.tls or self.ca_file is not None or self.certificate_file is not None

    def check_hosts(self, hosts: Iterable[str]) -> None:
        """Refuse what would send a token over an open network.

        Args:
            hosts: The servers' names or addresses.

        Raises:
            InputError: It would.
        """
        for host in hosts if self.token is not None and not self.is_secure else ():
            if not is_loopback(host):
                raise InputError(
                    f"a token for {host} would travel open to anybody on the way: connect with TLS (a CA file, or tls)"
                )


class Token:
    """A token and the header that carries it; a file is read again when it changes.

    Args:
        source: `env:NAME`, `@FILE` or the token itself.
        header: The header.

    Raises:
        InputError: There is none there, or it cannot stand in a header.
    """

    def __init__(self, source: str, header: str) -> None:
        self._header = header
        self._prefix = "Bearer " if header == AUTHORIZATION else ""
        self._path = Path(source[1:]) if source.startswith("@") else None
        self._read_at: int | None = None
        if source.startswith("env:"):
            name = source.removeprefix("env:")
            if name not in os.environ:
                raise InputError(f"the token's variable {name} is not set: set it, or give @FILE")
            self._value = _checked(os.environ[name], f"the variable {name}")
        elif self._path is None:
            self._value = _checked(source, "the token")
        self.metadata()  # which refuses a file that holds none, before anything is asked

    def metadata(self) -> tuple[tuple[str, str]]:
        """Give the header and its value.

        Raises:
            InputError: The file cannot be read any more, or holds no token.
        """
        if self._path is not None:
            try:
                changed_at = self._path.stat().st_mtime_ns
                if changed_at != self._read_at:
                    text = self._path.read_text("utf-8", "replace")
                    self._value, self._read_at = _checked(text, f"the token's file {self._path}"), changed_at
            except OSError as error:
                raise InputError(f"the token's file {self._path} cannot be read: {error.strerror}") from error
        return ((self._header, self._prefix + self._value),)


def _checked(text: str, origin: str) -> str:
    token = text.strip()
    if not token:
        raise InputError(f"{origin} is empty: put the token there")
    # Its text stays out of the message.
    if _TOKEN.fullmatch(token) is None:
        raise InputError(f"{origin} holds more than one line, or characters beyond ASCII: put the token alone there")
    return token


def is_loopback(host: str) -> bool:
    """Whether a host's name or address means this very machine, whatever its table of names says."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"
