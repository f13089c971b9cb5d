"""`spanqa bench` against a real Triton: its statistics, its metrics and the memory of its processes."""

import json

import pytest

from spanqa import contract
from spanqa.cli import main

pytestmark = pytest.mark.triton


@pytest.fixture
def bench(table_server, capsys, tmp_path, short_questions):
    """Runs the command on a real server, and gives what it printed and wrote."""
    dataset = tmp_path / "questions.json"
    qas = [
        {"context": context, "qas": [{"id": str(number), "question": question, "answers": []}]}
        for number, (question, context) in enumerate(short_questions)
    ]
    dataset.write_text(json.dumps({"data": [{"title": "t", "paragraphs": qas}]}))

    def run(*arguments):
        common = ["--dataset", dataset, "--url", table_server.url, "--quiet", "--warm-up-s", 0.1, "--window-s", 0.2]
        status = main([str(part) for part in ["bench", *common, "-o", tmp_path / "bench", *arguments]])
        captured = capsys.readouterr()
        assert (status, captured.err) == (0, "")
        return captured.out, tmp_path / "bench"

    return run


def test_the_main_entry_tells_its_stages_and_both_loops(bench, table_server):
    options = ["--concurrency", 4, "--rates", 40, "--rounds", 1]
    out, folder = bench(*options, "--metrics-url", table_server.metrics_url)
    assert "stages: tokenise " in out
    closed, opened = json.loads((folder / "bench.json").read_text())["measurements"]
    assert closed["rounds"][0]["n_questions"] > 0
    assert opened["rounds"][0]["n_errors"] == 0
    for level in (closed, opened):
        (one,) = level["rounds"]
        (times,) = one["models"]
        assert times["model"] == contract.QUESTION_ANSWERING
        # Triton counts what it was sent from one reading to the next: the measured ones and those at the edges.
        assert times["n_requests"] >= one["n_questions"]
        assert 0 < sum(one["stages"].values()) < 10 * level["mean_ms"]


def test_the_ensemble_tells_every_model_behind_it(bench):
    out, folder = bench("--model", contract.ENSEMBLE, "--concurrency", 2, "--rounds", 1)
    (level,) = json.loads((folder / "bench.json").read_text())["measurements"]
    models = {times["model"]: times for times in level["rounds"][0]["models"]}
    assert models.keys() >= {contract.ENSEMBLE, "preprocess", contract.ENCODER, "postprocess"}
    whole, encoder = models[contract.ENSEMBLE], models[contract.ENCODER]
    assert 0 < encoder["compute_ms"] <= encoder["server_ms"] <= whole["server_ms"] <= 2 * level["mean_ms"]
    assert all(f"  {model} " in out for model in models)


def test_a_soak_sees_the_memory_of_all_processes_of_the_server(bench, table_server, tools):
    out, folder = bench("--soak", "0.6s", "--period-s", 0.3, "--concurrency", 2)
    periods = [json.loads(line) for line in (folder / "soak.jsonl").read_text().splitlines()][1:-1]
    assert all(period["n_processes"] == 1 + len(list(table_server.stubs())) for period in periods)
    assert periods[-1]["resident_mb"] * 1e6 == pytest.approx(tools.resident_bytes(table_server), rel=0.2)
    assert periods[-1]["shared_mb"] > 0
    assert "0 errors" in out
