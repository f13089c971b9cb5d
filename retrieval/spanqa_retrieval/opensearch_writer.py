"""Writing an index of OpenSearch: one writer at a time, nothing lost or doubled, sources finished one by one."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from spanqa_retrieval.document import Passage, label_of, printable
from spanqa_retrieval.engine import SourceRecord
from spanqa_retrieval.errors import CollectionError
from spanqa_retrieval.opensearch_connection import PASSING, PATIENT_TRIES, Connection, backoffs, reason_of
from spanqa_retrieval.opensearch_lock import Lock

PASSAGE, SOURCE, UNFINISHED = "passage", "source", "unfinished"
"""Kinds of documents in an index. A source's record stands where the note stood that it is unfinished."""
MOST_DOCUMENTS, MOST_BYTES = 500, 4 << 20
"""Of one bulk; a single document may be larger."""
DELETE_S = 600.0
"""How long a deletion may take, in seconds."""
_NOTES, _PASSAGES, _RECORDS = range(3)


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
                self._send(actions)
                actions.clear()
        self._n_waiting = self._n_bytes = 0

    def _send(self, actions: Sequence[bytes]) -> None:
        """Write documents in one bulk, and again those that are rejected, until all are written."""
        waits = backoffs(PATIENT_TRIES)
        while True:
            self._lock.check()
            failed = self._bulk(actions)
            if not failed:
                return
            refused = [one for one in failed if one[1]["status"] not in PASSING]
            wait_s = None if refused else next(waits, None)
            if wait_s is None:
                action, result = (refused or failed)[0]
                what = "refused" if refused else f"rejected {PATIENT_TRIES} times"
                raise CollectionError(
                    f"{self._connection.address}: {len(refused or failed)} documents were {what}, first one of "
                    f"{_source_of(action)} ({reason_of(result) or result['status']}): see to the cluster, then run "
                    "this again"
                )
            time.sleep(wait_s)
            actions = [action for action, _ in failed]

    def _bulk(self, actions: Sequence[bytes]) -> list[tuple[bytes, dict[str, Any]]]:
        """Send a bulk; give what was not done, each with its result."""
        done = self._connection.call(
            lambda client: client.bulk(
                index=self._connection.address.name,
                body=b"".join(actions),
                headers={"content-type": "application/x-ndjson"},
            ),
            patient=True,
        )
        results = [result for item in done["items"] for result in item.values()]
        # To delete what is not there has a status of its own, and is no error.
        return [(action, result) for action, result in zip(actions, results, strict=True) if "error" in result]

    def _take_away(self) -> None:
        """Carry out what was removed: noted as unfinished, then without passages, then gone."""
        while self._removed:
            self._flush()
            names = sorted(self._removed)[:MOST_DOCUMENTS]
            notes = [_action("index", _id(name)) + _line({"kind": UNFINISHED, "source": name}) for name in names]
            self._send(notes)
            self._delete_passages(names)
            self._send([_action("delete", _id(name)) for name in names])
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
                first = done["failures"][0] if done["failures"] else {}
                reason = reason_of(first.get("cause") or first.get("reason")) or "other changes go on"
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


def passage_of(document: Mapping[str, Any]) -> Passage:
    """Give the passage that a document was made of."""
    kept = json.loads(document["kept"])
    return Passage(
        **{**kept, "page_starts": tuple(kept["page_starts"])},
        document=document["document"],
        title=document["title"],
        text=document["text"],
    )


def _id(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:32]


def _action(verb: str, identity: str) -> bytes:
    return _line({verb: {"_id": identity}})


def _line(value: dict[str, Any]) -> bytes:
    # Halves of surrogate pairs, which no index holds, become one character each: offsets stay.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


def _source_of(action: bytes) -> str:
    return printable(json.loads(action.splitlines()[-1]).get("source", "a note"))
