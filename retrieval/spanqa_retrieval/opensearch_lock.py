"""The right to write an index of OpenSearch, which one process has at a time."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from typing import Any

from opensearchpy.exceptions import ConflictError, NotFoundError

from spanqa_retrieval.document import printable
from spanqa_retrieval.errors import BusyError, CollectionError
from spanqa_retrieval.opensearch_connection import Connection

LOCK = "lock"
"""The document's id, and its kind."""
RENEW_S, STALE_S = 30.0, 180.0
"""After how many seconds a lock is renewed, and from which age on it is nobody's."""


class Lock:
    """A document that whoever created it renews, and that anybody may take over once that has stopped.

    Ages are told by the clocks of the writers' machines, which must not differ by minutes.

    Args:
        connection: The index.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection, self._index = connection, connection.address.name
        self._token = uuid.uuid4().hex
        self._place: dict[str, Any] = {"op_type": "create"}
        self._written = 0.0
        self._mutex, self._ended = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="spanqa index lock", daemon=True)

    def acquire(self) -> None:
        """Take it.

        Raises:
            BusyError: Another process has it, and has renewed it lately.
            CollectionError: The cluster cannot be asked.
        """
        if other := self._write():
            age_s = max(time.time() - other["written"], 0.0)
            if age_s < STALE_S:
                raise self._busy(f" ({other['owner']}, last seen {age_s:.0f} s ago)")
            self._place = other["place"]
            self._renew()
        self._thread.start()

    def check(self) -> None:
        """Make sure that it is held, before anything is written.

        Raises:
            BusyError: Another process has taken it.
            CollectionError: The cluster cannot be asked.
        """
        with self._mutex:
            # The machine may have slept, or the cluster been out of reach.
            if time.time() - self._written > 2 * RENEW_S:
                self._renew(patient=True)

    def release(self) -> None:
        """Give it back, where it is still held."""
        self._ended.set()
        self._thread.join()
        # What cannot be given back grows stale.
        with suppress(CollectionError, ConflictError, NotFoundError):
            try:
                self._delete()
            except ConflictError:
                found = self._found()
                if json.loads(found["_source"]["kept"])["token"] == self._token:
                    # It was renewed last by a try of which no answer came.
                    self._place = _place(found)
                    self._delete()

    def _delete(self) -> None:
        self._connection.call(
            lambda client: client.delete(index=self._index, id=LOCK, **self._place),
            passing=(ConflictError, NotFoundError),
        )

    def _keep(self) -> None:
        while not self._ended.wait(RENEW_S):
            # What fails here is met by `check`.
            with suppress(CollectionError), self._mutex:
                self._renew()

    def _renew(self, *, patient: bool = False) -> None:
        if self._write(patient=patient):
            self._written = 0.0
            raise self._busy("")

    def _write(self, *, patient: bool = False) -> dict[str, Any] | None:
        """Write the document, if it is as it was last seen; give another's that stands there instead."""
        kept = {"token": self._token, "owner": f"process {os.getpid()} on {socket.gethostname()}"}
        now = time.time()
        body = {"kind": LOCK, "kept": json.dumps({**kept, "written": now})}
        try:
            done = self._connection.call(
                lambda client: client.index(index=self._index, id=LOCK, body=body, **self._place),
                patient=patient,
                passing=(ConflictError,),
            )
        except ConflictError:
            done = self._found()
            held = json.loads(done["_source"]["kept"])
            if held["token"] != self._token:
                return {**held, "place": _place(done)}
            # It was this lock, by a try of which no answer came.
        self._place, self._written = _place(done), now
        return None

    def _found(self) -> Any:
        try:
            return self._connection.call(
                lambda client: client.get(index=self._index, id=LOCK), passing=(NotFoundError,)
            )
        except NotFoundError:
            raise self._busy("") from None

    def _busy(self, who: str) -> BusyError:
        return BusyError(
            f"{self._connection.address}: another process writes the index{printable(who)}: wait until it has ended, "
            f"or {STALE_S / 60:g} minutes where it was killed"
        )


def _place(document: Any) -> dict[str, Any]:
    """What says that a document is still as it is now."""
    return {"if_seq_no": document["_seq_no"], "if_primary_term": document["_primary_term"]}
