"""Settled rows become parts: in any order, each once, and what comes twice does no harm."""

import random

import pyarrow
import pytest
from pyarrow import parquet

from spanqa.errors import SpanqaError
from spanqa_client.batch.parts import ANSWERS, Parts
from spanqa_client.batch.rows import Row, Settled
from spanqa_client.batch.work import Collector

N_ROWS = 47


def answered(number):
    return Settled(number, f"q{number}", {"text": "x", "has_answer": number % 2 == 0, "model_version": "1"})


@pytest.fixture
def parts(folder):
    folder.path.mkdir()
    return Parts(folder.path, 10, ANSWERS)


def test_rows_in_any_order_and_twice_are_written_once_in_the_order_of_the_input(parts, folder):
    failures = []
    collector = Collector(parts, failures.append)
    rows = [answered(number) if number % 7 else Settled(number, f"q{number}", reason="no") for number in range(N_ROWS)]
    shuffled = random.Random(3).sample(rows * 2, 2 * N_ROWS)
    assert sum(collector.settle(row) for row in shuffled) == N_ROWS
    assert not any(collector.lacks(number) for number in range(N_ROWS))
    assert collector.lacks(N_ROWS)
    collector.finish()
    assert folder.ids() == [row.id for row in rows if row.answer]
    assert sorted(row.number for row in failures) == list(range(0, N_ROWS, 7))
    tally = collector.tally
    assert (tally.n_read, tally.n_answered, tally.n_failed, tally.n_kept, tally.n_parts) == (47, 40, 7, 0, 5)
    assert tally.n_without_answer == sum(number % 2 for number in range(N_ROWS) if number % 7)
    assert tally.versions == {"1": 40}


def test_what_is_in_a_part_is_left_out_and_what_is_added_finds_its_place(parts, folder):
    first = Collector(parts, lambda _: None)
    for number in (1, 4, 8, 25):
        first.settle(answered(number))
    first.finish()
    items = list(parts.left_out(iter([Row(number, f"q{number}", "Who?", "x") for number in range(30)])))
    assert [item.number for item in items if isinstance(item, Settled)] == [1, 4, 8, 25]
    second = Collector(parts, lambda _: None)
    for item in items:
        second.settle(item if isinstance(item, Settled) else answered(item.number))
    assert folder.ids() == [f"q{number}" for number in range(30)]
    assert (second.tally.n_answered, second.tally.n_kept) == (30, 4)


def test_a_part_of_other_columns_is_refused(parts):
    parquet.write_table(pyarrow.table({"id": ["a"]}), parts.path(0))
    with pytest.raises(SpanqaError, match=r"part-00000.parquet: cannot be read"):
        parts.write(0, [answered(0)])
