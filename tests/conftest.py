"""What many tests share: a small vocabulary of our own, datasets of every format, and the repository's root."""

import ctypes
import gc
import gzip
import json
import os
from pathlib import Path

import hypothesis
import pytest

from spanqa.datasets import read_dataset
from spanqa.tokenization import Tokenizer, load_tokenizer

ROOT = Path(__file__).parents[1]
# A busy machine makes its texts slowly, and is no fault of what is tested.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")
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
        "integration/test_replicas.py",
        "integration/test_operations.py",
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
        "integration/test_prometheus.py",
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


class _SignalStack(ctypes.Structure):
    """sigaltstack(2)'s stack_t."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


_SIGNAL_STACK = ctypes.create_string_buffer(256 << 10)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Give signal handlers room: on faulthandler's 12 KiB a process that has used AMX's tiles crashes at any signal."""
    stack = _SignalStack(ctypes.addressof(_SIGNAL_STACK), 0, len(_SIGNAL_STACK))
    ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None)


def pytest_collection_modifyitems(items):
    """Put the slowest files first: each stays in one process, and one that began last would go on alone."""
    files = [(ROOT / "tests" / name).resolve(strict=True) for row in SLOWEST_FILES for name in row]
    places = {path: place for place, path in enumerate(files)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish():
    """Leave what was imported out of later collections: each would walk through all of torch."""
    gc.collect()
    gc.freeze()


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

        def remove_node(self, node):
            """A test that ended its process is not run again, which would end the next one.

            Nor is what is done given to another process: it would have nothing to run, and all would wait for it.
            """
            units = self.assigned_work[node]
            crashed = next((test for unit in units.values() for test, is_done in unit.items() if not is_done), None)
            for scope in list(units):
                units[scope].pop(crashed, None)
                if all(units[scope].values()):
                    del units[scope]
            super().remove_node(node)
            return crashed

        def _reschedule(self, node):
            """A process begins no test without a second one or the end in sight: one alone is not enough to go on."""
            if node not in self.registered_collections:  # in another's place, and still collecting
                return
            super()._reschedule(node)
            while self.workqueue and not node.shutting_down and self._pending_of(self.assigned_work[node]) < 2:
                super()._reschedule(node)

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
def scripts(root):
    """Sentences in twelve scripts, by the script's name: statements, then questions."""
    return json.loads((root / "tests" / "data" / "scripts.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def tokenizer_folders(tmp_path_factory, scripts):
    """Folders as models of several families were published, by model_type, none with a tokenizer.json.

    Each vocabulary is trained on the sentences of `scripts`.
    """
    sentences = [sentence for script in scripts.values() for sentence in script]
    folders = {}
    for name in ("bert", "roberta", "xlm-roberta", "camembert", "albert", "deberta-v2"):
        folders[name] = tmp_path_factory.mktemp(name)
        (folders[name] / "config.json").write_text(json.dumps({"model_type": name}))
    _write_word_pieces(folders["bert"], sentences)
    _write_bpe(folders["roberta"], sentences)
    _write_unigram(folders["xlm-roberta"] / "sentencepiece.bpe.model", sentences)
    _write_unigram(folders["camembert"] / "sentencepiece.bpe.model", sentences)
    own = {"pad_id": 0, "pad_piece": "<pad>", "unk_id": 1, "bos_id": -1, "eos_id": -1}
    symbols = {"control_symbols": ["[CLS]", "[SEP]", "[MASK]"], "user_defined_symbols": ["(", ")", '"', "-", ".", "€"]}
    plain = [sentence.lower() for sentence in sentences]
    _write_unigram(folders["albert"] / "spiece.model", plain, **own, **symbols)
    own = {"pad_id": 0, "pad_piece": "[PAD]", "bos_id": 1, "bos_piece": "[CLS]", "eos_id": 2, "eos_piece": "[SEP]"}
    _write_unigram(folders["deberta-v2"] / "spm.model", sentences, unk_id=3, unk_piece="[UNK]", **own)
    return folders


@pytest.fixture(scope="session")
def tokenizers_of_families(tokenizer_folders):
    """Their tokenizers, as `spanqa import` makes them."""
    from spanqa_training.weights.tokenizers.unigram import sentencepiece_file_at, tokenizer_json_from_sentencepiece

    made = {}
    for name, folder in tokenizer_folders.items():
        model = sentencepiece_file_at(folder)
        made[name] = Tokenizer(tokenizer_json_from_sentencepiece(model)) if model else load_tokenizer(folder)
    return made


def _write_word_pieces(folder, sentences):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(
        sentences, trainers.WordPieceTrainer(vocab_size=700, special_tokens=_SPECIAL, show_progress=False)
    )
    tokens = sorted(backend.get_vocab().items(), key=lambda item: item[1])
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in tokens), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')


def _write_bpe(folder, sentences):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(sentences, trainer)
    backend.model.save(str(folder))


def _write_unigram(path, sentences, **options):
    from sentencepiece import SentencePieceTrainer

    with path.open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=file,
            vocab_size=700,
            hard_vocab_limit=False,
            character_coverage=0.98,
            num_threads=1,
            minloglevel=2,
            **options,
        )


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
