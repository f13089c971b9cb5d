"""Several processes meet on a port that nobody else has."""

import os

import pytest

from spanqa_training.run import launch
from spanqa_training.spec.schema import TrainerSpec


@pytest.fixture
def fabrics(monkeypatch):
    """A Fabric that leaves its port behind as Lightning's does, and fails as often as it is told."""
    monkeypatch.delenv("MASTER_PORT", raising=False)
    made = []

    class Fabric:
        failures = 0
        message = "The server socket has failed to listen: EADDRINUSE"

        def __init__(self, **_settings):
            made.append(os.environ.get("MASTER_PORT"))

        def launch(self, function, parcel):
            os.environ["MASTER_PORT"] = "1"
            if len(made) <= Fabric.failures:
                raise RuntimeError(Fabric.message)
            return function(self, parcel)

    monkeypatch.setattr(launch, "Fabric", Fabric)
    Fabric.made = made
    return Fabric


def run(value=7):
    return launch.run_processes(TrainerSpec(gpus=2, accelerator="cpu"), lambda fabric, value: value, value)


def test_each_run_finds_a_port_of_its_own(fabrics):
    assert (run(), run()) == (7, 7)
    assert fabrics.made == [None, None]
    assert "MASTER_PORT" not in os.environ


def test_a_port_that_another_program_took_is_tried_anew(fabrics):
    fabrics.failures = 2
    assert run() == 7
    assert fabrics.made == [None] * 3


@pytest.mark.parametrize(("message", "n_tries"), [("EADDRINUSE", 3), ("out of memory", 1)])
def test_what_does_not_pass_is_told(fabrics, message, n_tries):
    fabrics.failures, fabrics.message = 9, message
    with pytest.raises(RuntimeError, match=message):
        run()
    assert len(fabrics.made) == n_tries


def test_a_port_that_was_given_is_kept(fabrics, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "2")
    fabrics.failures = 9
    with pytest.raises(RuntimeError):
        run()
    assert fabrics.made == ["2"]
