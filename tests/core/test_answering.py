"""Requests in, one response to each out: right whatever runs beside it, and a fault is its own request's."""

import queue
import random
import threading
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest

from spanqa import answering as answering_module
from spanqa import contract, jobs, schedule
from spanqa.answering import Answering
from spanqa.errors import InputError, OverloadError, SpanqaError
from spanqa.guard import CancelledError, EncoderError
from spanqa.limits import Limits
from spanqa.manifest import Manifest
from spanqa.packing import Bucket, Packing
from spanqa.windows import WindowMaker, WindowSettings, batch_windows
from spanqa.wire import Options, Question, decode_question, response_tensors

LONGEST_S = 20
MANIFEST = Manifest(
    tokenizer_sha256="0", windows=WindowSettings(max_seq_length=32, doc_stride=8, max_query_length=8)
)  # fmt: skip
ONE_ROW = Packing(rows_per_call=1)
SEVERAL_ROWS = Packing(rows_per_call=4, tokens_per_call=96)
IN_BUCKETS = Packing(buckets=tuple(Bucket(length=length, model="e", max_rows=3) for length in (12, 20, 32)))
SHORT = "the cat sat on the mat"
MANY = "the old bridge stands near the red tower and the river . " * 30
WORDS = ["the", "old", "bridge", "towers", "near", "École", "東京", "🚀", "1950s", "\u00a0", "x" * 120, "e\u0301", "."]


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


def assert_refused(outcome, kind, message):
    assert isinstance(outcome, kind), outcome
    assert message in str(outcome)


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


def random_request(chance):
    rows = []
    for _ in range(chance.choice([1, 1, 1, 3])):
        words = [chance.choice(WORDS) for _ in range(chance.choice([3, 20, 60, 400]))]
        text = " ".join(["who", *(chance.choice(WORDS) for _ in range(chance.randint(1, 12)))])
        options = {"top_n": chance.choice([1, 5, 64]), "no_answer_threshold": chance.uniform(-9, 9)}
        options |= {"max_answer_tokens": chance.choice([1, 30, 10**6]), "distinct": chance.random() < 0.5}
        rows.append(question(text, " ".join(["the", *words]), **options))
    return Asked(*rows)


@pytest.mark.parametrize("n_workers", [1, 2, 5])
@pytest.mark.parametrize("packing", [ONE_ROW, SEVERAL_ROWS, IN_BUCKETS], ids=["one row", "several", "buckets"])
def test_every_answer_is_the_offline_one_at_any_number_of_workers(make, offline, monkeypatch, packing, n_workers):
    monkeypatch.setattr(answering_module, "LONG_CHARS", 900)  # so that some are read beside the others
    chance = random.Random(n_workers)
    engine = make(packing=packing, n_workers=n_workers, max_long_requests=100)
    asked = [random_request(chance) for _ in range(40)]
    while_asking = list(asked)
    while while_asking:
        n_together = chance.randint(1, 8)
        engine.take_in(while_asking[:n_together])
        del while_asking[:n_together]
    for request in asked:
        assert_same(request.outcome(), offline(request))
    closed(engine)
    assert all(request.outcomes.empty() for request in asked)


@pytest.mark.parametrize("packing", [ONE_ROW, SEVERAL_ROWS], ids=["one row", "several"])
def test_requests_that_fail_fail_alone(make, network, tokenizer, offline, monkeypatch, packing):
    monkeypatch.setattr(jobs, "CHECK_S", -1.0)
    faulty_token = int(tokenizer.pieces("king").ids[0])
    network.faults[faulty_token] = EncoderError("CUDA error", outage=False)
    engine = make(packing=packing, n_workers=2, max_windows=50)
    full = "king " * 43  # three full windows: as many as a call takes, where it takes several
    failing = [
        (Asked(("who?", full)), EncoderError, "CUDA error"),
        (Asked(error=InputError("QUESTION is empty")), InputError, "QUESTION is empty"),
        (Asked(error=ZeroDivisionError("a fault of ours")), ZeroDivisionError, "a fault of ours"),
        (Asked(("who?", SHORT), ("\t", SHORT)), InputError, "row 1: the question holds no word"),
        (Asked(("who?", MANY * 2)), InputError, "windows, at most 50 are allowed: split the text"),
        (Asked(("who?", SHORT), timeout_s=-1.0), OverloadError, "s for its turn: ask again"),
        (Asked(("who?", SHORT)), CancelledError, "cancelled by its sender"),
    ]
    failing[-1][0].cancelled = True
    good = [short() for _ in failing]
    engine.take_in([request for pair in zip((one[0] for one in failing), good, strict=True) for request in pair])
    for request, kind, message in failing:
        assert_refused(request.outcome(), kind, message)
    for request in good:
        assert_same(request.outcome(), offline(request))


def test_what_fails_in_a_call_fails_those_with_windows_in_it_alone(make, network, tokenizer, offline):
    network.faults[int(tokenizer.pieces("king").ids[0])] = EncoderError("away", outage=True)
    engine = make(packing=SEVERAL_ROWS)
    with network.held():
        engine.take_in([short()])
        network.next_begun()
        requests = [Asked(("who?", text)) for text in (SHORT, "the king", *[SHORT] * 3)]
        engine.take_in(requests)
    outcomes = [request.outcome() for request in requests]
    together = network.calls[1]
    assert len(together.units) == 4
    for outcome in outcomes[:4]:
        assert_refused(outcome, EncoderError, "away")
    assert_same(outcomes[4], offline(requests[4]))


def test_a_request_that_cannot_be_answered_harms_no_neighbour(make, offline, capsys):
    engine = make()
    broken, half_broken, sound = short(), short(), short()

    def fail(_answer):
        raise RuntimeError("no shared memory is left")

    broken.respond = broken.refuse = fail
    half_broken.respond = fail
    engine.take_in([broken, half_broken, sound])
    assert_same(sound.outcome(), offline(sound))
    assert_refused(half_broken.outcome(), RuntimeError, "no shared memory is left")
    assert "spanqa: a request could not be told of RuntimeError" in capsys.readouterr().err
    engine.take_in([again := short()])
    assert_same(again.outcome(), offline(again))


def test_a_refusal_that_fails_harms_no_neighbour_either(make, offline):
    engine = make()
    broken, sound = Asked(error=InputError("bad")), short()

    def fail(_error):
        raise RuntimeError("no shared memory is left")

    broken.refuse = fail
    engine.take_in([broken, sound])
    assert_same(sound.outcome(), offline(sound))


def test_a_request_cancelled_half_way_costs_no_more_calls(make, network, monkeypatch):
    monkeypatch.setattr(jobs, "CHECK_S", -1.0)
    engine = make()
    request = many()
    with network.held():
        engine.take_in([request])
        network.next_begun()
        request.cancelled = True
        network.permit(is_long=True)
        assert_refused(request.outcome(), CancelledError, "cancelled")
    closed(engine)
    assert len(network.calls) == 1


def test_overload_is_refused_at_once_and_forgotten_when_it_is_over(make, network, offline, counts):
    engine = make(n_workers=2, max_queued_requests=5)
    with network.held():
        accepted = [short() for _ in range(5)]
        engine.take_in(accepted)
        refused = [short() for _ in range(3)]
        engine.take_in(refused)  # while nothing moves
        for request in refused:
            assert_refused(request.outcome(), OverloadError, "5 requests are waiting, which is the most")
        assert len(network.calls) <= 2
    for request in accepted:
        assert_same(request.outcome(), offline(request))
    closed(engine)
    assert counts.counted["queue_full"] == 3
    assert counts.n_queued() == 0


def test_after_an_overload_requests_are_accepted_again(make, network, offline):
    engine = make(max_queued_requests=1)
    with network.held():
        engine.take_in([first := short(), late := short()])
        assert_refused(late.outcome(), OverloadError, "ask again")
    first.outcome()
    engine.take_in([again := short()])
    assert_same(again.outcome(), offline(again))


def test_a_request_waits_no_longer_than_its_sender_wants_and_one_that_began_is_finished(make, network, offline):
    engine = make()
    with network.held():
        engine.take_in([begun := Asked(("what stands?", MANY[:200]), timeout_s=LONGEST_S)])
        network.next_begun()
        engine.take_in([late := Asked(("who?", SHORT), timeout_s=0.0)])
    assert_refused(late.outcome(), OverloadError, "s for its turn: ask again")
    assert_same(begun.outcome(), offline(begun))


@pytest.mark.parametrize("is_read_beside", [False, True])
def test_a_short_request_waits_for_one_window_of_a_long_one_at_most(make, network, monkeypatch, is_read_beside):
    if is_read_beside:
        monkeypatch.setattr(answering_module, "LONG_CHARS", 900)
    engine = make()
    with network.held():
        engine.take_in([long := many()])
        assert network.next_begun().is_long
        for _ in range(5):
            engine.take_in([asked := short()])
            network.permit(is_long=True)
            assert not network.next_begun().is_long
            network.permit(is_long=False)
            assert isinstance(asked.outcome(), dict)
            assert network.next_begun().is_long
        assert long.outcomes.empty()
    assert isinstance(long.outcome(), dict)


def test_a_worker_is_free_for_short_requests_while_some_come(make, network, monkeypatch):
    monkeypatch.setattr(schedule, "RECENT_S", 3600.0)
    engine = make(n_workers=2)
    engine.take_in([first := short()])
    first.outcome()
    network.next_begun()
    with network.held():
        engine.take_in([many()])
        assert network.next_begun().is_long
        for _ in range(5):  # while the long one's window is not done
            engine.take_in([asked := short()])
            assert not network.next_begun().is_long
            assert len([call for call in network.calls if call.is_long]) == 1
            network.permit(is_long=False)
            assert isinstance(asked.outcome(), dict)


def test_long_requests_are_read_one_at_a_time(make, network, monkeypatch, offline):
    monkeypatch.setattr(answering_module, "LONG_CHARS", 900)
    engine = make(n_workers=2, max_long_requests=3)
    with network.held():
        requests = [many() for _ in range(4)]
        engine.take_in(requests)
        assert_refused(requests[3].outcome(), OverloadError, "3 long documents are waiting, which is the most")
        asked = {unit.job for unit in (*network.next_begun().units, *network.next_begun().units)}
        assert len(asked) == 1
    for request in requests[:3]:
        assert_same(request.outcome(), offline(request))
    order = list(dict.fromkeys(unit.job for call in network.calls for unit in call.units))
    n_windows = [sum(unit.job is job for call in network.calls for unit in call.units) for job in order]
    taken = [job for call in network.calls for job in {unit.job for unit in call.units}]
    assert taken == [job for job, n_times in zip(order, n_windows, strict=True) for _ in range(n_times)]


def test_closing_answers_what_was_accepted_and_refuses_the_rest(make, network, monkeypatch, offline):
    monkeypatch.setattr(answering_module, "LONG_CHARS", 900)
    engine = make(n_workers=2)
    with network.held():
        accepted = [make_one() for make_one in (short, many, short, many, short) for _ in range(3)]
        engine.take_in(accepted)
        ending = closing(engine)
        while not isinstance(refusal := refused_or_none(engine), SpanqaError):
            pass
        assert_refused(refusal, OverloadError, "the model is being unloaded: ask again in a moment")
        assert ending.is_alive()
    ending.join(LONGEST_S)
    assert not ending.is_alive()
    for request in accepted:
        assert_same(request.outcome(), offline(request))


def refused_or_none(engine):
    """What a request that comes now is told; None where it is accepted."""
    engine.take_in([late := Asked(("\t", SHORT))])  # accepted it fails at once
    outcome = late.outcome()
    return outcome if isinstance(outcome, OverloadError) else None


def test_a_network_of_another_shape_is_told(make, monkeypatch, network):
    engine = make()
    monkeypatch.setattr(Network, "__call__", lambda *_: (np.zeros((1, 3), np.float32), np.zeros((1, 3), np.float32)))
    engine.take_in([request := short()])
    assert_refused(request.outcome(), SpanqaError, "the network is not the one the repository was built with")


def test_what_was_done_is_counted(make, counts, tokenizer):
    engine = make(packing=IN_BUCKETS)
    never = question("who sat?", SHORT, no_answer_threshold=-1000.0)
    long_question = question("who " * 9, SHORT, no_answer_threshold=1000.0)
    engine.take_in([first := Asked(never, long_question), Asked(error=InputError("bad"))])
    first.outcome()  # or the next might share a call with it
    engine.take_in([Asked(question("who sat?", SHORT, no_answer_threshold=1000.0))])
    engine.take_in([Asked(("\t", SHORT))])
    closed(engine)
    n_context = len(tokenizer.pieces(SHORT))
    lengths = [len(tokenizer.pieces("who sat?")) + n_context + 3, 8 + n_context + 3]
    padded = [next(bucket.length for bucket in IN_BUCKETS.buckets if length <= bucket.length) for length in lengths]
    expected = {
        "questions": 3,
        "windows": 3,
        "no_answers": 1,
        "truncated": 1,
        "tokens": 2 * lengths[0] + lengths[1],
        "padding": 2 * (padded[0] - lengths[0]) + padded[1] - lengths[1],
        "hits": 3,
        "misses": 1,
        "bad_input": 2,
        "tokenise": 3,
        "decode": 2,
    }
    assert {name: counts.counted[name] for name in expected} == expected
    assert counts.counted["network"] == len({*padded}) + 1
    assert counts.n_queued() == 0
