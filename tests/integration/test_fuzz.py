"""A short form of `benchmarks/fuzz.py`: the same inputs each time, and texts that hypothesis thinks of."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spanqa.errors import SpanqaError
from spanqa_client.client import QAClient
from spanqa_server.server import Server

pytestmark = pytest.mark.triton
N_INPUTS = 240
N_TEXTS = 100
SEED = 7


def test_no_input_ends_or_hangs_a_process_leaks_its_insides_or_harms_a_neighbour(
    table_server: Server, benchmark: Any
) -> None:
    fuzz, verdict = benchmark("fuzz"), benchmark("fault_setting").Verdict(name="fuzz")
    tally = fuzz.fuzz(table_server, range(N_INPUTS), seed=SEED, verdict=verdict)
    assert verdict.failures == []
    assert tally.ended.keys() == fuzz.PROBES.keys()
    assert sum(ended.total() for ended in tally.ended.values()) == N_INPUTS


@pytest.fixture(scope="module")
def client(table_server: Server) -> Iterator[QAClient]:
    with QAClient(table_server.url) as client:
        yield client


@settings(max_examples=N_TEXTS, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(question=st.text(min_size=1, max_size=60), context=st.text(min_size=1, max_size=300), top_n=st.integers(1, 64))
def test_spans_of_any_text_are_slices_of_it_or_a_sentence_says_why_not(
    client: QAClient, question: str, context: str, top_n: int
) -> None:
    spans, refusal = (), ""
    try:
        spans = client.ask(question, context, top_n=top_n).spans
    except SpanqaError as error:
        refusal = str(error)
    assert not refusal or "holds no word" in refusal or "is blank" in refusal
    assert [context[span.char_start : span.char_end] for span in spans] == [span.text for span in spans]


def test_an_input_is_made_of_the_seed_and_its_number_alone(benchmark: Any) -> None:
    fuzz, texts = benchmark("fuzz"), benchmark("fuzz_texts")
    made = [(kind, texts.bytes_of_text(rng)) for kind, rng in (fuzz.probe_of(SEED, number) for number in [5, 6, 5])]
    assert made[0] == made[2] != made[1]


def test_texts_come_from_every_plane_and_around_the_limit(benchmark: Any) -> None:
    texts, rng = benchmark("fuzz_texts"), random.Random(SEED)
    planes = {ord(one) >> 16 for _ in range(100) for one in texts.text_of(rng, 200)}
    assert planes == set(range(17))
    sizes = [texts.size_of(rng, limit=1000) for _ in range(5000)]
    assert {0, 999, 1000, 1001, 2000} <= set(sizes)


@pytest.mark.parametrize(
    ("says", "shows"),
    [
        ("QUESTION is empty: send some text", ""),
        ("unexpected inference input 'A/B' for model 'question_answering'", ""),
        ("bad\nAt:\n  model.py(7): execute", "several lines"),
        ("cannot open /tmp/spanqa-1/run0/triton.log", "/tmp/s"),
        ("an unexpected error (fault 0123456789ab: the server's log says more)", "fault 0123456789ab"),
        ("", "without a word"),
    ],
)
def test_an_error_may_not_show_the_servers_insides(benchmark: Any, says: str, shows: str) -> None:
    fault = benchmark("fuzz_probe").fault_of(says)
    assert shows in fault
    assert bool(fault) == bool(shows)
