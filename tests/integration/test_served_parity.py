"""What the server answers is held against the checkpoint in torch, on real questions."""

import json

from spanqa.cli import main
from spanqa.datasets import read_dataset
from spanqa_training.commands.negatives import write_squad

N_QUESTIONS = 30
MANY = 3
"""Answers that may be others than the checkpoint's, and what they may win or lose together."""


def test_a_running_server_is_held_against_its_checkpoint(server, root, tmp_path, capsys):
    """The shipped network is int8: near, and not the same."""
    model = "training/checkpoints/spanqa-minilm"
    data = tmp_path / "questions.json"
    write_squad(read_dataset(root / "data" / "heldout200.json")[:N_QUESTIONS], data)
    assert main(["build", "-m", model, "--served", server.url, "--data", str(data), "--json", "--quiet"]) == 0
    reference, served = json.loads(capsys.readouterr().out)
    assert reference["name"] == "torch float32"
    assert served["parity"]["n_questions"] == N_QUESTIONS
    assert 0 < served["parity"]["max_difference"] < 3
    assert served["parity"]["answers_changed"] <= MANY
    low, high = served["f1_difference_95"]
    assert low <= served["f1"] - reference["f1"] <= high
    assert abs(served["f1"] - reference["f1"]) <= 100 * MANY / N_QUESTIONS
