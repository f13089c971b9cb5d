"""Files in SQuAD's format, requests of windows of given lengths, and an engine over a network of arithmetic."""

import json
import queue
import sys
import threading
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest

from spanqa import contract
from spanqa.answering import Answering
from spanqa.datasets import read_dataset
from spanqa.errors import DataError
from spanqa.jobs import Job
from spanqa.limits import Limits
from spanqa.manifest import Manifest
from spanqa.packing import Packing
from spanqa.schedule import Schedule
from spanqa.tokenization import Pieces
from spanqa.windows import WindowMaker, Windows, WindowSettings, batch_windows
from spanqa.wire import Options, Question, decode_question, response_tensors

LONGEST_S = 20
MANIFEST = Manifest(
    tokenizer_sha256="0", windows=WindowSettings(max_seq_length=32, doc_stride=8, max_query_length=8)
)  # fmt: skip
ONE_ROW = Packing(rows_per_call=1)
OPTIONS = Options(top_n=1, no_answer_threshold=0.0, max_answer_tokens=30)
SHORT = "the cat sat on the mat"
MANY = "the old bridge stands near the red tower and the river . " * 30


@pytest.fixture(scope="session")
def tools():
    """The helpers of this file, which tests cannot import."""
    return sys.modules[__name__]


@pytest.fixture
def written(tmp_path):
    """Writes a document, or bytes, as a file."""

    def write(content, name="squad.json"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


def assert_one_error(path, *parts, **options):
    """Reading fails with one line that begins with the file and then the place, and holds every part."""
    with pytest.raises(DataError) as caught:
        read_dataset(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: {parts[0]}"), ascii(message)
    for part in parts[1:]:
        assert part in message
    assert "\n" not in message
    assert len(message) < 500 + len(str(path))


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


class Cutter:
    """Makes windows of the lengths that a test wants, and no text."""

    def __init__(self, lengths):
        self._lengths = np.array(lengths, dtype=np.int32)

    def cut(self, _question, _context):
        nothing = np.zeros(1, dtype=np.int32)
        return Windows(
            question_ids=nothing,
            document=Pieces(ids=nothing, chars=np.zeros((1, 2), np.int32), continues=np.zeros(1, np.bool_)),
            starts=np.zeros(len(self._lengths), dtype=np.int32),
            lengths=self._lengths - np.int32(4),
            room=100,
            question_truncated=False,
            special_ids=(1, 2, 0),
        )


def job_of(*lengths, is_long=False):
    """A request whose windows have these lengths, special tokens included."""
    row = Question(question="q", context="c", options=OPTIONS)
    job = Job([row], lambda *_: None, is_long=is_long, is_cancelled=lambda: False, arrived=0.0)
    job.cut(Cutter(lengths), {"q": None, "c": None}, Limits())
    return job


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def made(clock):
    def make(packing=ONE_ROW, n_workers=1, **limits):
        return Schedule(packing, Limits(**limits), n_workers=n_workers, clock=clock)

    return make


def logits_of(batch):
    """A network of arithmetic: a token's logits depend on its id, its place and its row's sum; padding would win."""
    ids, mask = batch.input_ids, batch.attention_mask
    row = (ids * mask).sum(axis=1, keepdims=True)
    places = np.arange(ids.shape[1])
    start, end = 4 * np.sin(ids * 0.7 + places * 0.13 + row), 4 * np.cos(ids * 0.3 - places * 0.29 + row)
    return tuple(np.where(mask, array + batch.token_type_ids, 1000.0).astype(np.float32) for array in (start, end))


class Network:
    """The network; while it is held, each call waits for a permit of its kind. One that holds a faulty token fails."""

    def __init__(self):
        self.calls, self.begun, self.faults = [], queue.SimpleQueue(), {}
        self._permits = {is_long: threading.Semaphore(0) for is_long in (False, True)}
        self._is_held, self._lock = False, threading.Lock()

    def __call__(self, batch, call):
        with self._lock:
            self.calls.append(call)
        self.begun.put(call)
        if self._is_held:
            assert self._permits[call.is_long].acquire(timeout=LONGEST_S)
        for token, error in self.faults.items():
            if (batch.input_ids == token).any():
                raise error
        return logits_of(batch)

    def next_begun(self):
        return self.begun.get(timeout=LONGEST_S)

    def permit(self, *, is_long):
        self._permits[is_long].release()

    @contextmanager
    def held(self):
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
            for permits in self._permits.values():
                permits.release(10_000)


class Counts:
    """What would reach Prometheus."""

    def __init__(self):
        self.counted, self.n_queued, self._lock = Counter(), None, threading.Lock()

    def _add(self, **amounts):
        with self._lock:
            self.counted.update(amounts)

    def answered(self, n_questions, n_windows, n_no_answer, n_truncated):
        self._add(questions=n_questions, windows=n_windows, no_answers=n_no_answer, truncated=n_truncated)

    def encoded(self, n_tokens, n_padding):
        self._add(tokens=n_tokens, padding=n_padding)

    def spent(self, stage, seconds):
        assert seconds >= 0
        self._add(**{stage: 1})

    def cache(self, hits, misses):
        self._add(hits=hits, misses=misses)

    def rejected(self, reason):
        self._add(**{reason: 1})

    def watch_queue(self, n_requests):
        self.n_queued = n_requests


class Asked:
    """One request, its outcomes, and what its sender does meanwhile."""

    def __init__(self, *rows, timeout_s=float("inf"), error=None):
        self.rows = [row if isinstance(row, Question) else question(*row) for row in rows]
        self.timeout_s, self.error, self.cancelled = timeout_s, error, False
        self.outcomes = queue.SimpleQueue()

    def read(self):
        if self.error:
            raise self.error
        return list(self.rows)

    def is_cancelled(self):
        return self.cancelled

    def respond(self, tensors):
        self.outcomes.put(tensors)

    def refuse(self, error):
        self.outcomes.put(error)

    def outcome(self):
        return self.outcomes.get(timeout=LONGEST_S)


def question(text, context, **options):
    chosen = {"top_n": 1, "no_answer_threshold": 0.0, "max_answer_tokens": 30, "distinct": False} | options
    return Question(question=text, context=context, options=Options(**chosen))


def short():
    return Asked(("who sat?", SHORT))


def many():
    return Asked(("what stands?", MANY))


@pytest.fixture
def network():
    return Network()


@pytest.fixture
def counts():
    return Counts()


@pytest.fixture
def make(tokenizer, network, counts):
    """Makes the engine; it must end when the test does."""
    made = []

    def make(*, packing=ONE_ROW, n_workers=1, **limits):
        engine = Answering(
            MANIFEST, tokenizer, Limits(**limits), network, packing=packing, n_workers=n_workers, telemetry=counts
        )
        made.append(engine)
        return engine

    yield make
    for engine in made:
        closed(engine)


def closing(engine):
    ending = threading.Thread(target=engine.close, daemon=True)
    ending.start()
    return ending


def closed(engine):
    ending = closing(engine)
    ending.join(LONGEST_S)
    assert not ending.is_alive()


def assert_same(got, expected):
    assert isinstance(got, dict), got
    assert list(got) == list(expected) == [tensor.name for tensor in contract.OUTPUTS]
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


@pytest.fixture
def offline(tokenizer):
    """Answers a request without any engine: its rows' windows one by one, then the decoder."""
    maker = WindowMaker(tokenizer, MANIFEST.windows)

    def row_answered(row):
        windows = maker.windows(row.question, row.context)
        shape = (len(windows), int(windows.seq_lengths.max()))
        start, end = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for window, length in enumerate(windows.seq_lengths.tolist()):
            start[window, :length], end[window, :length] = (
                logits[0] for logits in logits_of(batch_windows([(windows, window)]))
            )
        return decode_question(windows, row.context, row.options, start, end, MANIFEST), windows.question_truncated

    def answer(asked):
        decoded, truncated = zip(*map(row_answered, asked.rows), strict=True)
        return response_tensors(decoded, [row.options.no_answer_threshold for row in asked.rows], truncated)

    return answer
