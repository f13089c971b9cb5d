"""A key reaches no log, no saved file, no error and no other process's command line; weights reach no disk in plain."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from spanqa.cli import main
from spanqa_training.checkpoints.checkpoint import load_checkpoint

SECRET = "violet-orbit-7391"
SPEC = """\
trainer: {max_epochs: 1, precision: 32, save_every_s: 0}
model: {dataset: {max_seq_length: 128, doc_stride: 48}}
training_ds: {file: '???', batch_size: 8}
validation_ds: {file: '???'}
"""


def files_below(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def holding(folder, content):
    """Files that hold some bytes."""
    return [path for path in files_below(folder) if content in path.read_bytes()]


def arguments_in(folder, checkpoint, questions):
    """The arguments of `spanqa train` into a folder."""
    spec = folder / "spec.yaml"
    spec.write_text(SPEC, encoding="utf-8")
    files = [f"training_ds.file={questions}", f"validation_ds.file={questions}"]
    return ["train", "-e", str(spec), "-m", str(checkpoint), "-r", str(folder / "run"), "--quiet", *files]


@pytest.fixture
def train(tmp_path, tiny_checkpoint, twenty_questions):
    return arguments_in(tmp_path, tiny_checkpoint, twenty_questions)


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory, tiny_checkpoint, twenty_questions):
    """A run that was trained with the key, for tests that read it: what trained it, and its model."""
    folder = tmp_path_factory.mktemp("encrypted")
    train = [*arguments_in(folder, tiny_checkpoint, twenty_questions), "trainer.max_steps=1"]
    assert main([*train, "-k", SECRET]) == 0
    return train, str(folder / "run" / "checkpoints" / "trained-model.tlt")


def command_lines(parent):
    """What the process list shows of a process's descendants, each with its number: two may show the same."""
    shown = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            shown[int(process.name)] = int(fields[1]), (process / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue  # it ended meanwhile
    found, frontier = [], {parent}
    while frontier:
        children = {pid for pid, (of, _) in shown.items() if of in frontier}
        found += [(pid, shown[pid][1]) for pid in children]
        frontier = children
    return found


def test_two_processes_get_the_key_and_nothing_shows_it(train, tmp_path, capfd):
    """The literal form: the one process that the user started shows it, and is told so."""
    seen, ended = set(), threading.Event()

    def look():
        while not ended.wait(0.1):
            seen.update(command_lines(os.getpid()))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        assert main([*train, "-g", "2", "-k", SECRET, "trainer.max_steps=2"]) == 0
    finally:
        ended.set()
        looking.join()
    told = "".join(capfd.readouterr())
    assert len({process for process, line in seen if b"spawn_main" in line}) >= 2
    assert not [line for _, line in seen if SECRET.encode() in line]
    assert SECRET not in told
    assert "give env:NAME or @FILE instead" in told
    assert files_below(tmp_path / "run")
    assert holding(tmp_path / "run", SECRET.encode()) == []


def test_plain_weights_lie_nowhere_on_the_disk(train, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SPANQA_TEST_KEY", SECRET)
    assert main([*train, "-k", "env:SPANQA_TEST_KEY"]) == 0
    assert "note: the key" not in capsys.readouterr().err
    model = tmp_path / "run" / "checkpoints" / "trained-model.tlt"
    from spanqa_training.checkpoints.keys import key_from_argument

    _, loaded = load_checkpoint(model, key=key_from_argument(SECRET, warn=lambda _: None))
    weights = loaded.layers[1].contract.weight.detach().numpy().tobytes()[4096:4160]
    assert any(path.suffix == ".ckpt" for path in files_below(tmp_path / "run"))
    assert (tmp_path / "run" / "state" / "state.pt").is_file()
    assert holding(tmp_path / "run", weights) == []
    assert main([*train[:6], str(tmp_path / "plain"), *train[7:]]) == 0
    assert len(holding(tmp_path / "plain", weights)) >= 2, "without a key they do: the search finds weights"


def test_a_key_in_a_spec_is_used_and_not_saved(train, tmp_path, capsys):
    assert main([*train, f"encryption_key={SECRET}", "trainer.max_steps=1"]) == 0
    assert "@FILE instead" in capsys.readouterr().err
    assert holding(tmp_path / "run", SECRET.encode()) == []
    model = str(tmp_path / "run" / "checkpoints" / "trained-model.tlt")
    questions = train[-1].partition("=")[2]
    assert main(["evaluate", "-m", model, questions]) == 2
    (key_file := tmp_path / "key").write_text(SECRET + "\n", encoding="utf-8")
    os.chmod(key_file, 0o600)
    assert main(["evaluate", "-m", model, questions, "-k", f"@{key_file}", "--quiet"]) == 0


EXPORT = """
import os, pathlib, signal, sys, tempfile
from spanqa.cli import main
from spanqa_build.commands import export

def interrupted(*_args, **_options):
    print(list(pathlib.Path(tempfile.gettempdir()).rglob("network.onnx")), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)

export.checked_parity = interrupted
main(sys.argv[1:])
"""


def test_a_terminated_export_leaves_no_network_in_plain(tiny_checkpoint, tmp_path):
    (scratch := tmp_path / "scratch").mkdir()
    arguments = ["export", "-m", str(tiny_checkpoint), "-k", SECRET, "-r", str(tmp_path / "r"), "export_format=ONNX"]
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, *arguments],
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "network.onnx" in done.stdout, done.stderr
    assert done.returncode == 143
    assert "Traceback" not in done.stderr
    assert list(scratch.rglob("network.onnx*")) == []


@pytest.mark.parametrize("wrong", ["another-key", f"{SECRET} ", SECRET.upper()])
def test_a_wrong_key_is_one_line_in_every_command_that_reads(encrypted, twenty_questions, tmp_path, capsys, wrong):
    train, model = encrypted
    questions = str(twenty_questions)
    commands = [
        ["evaluate", "-m", model, questions],
        ["infer", "-m", model, "-r", str(tmp_path / "out"), f"infer_ds.file={questions}"],
        ["finetune", "-m", model, "-r", str(tmp_path / "out"), f"finetuning_ds.file={questions}"],
        ["export", "-m", model, "-r", str(tmp_path / "out"), "export_format=ONNX"],
        ["build", "-m", model, "-o", str(tmp_path / "repository")],
        train,
    ]
    for command in commands:
        capsys.readouterr()
        assert main([*command, "-k", wrong]) == 2, command
        error = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert len(error) == 1
        assert "was encrypted with another key: give that one with -k" in error[0]
        assert wrong not in error[0]
