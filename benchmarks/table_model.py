"""A model repository whose network is a table of logits: everything served is real but the arithmetic."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from bench_setting import ROOT
from onnx import TensorProto, helper, numpy_helper

from spanqa import contract
from spanqa.manifest import MANIFEST_FILE, Artefact, load_manifest, manifest_json
from spanqa.startup import sha256_of, versions_in
from spanqa.windows import WindowSettings
from spanqa_build.repository import Network, manifest_from_checkpoint, write_repository
from spanqa_build.versions import add_version
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.model import EncoderConfig

VOCABULARY = 30522
TOKENIZER = ROOT / "training" / "checkpoints" / "spanqa-minilm" / "tokenizer.json"
SHAPE = ["rows", "length"]


def _write_network(path: Path, seed: int) -> None:
    """Write a network that gives each word piece its start and end logit, whatever stands around it."""
    start, end = np.random.default_rng(seed).normal(size=(2, VOCABULARY)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["start", "input_ids"], ["start_logits"]),
            helper.make_node("Gather", ["end", "input_ids"], ["end_logits"]),
        ],
        "table",
        [helper.make_tensor_value_info(t.name, TensorProto.INT32, SHAPE) for t in contract.ENCODER_INPUTS],
        [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, SHAPE) for t in contract.ENCODER_OUTPUTS],
        [numpy_helper.from_array(start, "start"), numpy_helper.from_array(end, "end")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


SMALL = WindowSettings(max_seq_length=128, doc_stride=32, max_query_length=40)


def write_table_repository(folder: Path, *, seed: int = 1, windows: WindowSettings = SMALL) -> int:
    """Add a version with the table of a seed to a repository, and give its number."""
    checkpoint = Checkpoint(
        encoder=EncoderConfig(
            vocab_size=VOCABULARY, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8, max_positions=512
        ),
        tokenizer_json=TOKENIZER.read_text(encoding="utf-8"),
        windows=windows,
        provenance={"source": "a table"},
    )
    with tempfile.TemporaryDirectory(prefix="spanqa-table-") as work:
        path = Path(work) / "network.onnx"
        _write_network(path, seed)
        network = Network(path=path, precision="float32", facts={"seed": seed})
        return write_repository(
            folder.resolve(), manifest_from_checkpoint(checkpoint, network, name="table"), checkpoint, network
        )


def add_same_version(folder: Path) -> int:
    """Add a version with the files of the newest to a repository, and give its number: its answers are the same."""
    folder = folder.resolve()
    newest = versions_in(folder / contract.QUESTION_ANSWERING)[-1]
    manifest = load_manifest(folder / contract.QUESTION_ANSWERING / str(newest))
    files: dict[str, Path | bytes] = {
        f"{model}/{path.name}": path
        for model in manifest.models
        for path in (folder / model / str(newest)).glob("[!._]*")
        if path.name != MANIFEST_FILE
    }
    return add_version(folder, manifest, files, {})


def seal_again(folder: Path, version: int) -> None:
    """Make a repository's manifest describe the files as they lie there, after they were changed on purpose."""
    place = folder / contract.QUESTION_ANSWERING / str(version)
    manifest = load_manifest(place)
    artefacts = {
        name: _artefact(folder / name.partition("/")[0] / str(version) / name.partition("/")[2])
        for name in manifest.artefacts
    }
    configs = {name: _artefact(folder / name) for name in manifest.configs}
    (place / MANIFEST_FILE).write_text(manifest_json(replace(manifest, artefacts=artefacts, configs=configs)), "utf-8")


def _artefact(path: Path) -> Artefact:
    return Artefact(sha256=sha256_of(path), size_bytes=path.stat().st_size)
