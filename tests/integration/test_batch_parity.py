"""A batch has the same answers whether a server gives them or worker processes with its network."""

import json

import pytest
from pyarrow import parquet

from spanqa.cli import main

N_QUESTIONS = 12


def test_worker_processes_answer_as_the_server_does(server, root, real_questions, tmp_path):
    rows = [{"id": one.id, "question": one.question, "context": one.context} for one in real_questions[:N_QUESTIONS]]
    rows.append({"id": "long", "question": rows[0]["question"], "context": " ".join(row["context"] for row in rows)})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    ways = {"server": ["--url", server.url], "network": ["--repository", str(root / "model_repository")]}
    found = {}
    for name, way in ways.items():
        folder = tmp_path / name
        assert main(["batch", str(path), "-o", str(folder), *way, "--top-n", "3", "--quiet"]) == 0
        found[name] = parquet.ParquetFile(folder / "part-00000.parquet").read().to_pylist()
    assert [row["id"] for row in found["server"]] == [row["id"] for row in rows]
    assert sum(row["has_answer"] for row in found["server"]) > N_QUESTIONS // 4
    for served, own in zip(found["server"], found["network"], strict=True):
        # What is left of the numbers is float32's rounding in another order of sums.
        assert _numbers_out(own) == pytest.approx(_numbers_out(served), abs=1e-3)
        assert own == served


def _numbers_out(row):
    """Takes scores and logits out of an answer and its spans."""
    places = (row, *row["spans"])
    taken = [place.pop(name) for place in places for name in ("score", "logit")]
    return [row.pop("no_answer_margin"), *(number or 0.0 for number in taken)]
