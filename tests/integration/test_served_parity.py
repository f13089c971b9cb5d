"""What the server answers is held against the checkpoint in torch, on real questions."""

import json

from spanqa.cli import main


def test_a_running_server_is_held_against_its_checkpoint(server, capsys):
    """The shipped network is int8: near, and not the same."""
    model = "training/checkpoints/spanqa-minilm"
    assert main(["build", "-m", model, "--served", server.url, "--json", "--quiet"]) == 0
    reference, served = json.loads(capsys.readouterr().out)
    assert reference["name"] == "torch float32"
    assert served["parity"]["n_questions"] == 200
    assert 0 < served["parity"]["max_difference"] < 3
    assert served["parity"]["answers_changed"] <= 20
    low, high = served["f1_difference_95"]
    assert low <= served["f1"] - reference["f1"] <= high
    assert abs(served["f1"] - reference["f1"]) < 3
