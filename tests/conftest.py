"""What many tests share: a small vocabulary of our own, datasets of every format, and the repository's root."""

import gzip
import json
import os
from pathlib import Path

import pytest

from spanqa.datasets import read_dataset
from spanqa.tokenization import load_tokenizer

ROOT = Path(__file__).parents[1]
# In the order in which they begin. Those of a row share a server, in one process.
SLOWEST_FILES = (
    (
        "integration/test_malformed_requests.py",
        "integration/test_fuzz.py",
        "integration/test_long_document.py",
        "integration/test_stopping.py",
        "integration/test_killed_processes.py",
        "integration/test_faults.py",
        "integration/test_bench.py",
    ),
    ("engine/test_precision.py",),
    ("integration/test_rollover.py",),
    ("client/batch/test_ray.py",),
    (
        "integration/test_served_parity.py",
        "integration/test_agreement.py",
        "integration/test_alternatives.py",
        "integration/test_batch_parity.py",
        "integration/test_collection.py",
        "integration/test_http.py",
        "integration/test_memory.py",
        "integration/test_client_faces.py",
    ),
    ("training/commands/test_old_toolkit.py",),
    ("training/run/test_several_processes.py",),
    ("training/commands/test_secrets.py",),
    ("engine/test_gpu_build.py",),
    ("training/run/test_training.py",),
    ("training/run/test_resuming.py",),
    ("server/test_server.py",),
    ("training/run/test_loss_scaling.py",),
    ("engine/test_rehearsal.py",),
    ("engine/test_onnx_gpu.py",),
)
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORDS = [
    "the",
    "a",
    "of",
    "in",
    "is",
    "was",
    "what",
    "who",
    "where",
    "when",
    "how",
    "many",
    "which",
    "city",
    "river",
    "bridge",
    "tower",
    "stands",
    "near",
    "old",
    "king",
    "built",
    "year",
    "station",
    "train",
    "north",
    "south",
    "red",
    "cat",
    "sat",
    "on",
    "mat",
    "and",
    "it",
    "has",
    "two",
    "three",
    "people",
    "live",
    "there",
]
_SUFFIXES = ["##s", "##ing", "##ed", "##er"]
_LETTERS = "".join(map(chr, [*range(ord("a"), ord("z") + 1), *range(ord("0"), ord("9") + 1)])) + "éßłαβωдяאבשعبم"
_SIGNS = ".,;:!?()[]'\"-/%$€§"
_IDEOGRAPHS = "中文東京大学日本語"
_JAMO = "".join(map(chr, [*range(0x1100, 0x1113), *range(0x1161, 0x1176), *range(0x11A8, 0x11C3)]))
_EMOJI = "😀🚀"


def _vocabulary_lines():
    letters = _LETTERS + _LETTERS.upper().replace("SS", "") + _JAMO
    pieces = [*_WORDS, *_SUFFIXES, *letters, *_SIGNS, *_IDEOGRAPHS, *_EMOJI, *("##" + letter for letter in letters)]
    return [*_SPECIAL, *dict.fromkeys(pieces)]


_BRIDGE = "The first bridge was built in 1907 and widened in 1950."
_ROWS = [
    {
        "id": number,
        "title": None,
        "context": _BRIDGE,
        "question": f"When was the first bridge {what}?",
        "answers": {"text": [year], "answer_start": [_BRIDGE.index(year)]},
    }
    for number, (what, year) in enumerate((("built", "1907"), ("widened", "1950")), start=1)
]
_QAS = [
    {
        "id": row["id"],
        "question": row["question"],
        "answers": [
            # As annotation tools write it, with keys that nobody asked for.
            {"answer_id": 1, "text": text, "answer_start": start, "answer_category": None}
            for text, start in zip(*row["answers"].values(), strict=True)
        ],
    }
    for row in _ROWS
]
_SQUAD = {"data": [{"title": None, "paragraphs": [{"document_id": 5, "context": _BRIDGE, "qas": _QAS}]}]}


def _write_parquet(path):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(_ROWS), path)


_FORMATS = {
    "SQuAD": lambda path: path.write_text(json.dumps(_SQUAD)),
    "rows under data": lambda path: path.write_text(json.dumps({"data": _ROWS})),
    "a list of rows": lambda path: path.write_text(json.dumps(_ROWS)),
    "JSON Lines": lambda path: path.write_text("".join(json.dumps(row) + "\n" for row in _ROWS)),
    "Parquet": _write_parquet,
}


def pytest_collection_modifyitems(items):
    """Put the slowest files first: each stays in one process, and one that began last would go on alone."""
    files = [(ROOT / "tests" / name).resolve(strict=True) for row in SLOWEST_FILES for name in row]
    places = {path: place for place, path in enumerate(files)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep the files of a row of SLOWEST_FILES together, as `--dist=loadfile` does the tests of a file."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    rows = {f"tests/{name}": f"tests/{row[0]}" for row in SLOWEST_FILES for name in row}

    class ByServer(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return rows.get(file, file)

    return ByServer(config, log)


@pytest.fixture(scope="session")
def root():
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory):
    """A folder that all processes of a run of the tests share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def vocabulary_file(tmp_path_factory):
    """A vocab.txt of some words, letters of several scripts, signs, ideographs and Hangul's parts."""
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(_vocabulary_lines()) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer(vocabulary_file):
    """The tokenizer of that vocabulary; it lower-cases."""
    return load_tokenizer(vocabulary_file)


@pytest.fixture(scope="session")
def real_questions(root):
    return read_dataset(root / "data" / "heldout200.json")


@pytest.fixture(params=[(name, packed) for name in _FORMATS for packed in (False, True)], ids=str)
def two_questions(request, tmp_path):
    """Two questions in each format, plain and gzipped, under a name that says nothing; their ids are numbers."""
    name, packed = request.param
    path = tmp_path / "questions"
    _FORMATS[name](path)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path
