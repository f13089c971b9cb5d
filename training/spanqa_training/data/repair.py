"""A mended copy of a dataset, and a list of what was mended in it and what had to be left out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from spanqa.datasets import iter_placed_dataset
from spanqa.errors import DamagedFileError, DataError
from spanqa.examples import Example, GoldAnswer, holds_word
from spanqa.files import open_atomically
from spanqa_training.data.answer_repair import mended_answer

LIST_SUFFIX = ".repairs.jsonl"


@dataclass(slots=True)
class Repair:
    """What a repair came to.

    Args:
        n_questions: Questions in the mended copy.
        mended: Answers mended, by rule.
        left_out: Questions and rows left out, by reason.
    """

    n_questions: int = 0
    mended: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {"questions": self.n_questions, "mended": dict(self.mended), "left_out": dict(self.left_out)}


def repair_files(files: Sequence[str | Path], output: Path, *, quiet: bool = True) -> Repair:
    """Write a mended copy of dataset files as one SQuAD 2.0 file, and beside it the list of repairs, JSON Lines.

    Exact duplicates fall out; of questions that share an id otherwise the first stays. When both are written to their
    end, the list of an earlier repair is deleted, then the copy is put in place, then its list: a list is always of the
    copy beside it, and a copy without one says that the repair was cut off there and is to be run again.

    Args:
        files: The files, of any format.
        output: The file to write; the list gets its name and `.repairs.jsonl`.
        quiet: Whether to hide the progress bar.

    Raises:
        DataError: Output or its list is one of the files, nothing is left to write, or a file cannot be read to its end
            or written; an old copy stays as it was.
    """
    listed = Path(f"{output}{LIST_SUFFIX}")
    for written in (output, listed):
        if any(Path(file).resolve() == written.resolve() for file in files):
            raise DataError(f"{written}: is the dataset itself, which would be lost: give another file with --repair")
    with open_atomically(listed) as list_file, open_atomically(output) as copy:
        repairing = _Repairing(list_file)
        with tqdm(repairing.examples(files), desc="mending", unit=" questions", disable=True if quiet else None) as bar:
            repairing.repair.n_questions = _write_squad(bar, copy)
        if not repairing.repair.n_questions:
            raise DataError(f"{', '.join(map(str, files))}: no question is left after repair: nothing was written")
        for file in (list_file, copy):
            file.flush()  # a full disk shows before anything is replaced
        listed.unlink(missing_ok=True)
    return repairing.repair


class _Repairing:
    """Reads files question by question, and lists what it does."""

    def __init__(self, list_file: IO[str]) -> None:
        self._list = list_file
        self._seen: dict[str, tuple[str, bytes]] = {}
        self._mends: list[dict[str, Any]] = []
        self.repair = Repair()

    def examples(self, files: Sequence[str | Path]) -> Iterator[Example]:
        for file in files:
            placed = iter_placed_dataset(file, on_defect=self._leave_out, mend=self._mend, check_ids=False)
            for _, example in placed:
                mends, self._mends = self._mends, []
                if self._has_words(example) and self._is_new(example):
                    for mend in mends:
                        self.repair.mended[mend["rule"]] += 1
                        self._write("mended", example.place, id=example.id, **mend)
                    yield example

    def _mend(self, context: str, text: str, start: int) -> GoldAnswer | None:
        found = mended_answer(context, text, start)
        if found is None:
            return None
        before = {"text": text, "answer_start": start if start >= 0 else None}
        after = {"text": found.answer.text, "answer_start": found.answer.char_start}
        self._mends.append({"rule": found.rule, "before": before, "after": after})
        return found.answer

    def _leave_out(self, defect: DataError) -> None:
        if isinstance(defect, DamagedFileError):
            raise defect  # a copy of a part would pass for the whole
        self._mends.clear()
        self.repair.left_out["a defect that cannot be mended"] += 1
        said = {"id": defect.question_id} if defect.question_id else {}
        self._write("left out", defect.place, **said, reason=str(defect))

    def _has_words(self, example: Example) -> bool:
        if holds_word(example.question) and holds_word(example.context):
            return True
        reason = "a question or context without a word"
        self.repair.left_out[reason] += 1
        self._write("left out", example.place, id=example.id, reason=reason)
        return False

    def _is_new(self, example: Example) -> bool:
        content = (example.question, example.context, [(answer.text, answer.char_start) for answer in example.answers])
        digest = hashlib.sha256(json.dumps(content).encode()).digest()
        if example.id not in self._seen:
            self._seen[example.id] = example.place, digest
            return True
        first_place, first_digest = self._seen[example.id]
        reason = "an exact duplicate" if digest == first_digest else "its id belongs to another question"
        self.repair.left_out[reason] += 1
        self._write("left out", example.place, id=example.id, reason=f"{reason}: {first_place}")
        return False

    def _write(self, what: str, place: str, **values: Any) -> None:
        entry = {"what": what, **({"place": place} if place else {}), **values}
        self._list.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _write_squad(examples: Iterable[Example], file: IO[str]) -> int:
    """Write SQuAD 2.0, a paragraph at a time; gives how many questions."""
    n_questions = 0
    last: Example | None = None
    file.write('{"version": "v2.0", "data": [')
    for example in examples:
        if last is None or example.context != last.context or example.title != last.title:
            file.write("]}]},\n" if last else "\n")
            opening = f'"title": {_json(example.title)}, "paragraphs": [{{"context": {_json(example.context)}'
            file.write(f'{{{opening}, "qas": [')
        else:
            file.write(", ")
        answers = [{"text": answer.text, "answer_start": answer.char_start} for answer in example.answers]
        qa = {"id": example.id, "question": example.question, "answers": answers, "is_impossible": not answers}
        file.write(_json(qa))
        last = example
        n_questions += 1
    file.write("]}]}]}\n" if last else "]}\n")
    return n_questions


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
