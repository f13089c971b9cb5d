"""Writing an index of OpenSearch: one writer at a time, nothing lost or doubled, sources finished one by one."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from opensearchpy.exceptions import ConflictError, NotFoundError

from spanqa_retrieval.document import Passage, Scalar, printable
from spanqa_retrieval.engine import SourceRecord
from spanqa_retrieval.errors import BusyError, CollectionError
from spanqa_retrieval.opensearch_connection import PATIENT_TRIES, Connection, backoffs, reason_of

PASSAGE, SOURCE, UNFINISHED, LOCK = "passage", "source", "unfinished", "lock"
"""Kinds of documents in an index. A source's record stands where the note stood that it is unfinished."""
MOST_DOCUMENTS, MOST_BYTES = 500, 4 << 20
"""Of one bulk; a single document may be larger."""
DELETE_S = 600.0
"""How long a deletion may take, in seconds."""
RENEW_S, STALE_S = 30.0, 180.0
"""After how many seconds a lock is renewed, and from which age on it is nobody's."""
_NOTES, _PASSAGES, _RECORDS = range(3)


class Lock:
    """The right to write an index: a document in it that is renewed, and anybody's once that has stopped.

    Ages are told by the clocks of the writers' machines, which must not differ by minutes.

    Args:
        connection: The index.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection, self._index = connection, connection.address.name
        self._token = uuid.uuid4().hex
        self._mutex, self._ended, self._is_lost = threading.Lock(), threading.Event(), False
        self._thread = threading.Thread(target=self._keep, name="spanqa index lock", daemon=True)

    def acquire(self) -> None:
        """Take it.

        Raises:
            BusyError: Another process has it, and has renewed it lately.
            CollectionError: The cluster cannot be asked.
        """
        body = self._body()
        try:
            self._note(
                self._connection.call(
                    lambda client: client.create(index=self._index, id=LOCK, body=body), passing=(ConflictError,)
                )
            )
        except ConflictError:
            found, held = self._found()
            age_s = time.time() - held["renewed"]
            if held["token"] != self._token and age_s < STALE_S:
                raise self._busy(f" ({held['owner']}, last seen {max(age_s, 0):.0f} s ago)") from None
            self._note(found)
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
            if self._is_lost or time.time() - self._renewed > 2 * RENEW_S:
                self._renew(patient=True)

    def release(self) -> None:
        """Give it back, where it is still held."""
        self._ended.set()
        self._thread.join()
        # What cannot be given back grows stale.
        with suppress(CollectionError, ConflictError, NotFoundError):
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
        """Write it again, if nobody else has since."""
        if self._is_lost:
            raise self._busy("")
        body = self._body()
        try:
            done = self._connection.call(
                lambda client: client.index(index=self._index, id=LOCK, body=body, **self._place),
                patient=patient,
                passing=(ConflictError,),
            )
        except ConflictError:
            # It may have been this lock, by a try of which no answer came.
            done, held = self._found()
            self._is_lost = held["token"] != self._token
            if self._is_lost:
                raise self._busy("") from None
        self._note(done)

    def _found(self) -> tuple[Any, dict[str, Any]]:
        try:
            found = self._connection.call(
                lambda client: client.get(index=self._index, id=LOCK), passing=(NotFoundError,)
            )
        except NotFoundError:
            raise self._busy("") from None
        return found, json.loads(found["_source"]["kept"])

    def _body(self) -> dict[str, str]:
        owner = f"process {os.getpid()} on {socket.gethostname()}"
        return {"kind": LOCK, "kept": json.dumps({"token": self._token, "owner": owner, "renewed": time.time()})}

    def _note(self, done: Any) -> None:
        self._place = {"if_seq_no": done["_seq_no"], "if_primary_term": done["_primary_term"]}
        self._renewed = time.time()

    def _busy(self, who: str) -> BusyError:
        return BusyError(
            f"{self._connection.address}: another process writes the index{printable(who)}: wait until it has ended, "
            f"or {STALE_S / 60:g} minutes where it was killed"
        )


class OpenSearchWriter:
    """Changes an index of OpenSearch; see `IndexWriter`, and `OpenSearchIndex.writer` for what is different here.

    Before a source's first passage a note is written that it is unfinished, and after its last one the source's record
    in the note's place: whatever ends a writer, the next one knows what it left behind.

    Args:
        connection: The index.
        lock: Held.
        held: Gives what the index holds of a kind, as of the last refresh.
    """

    def __init__(self, connection: Connection, lock: Lock, held: Callable[[str], Iterator[dict[str, Any]]]) -> None:
        self._connection, self._lock, self._held = connection, lock, held
        # Sent in this order: a record says that all passages are there, so they must be.
        self._waiting: tuple[list[bytes], list[bytes], list[bytes]] = ([], [], [])
        self._n_waiting = self._n_bytes = 0
        self._numbers: dict[str, int] = {}
        self._refresh()
        self._removed = {found["source"] for found in held(UNFINISHED)}
        self._known = self._removed | {found["source"] for found in held(SOURCE)}
        self._take_away()

    def sources(self) -> dict[str, SourceRecord]:
        """Give every file that the index holds, by name, as of the last commit."""
        return {found["source"]: SourceRecord(**json.loads(found["kept"])) for found in self._held(SOURCE)}

    def add(self, source: str, passages: Iterable[Passage]) -> None:
        """Add passages of a file."""
        for passage in passages:
            if source in self._removed:
                self._take_away()
            number = self._numbers.get(source, 0)
            if number == 0:
                self._known.add(source)
                self._put(_NOTES, _id(source), {"kind": UNFINISHED, "source": source})
            self._numbers[source] = number + 1
            self._put(_PASSAGES, f"{_id(source)}-{number}", _document(source, passage))

    def finish(self, record: SourceRecord) -> None:
        """Say that all passages of a file are there."""
        if record.name in self._removed:
            self._take_away()
        self._known.add(record.name)
        kept = json.dumps(asdict(record), ensure_ascii=False)
        self._put(_RECORDS, _id(record.name), {"kind": SOURCE, "source": record.name, "kept": kept})

    def remove(self, source: str) -> None:
        """Take away a file and its passages, finished or not: when it is added again, or at the next commit."""
        if source in self._known:
            self._removed.add(source)

    def commit(self) -> None:
        """Send what is left, and make all that was sent visible.

        OpenSearch commits one document at a time. A kill in the middle leaves each source finished or unfinished by
        itself; what there is of an unfinished one, the next writer takes away, and the next run writes it again.
        """
        self._take_away()
        self._flush()
        self._refresh()

    def _put(self, part: int, identity: str, document: dict[str, Any]) -> None:
        action = _action("index", identity) + _line(document)
        if self._n_waiting and (self._n_waiting == MOST_DOCUMENTS or self._n_bytes + len(action) > MOST_BYTES):
            self._flush()
        self._waiting[part].append(action)
        self._n_waiting += 1
        self._n_bytes += len(action)

    def _flush(self) -> None:
        for actions in self._waiting:
            if actions:
                self._connection.bulk(actions, self._lock.check)
                actions.clear()
        self._n_waiting = self._n_bytes = 0

    def _take_away(self) -> None:
        """Carry out what was removed: noted as unfinished, then without passages, then gone."""
        while self._removed:
            self._flush()
            names = sorted(self._removed)[:MOST_DOCUMENTS]
            notes = [_action("index", _id(name)) + _line({"kind": UNFINISHED, "source": name}) for name in names]
            self._connection.bulk(notes, self._lock.check)
            self._delete_passages(names)
            self._connection.bulk([_action("delete", _id(name)) for name in names], self._lock.check)
            self._removed.difference_update(names)
            self._known.difference_update(names)
            for name in names:
                self._numbers.pop(name, None)

    def _delete_passages(self, names: list[str]) -> None:
        query = {"bool": {"filter": [{"term": {"kind": {"value": PASSAGE}}}, {"terms": {"source": names}}]}}
        waits = backoffs(PATIENT_TRIES)
        while True:
            # A deletion finds what is visible, and meets a conflict where that is not the newest.
            self._refresh()
            self._lock.check()
            done = self._connection.call(
                lambda client: client.delete_by_query(
                    index=self._connection.address.name,
                    body={"query": query},
                    conflicts="proceed",
                    refresh=True,
                    request_timeout=DELETE_S,
                ),
                patient=True,
            )
            if not (done["version_conflicts"] or done["failures"] or done["timed_out"]):
                return
            wait_s = next(waits, None)
            if wait_s is None:
                cause = done["failures"][0].get("cause") if done["failures"] else None
                reason = reason_of(cause) or f"{done['version_conflicts']} conflicts"
                raise CollectionError(
                    f"{self._connection.address}: passages of {printable(names[0])} cannot be taken away ({reason}): "
                    "see to the cluster, then run this again"
                )
            time.sleep(wait_s)

    def _refresh(self) -> None:
        done = self._connection.call(
            lambda client: client.indices.refresh(index=self._connection.address.name), patient=True
        )
        if done["_shards"]["failed"]:
            raise CollectionError(
                f"{self._connection.address}: {done['_shards']['failed']} shards cannot be refreshed: see to the "
                "cluster, then run this again"
            )


def label_of(key: str, value: Scalar) -> str:
    """Give the one word under which a value of metadata is found."""
    return f"{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"


def _document(source: str, passage: Passage) -> dict[str, Any]:
    kept = {
        "char_start": passage.char_start,
        "page_starts": passage.page_starts,
        "first_page": passage.first_page,
        "metadata": dict(passage.metadata),
    }
    return {
        "kind": PASSAGE,
        "source": source,
        "document": passage.document,
        "title": passage.title,
        "text": passage.text,
        "label": [label_of(key, value) for key, value in passage.metadata.items()],
        "kept": json.dumps(kept, ensure_ascii=False, separators=(",", ":")),
    }


def _id(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:32]


def _action(verb: str, identity: str) -> bytes:
    return _line({verb: {"_id": identity}})


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
