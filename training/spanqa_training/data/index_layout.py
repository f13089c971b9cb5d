"""The files of an index of training windows: their layout, how they are written, and whether they are whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spanqa.errors import DataError
from spanqa.pair_template import PairTemplate, pair_from_json
from spanqa.windows import WindowMaker
from spanqa_training.data.labels import NULL_POSITION, kept_windows, window_labels
from spanqa_training.data.windowing import CutExample
from spanqa_training.errors import RunError

FORMAT_VERSION = 2
"""2: the special tokens as the tokenizer's template, which other models than BERT need."""
HEADER_FILE = "header.json"
PIECES_FILE = "pieces.bin"
WINDOWS_FILE = "windows.bin"
FILES = (HEADER_FILE, PIECES_FILE, WINDOWS_FILE)

WINDOW = np.dtype(
    [
        ("question", "<i8"),  # where the question begins in the file of word pieces
        ("context", "<i8"),  # where the window's part of the context begins there
        ("n_question", "<i4"),  # word pieces of the question
        ("n_context", "<i4"),  # word pieces of the context in the window
        ("start", "<i4"),  # the label: positions in the window
        ("end", "<i4"),
    ]
)
_UINT16_IDS = 1 << 16
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What an index holds.

    Args:
        piece_type: Type of the stored word pieces: `<u2` or `<i4`.
        pair: The special tokens around a question and a context.
        n_questions: Questions read.
        n_unanswerable: Those without an answer.
        n_windows: Windows stored.
        n_positive: Those that hold the whole answer.
    """

    piece_type: str
    pair: PairTemplate
    n_questions: int
    n_unanswerable: int
    n_windows: int
    n_positive: int


def write_index(folder: Path, cut: Iterable[CutExample], maker: WindowMaker, keep_doc_spans: str) -> Header:
    """Fill an empty folder with the index of some examples.

    Args:
        folder: The folder.
        cut: The examples with their windows.
        maker: Cut them.
        keep_doc_spans: Which windows are stored, as in `kept_windows`.

    Raises:
        OSError: The files cannot be written.
    """
    tokenizer = maker.tokenizer
    piece_type = "<u2" if tokenizer.vocab_size <= _UINT16_IDS else "<i4"
    with _Writer(folder, piece_type) as writer:
        for one in cut:
            writer.add(one, keep_doc_spans)
    header = Header(
        piece_type=piece_type,
        pair=tokenizer.pair,
        n_questions=writer.n_questions,
        n_unanswerable=writer.n_unanswerable,
        n_windows=writer.n_windows,
        n_positive=writer.n_positive,
    )
    fields = asdict(header)
    text = json.dumps({**fields, "sha256": _digest(folder, fields)}, indent=2)
    (folder / HEADER_FILE).write_text(text, encoding="utf-8")
    return header


def read_header(folder: Path) -> Header:
    """Read an index's header, and hold the files against its checksum.

    Raises:
        RunError: There is no index, or it is damaged.
    """
    try:
        fields = json.loads((folder / HEADER_FILE).read_text(encoding="utf-8"))
        whole = fields.pop("sha256") == _digest(folder, fields)
        header = Header(**{**fields, "pair": pair_from_json(fields["pair"])})
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise RunError(f"{folder}: holds no index of training windows, or half of one: build it again") from error
    if not whole:
        raise RunError(f"{folder}: the index of training windows is damaged: delete it and build it again")
    return header


def file_sha256(path: Path, *, digest: Any = None) -> Any:
    """Take a file's content into a SHA-256 digest, a new one by default.

    Raises:
        OSError: It cannot be read.
    """
    digest = digest or hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest


def _digest(folder: Path, fields: dict[str, Any]) -> str:
    """The checksum of an index: of its header's fields and its other files."""
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for name in (PIECES_FILE, WINDOWS_FILE):
        file_sha256(folder / name, digest=digest)
    return str(digest.hexdigest())


class _Writer:
    """Writes word pieces and windows, each context once for the questions about it that follow each other."""

    def __init__(self, folder: Path, piece_type: str) -> None:
        self.n_questions = self.n_unanswerable = self.n_windows = self.n_positive = 0
        self._piece_type = piece_type
        self._n_pieces = 0
        self._context, self._context_at = "", 0
        with ExitStack() as stack:
            self._pieces = stack.enter_context((folder / PIECES_FILE).open("wb"))
            self._windows = stack.enter_context((folder / WINDOWS_FILE).open("wb"))
            self._files = stack.pop_all()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def add(self, cut: CutExample, keep_doc_spans: str) -> None:
        example, windows = cut.example, cut.windows
        self.n_questions += 1
        self.n_unanswerable += not example.answers
        kept = kept_windows(windows, example, keep_doc_spans)
        if not kept:
            return
        if example.context != self._context:
            self._context, self._context_at = example.context, self._put(windows.document.ids)
        question_at = self._put(windows.question_ids)
        labels = window_labels(windows, example)
        rows = [
            (
                question_at,
                self._context_at + int(windows.starts[index]),
                len(windows.question_ids),
                int(windows.lengths[index]),
                *labels[index],
            )
            for index in kept
        ]
        self._windows.write(np.array(rows, dtype=WINDOW).tobytes())
        self.n_windows += len(kept)
        self.n_positive += sum(labels[index][0] != NULL_POSITION for index in kept)

    def _put(self, ids: NDArray[np.int32]) -> int:
        at = self._n_pieces
        self._pieces.write(ids.astype(self._piece_type).tobytes())
        self._n_pieces += len(ids)
        return at


def index_key(paths: Sequence[Path], maker: WindowMaker, selection: dict[str, Any]) -> str:
    """Name everything that an index is made from.

    Args:
        paths: The dataset's files, in order.
        maker: The model's tokenizer and window settings.
        selection: Which questions and windows are taken; JSON values.

    Raises:
        DataError: A file is missing, or cannot be read.
    """
    made_from = {
        "format_version": FORMAT_VERSION,
        "files": [_content_sha256(path) for path in paths],
        "tokenizer": maker.tokenizer.sha256,
        "windows": asdict(maker.settings),
        **selection,
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def _content_sha256(path: Path) -> str:
    try:
        return str(file_sha256(path).hexdigest())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
