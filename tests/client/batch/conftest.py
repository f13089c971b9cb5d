"""Batches over a network that is a table of logits: everything is real but the arithmetic."""

import importlib
import json
import os
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pyarrow import parquet

from spanqa import contract
from spanqa.cli import main
from spanqa.manifest import Artefact, Manifest, manifest_json
from spanqa.spans import DecodeSettings
from spanqa.startup import sha256_of
from spanqa.windows import WindowSettings

CONTEXT = "The old tower stands near the river. The bridge was built by two people, and the king live there."
CONFIG = 'parameters {\n  key: "max_context_bytes"\n  value {\n    string_value: "2000"\n  }\n}\n'
LONGEST_S = 60


def write_network(path, vocab_size, seed):
    """A network that gives each word piece its start and end logit, whatever stands around it."""
    start, end = np.random.default_rng(seed).normal(size=(2, vocab_size)).astype(np.float32)
    shape = ["rows", "length"]
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["start", "input_ids"], ["start_logits"]),
            helper.make_node("Gather", ["end", "input_ids"], ["end_logits"]),
        ],
        "table",
        [helper.make_tensor_value_info(tensor.name, TensorProto.INT32, shape) for tensor in contract.ENCODER_INPUTS],
        [helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, shape) for tensor in contract.ENCODER_OUTPUTS],
        [numpy_helper.from_array(start, "start"), numpy_helper.from_array(end, "end")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


@pytest.fixture(scope="session")
def write_repository(tokenizer):
    """Writes a repository whose network is the table of a seed, with small windows: short texts need several."""

    def write(folder, *, seed=1, **settings):
        main_entry, encoder = folder / contract.QUESTION_ANSWERING, folder / contract.ENCODER
        for model in (main_entry, encoder):
            (model / "1").mkdir(parents=True)
        (main_entry / "config.pbtxt").write_text(f'name: "question_answering"\n{CONFIG}')
        (main_entry / "1" / "tokenizer.json").write_text(tokenizer.serialized, encoding="utf-8")
        network = encoder / "1" / "network.onnx"
        write_network(network, tokenizer.vocab_size, seed)
        manifest = Manifest(
            tokenizer_sha256=tokenizer.sha256,
            windows=WindowSettings(max_seq_length=32, doc_stride=8, max_query_length=8),
            decode=DecodeSettings(no_answer_threshold=-2.0, word_boundaries=True),
            artefacts={"encoder/network.onnx": Artefact(sha256=sha256_of(network), size_bytes=network.stat().st_size)},
            **settings,
        )
        (main_entry / "1" / "manifest.json").write_text(manifest_json(manifest), encoding="utf-8")
        return folder

    return write


@pytest.fixture(scope="session")
def repository(write_repository, tmp_path_factory):
    return write_repository(tmp_path_factory.mktemp("batch") / "repository")


def row_of(number):
    """A row that has its number in its context, and asks for it."""
    return {"id": f"q{number}", "question": f"Where is w{number}?", "context": f"{CONTEXT} Here is w{number}."}


@pytest.fixture
def rows():
    return row_of


@pytest.fixture
def write_lines(tmp_path):
    """Writes rows, or lines that are none, as JSON Lines."""

    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def batch(capsys):
    """Runs `spanqa batch` in this process: gives its status, what it printed as JSON or as text, and its errors."""

    def run(*arguments):
        status = main(["batch", *map(str, arguments), "--quiet"])
        captured = capsys.readouterr()
        out = json.loads(captured.out) if captured.out.startswith("{") else captured.out
        return status, out, captured.err

    return run


class Folder:
    """What a batch has written."""

    def __init__(self, path):
        self.path = path

    @property
    def parts(self):
        return sorted(self.path.glob("part-*.parquet"))

    def answers(self):
        return [row for part in self.parts for row in parquet.ParquetFile(part).read().to_pylist()]

    def ids(self):
        return [row["id"] for row in self.answers()]

    def failures(self):
        return [json.loads(line) for line in (self.path / "failures.jsonl").read_text("utf-8").splitlines()]

    def summary(self):
        return json.loads((self.path / "summary.json").read_text())

    def require_once(self, ids):
        """Every id stands in one part, once, and nothing else does; nothing unfinished is left."""
        assert Counter(self.ids()) == Counter(ids)
        assert not list(self.path.glob(".*.new"))


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / "answers")


@pytest.fixture
def started():
    """Starts `spanqa batch` in a group of processes of its own; what is left of it at the end is killed."""
    processes = []

    def start(*arguments, python=("-m", "spanqa.cli"), **environment):
        process = subprocess.Popen(
            [sys.executable, *python, "batch", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def wait_for():
    """Waits until something holds, or the process has ended before."""

    def wait(condition, process, *, longest_s=LONGEST_S):
        deadline = time.monotonic() + longest_s
        while not condition() and process.poll() is None:
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.002)

    return wait


STRANGE_PLAN = """
import os
import time
from dataclasses import dataclass

from spanqa.errors import SpanqaError
from spanqa_client.batch.rows import Settled


@dataclass(frozen=True)
class StrangePlan:
    fault: str = ""
    pause_s: float = 0.0

    def open(self):
        if self.fault:
            raise SpanqaError(self.fault)
        return self

    def ask(self, rows):
        for row in rows:
            if row.question == "fatal":
                os._exit(9)
            time.sleep(self.pause_s)
            yield Settled(row.number, row.id, {"text": str(os.getpid())})
"""


@pytest.fixture
def strange_plan(tmp_path, monkeypatch):
    """A plan whose processes die at the question "fatal", and answer with their ids; a module that they can import."""
    (tmp_path / "strange_plan.py").write_text(STRANGE_PLAN)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("strange_plan").StrangePlan
    del sys.modules["strange_plan"]
