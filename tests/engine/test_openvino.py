"""OpenVINO runs the checkpoint's network, side by side and beside any neighbour, and only where it is installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from spanqa import contract, openvino_network
from spanqa.cli import main
from spanqa.cpu_network import CpuEncoder, load_network, network_path
from spanqa.datasets import read_dataset
from spanqa.errors import SpanqaError
from spanqa.manifest import load_manifest
from spanqa.startup import check_machine
from spanqa.windows import WindowMaker, batch_windows
from spanqa_build import cpu_candidates, openvino_export
from spanqa_build.comparison import FLOAT32, Comparison
from spanqa_build.cpu import CpuNetworks
from spanqa_build.cpu_candidates import candidates_from_networks
from spanqa_build.errors import OptimizationError
from spanqa_build.onnx_export import onnx_from_model
from spanqa_build.openvino_export import openvino_from_onnx, precisions_here
from spanqa_build.parity import run_torch
from spanqa_server.server import Server
from spanqa_training.checkpoints.checkpoint import read_checkpoint
from spanqa_training.model import EncoderConfig, SpanModel
from spanqa_training.weights.model_sources import open_model


@pytest.fixture(scope="module")
def repository(tiny_model_folder, thirty_questions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("openvino") / "repository"
    command = ["build", "-m", tiny_model_folder, "-o", folder, "--data", thirty_questions, "--quiet"]
    assert main([str(part) for part in (*command, "--engine", "openvino", "--precision", "float32")]) == 0
    return folder


@pytest.fixture(scope="module")
def manifest(repository):
    return load_manifest(repository / contract.QUESTION_ANSWERING / "1")


@pytest.fixture(scope="module")
def windows(root, tiny_model_folder):
    checkpoint = read_checkpoint(tiny_model_folder)
    pairs = [(example.question, example.context) for example in read_dataset(root / "data" / "heldout200.json")[:8]]
    made = WindowMaker(checkpoint.tokenizer(), checkpoint.windows).windows_of_many(pairs)
    return [(one, index) for one in made for index in range(len(one))]


def test_the_repository_holds_graph_and_weights_and_says_what_runs_them(repository, manifest):
    encoder = manifest.encoder
    assert (encoder["engine"], encoder["variant"], encoder["file"]) == ("openvino", "openvino_float32", "network.xml")
    assert encoder["openvino"].startswith("20")
    assert {f"{contract.ENCODER}/{file}" for file in ("network.xml", "network.bin")} <= set(manifest.artefacts)
    assert not (repository / contract.ENCODER / "1" / "network.onnx").exists()
    assert main(["build", "--check", str(repository)]) == 0


def test_logits_are_the_checkpoints_alone_and_side_by_side(repository, manifest, windows, tiny_model_folder):
    _, model = open_model(str(tiny_model_folder))
    torch_logits = partial(run_torch, model.eval())
    encoder = CpuEncoder(network_path(repository, 1, manifest))
    padded = encoder.run_rows(batch_windows(windows))
    for row, window in enumerate(windows):
        batch = batch_windows([window])
        length = batch.input_ids.shape[1]
        for alone, beside, wanted in zip(
            encoder.run(batch, alone=True),
            (part[row : row + 1, :length] for part in padded),
            torch_logits(batch),
            strict=True,
        ):
            np.testing.assert_allclose(alone, wanted, atol=1e-4, rtol=0)
            np.testing.assert_allclose(beside, wanted, atol=1e-4, rtol=0)
    encoder.close()


def test_threads_do_not_mix_their_results(repository, manifest, windows):
    network = load_network(network_path(repository, 1, manifest), n_threads=1)
    batches = [batch_windows([window]) for window in windows]
    wanted = [network.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(network.run, batches * 10))
    for place, (start, end) in enumerate(found):
        assert np.array_equal(start, wanted[place % len(batches)][0])
        assert np.array_equal(end, wanted[place % len(batches)][1])


@pytest.mark.triton
def test_triton_serves_it_and_answers_as_the_checkpoint_does(repository, tiny_model_folder, thirty_questions):
    checkpoint, model = open_model(str(tiny_model_folder))
    comparison = Comparison(checkpoint, read_dataset(thirty_questions)[:10], partial(run_torch, model.eval()))
    with Server(repository) as server:
        comparison.check(comparison.of_server("served", server.url), FLOAT32)


def test_altered_weights_are_refused(repository, manifest, tmp_path):
    import shutil

    copy = shutil.copytree(repository, tmp_path / "copy")
    weights = copy / contract.ENCODER / "1" / "network.bin"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(SpanqaError, match=r"network\.bin: was altered"):
        network_path(copy, 1, manifest)


def test_where_openvino_is_missing_it_is_one_sentence(manifest, monkeypatch, tiny_model_folder, tmp_path, capsys):
    check_machine(manifest)
    monkeypatch.setattr(openvino_network.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        SpanqaError, match=r"OpenVINO, which is not installed: pip install 'spanqa\[openvino\]', or build"
    ):
        check_machine(manifest)
    assert main(["build", "-m", str(tiny_model_folder), "-o", str(tmp_path / "r"), "--engine", "openvino"]) == 2
    assert "OpenVINO is not installed: pip install 'spanqa[openvino]'" in capsys.readouterr().err
    assert {engine for _, engine, _ in cpu_candidates._offered("auto", "auto")} == {"onnxruntime"}


def test_openvino_writes_nothing_into_the_home_and_calls_nobody(repository, tmp_path):
    """Merely imported, it does both by itself."""
    code = """
import sys
from pathlib import Path
def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"{event} {args}")
sys.addaudithook(refuse)
from spanqa.cpu_network import load_network
load_network(Path(sys.argv[1]), n_threads=1)
assert not [name for name in sys.modules if name.startswith("openvino_telemetry")]
"""
    path = repository / contract.ENCODER / "1" / "network.xml"
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-c", code, str(path)]
    subprocess.run(command, check=True, env={**os.environ, "HOME": str(home)}, timeout=60)
    assert not list(home.iterdir())


def test_what_rounds_is_offered_where_the_cores_have_it_alone(monkeypatch):
    openvino = openvino_network.import_openvino()
    for capabilities, offered in (
        (["FP32"], ("float32",)),
        (["FP32", "INT8"], ("float32", "int8")),
        (["FP32", "BF16", "INT8"], ("float32", "bfloat16", "int8")),
    ):
        monkeypatch.setattr(openvino.Core, "get_property", lambda self, device, name, found=capabilities: found)
        assert precisions_here() == offered


def test_the_file_says_what_it_is_computed_in(tiny_model_folder, tmp_path):
    """Cores without bfloat16 load it all the same, and compute in float32."""
    _, model = open_model(str(tiny_model_folder))
    onnx_from_model(model, tmp_path / "plain.onnx")
    for precision, hint in openvino_export.PRECISIONS.items():
        path = openvino_from_onnx(tmp_path / "plain.onnx", tmp_path / precision, precision=precision)
        compiled = load_network(path, n_threads=1)._compiled
        asked = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        assert asked == (hint if "bfloat16" in precisions_here() else "f32")
        assert precision != "int8" or compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 128


@pytest.fixture
def wide_network(tmp_path):
    """A network of which OpenVINO rounds activations too: those of a layer are at least one group."""
    torch.manual_seed(3)
    shape = {"vocab_size": 30522, "hidden_size": 256, "intermediate_size": 512, "num_layers": 2, "num_heads": 4}
    model = SpanModel(EncoderConfig(**shape, max_positions=256, type_vocab_size=2)).eval()
    onnx_from_model(model, tmp_path / "plain.onnx")
    return model, tmp_path / "plain.onnx"


def error_of(network, exact, batches):
    """Root of the mean squared error of the logits, of their spread."""
    ours, theirs = (
        np.concatenate([np.concatenate(one.run(batch), 1)[0] for batch in batches]) for one in (network, exact)
    )
    return np.sqrt(np.mean((ours - theirs) ** 2)) / np.std(theirs)


def test_int8_rounds_the_weights_of_the_layers_and_where_the_cores_can_activations(
    wide_network, windows, tmp_path, monkeypatch
):
    model, plain = wide_network
    exact = load_network(openvino_from_onnx(plain, tmp_path / "float32", precision="float32"), n_threads=1)
    path = openvino_from_onnx(plain, tmp_path / "int8", precision="int8")
    weights = [one for name, one in model.named_parameters() if "layers" in name and one.dim() == 2]
    assert path.read_text().count('element_type="i8"') == len(weights) == 12
    monkeypatch.setattr(openvino_export, "_GROUP", 0)
    weights_alone = openvino_from_onnx(plain, tmp_path / "weights", precision="int8")
    batches = [batch_windows([window]) for window in windows]
    alone, both = (error_of(load_network(one, n_threads=1), exact, batches) for one in (weights_alone, path))
    assert 0 < alone < 0.1
    assert 0 < both < 0.1
    if re.search(r"\bavx512_vnni\b", Path("/proc/cpuinfo").read_text()):
        assert both != alone


def test_in_int8_a_windows_logits_do_not_hang_on_its_neighbours(wide_network, windows, tmp_path):
    encoder = CpuEncoder(openvino_from_onnx(wide_network[1], tmp_path / "int8", precision="int8"))
    beside = encoder.run_rows(batch_windows(windows))
    for row, window in enumerate(windows):
        for alone, among in zip(encoder.run(batch_windows([window]), alone=True), beside, strict=True):
            assert np.array_equal(alone[0], among[row, : alone.shape[1]])
    encoder.close()


@pytest.mark.parametrize(
    ("engine", "precision", "needed"),
    [
        ("auto", "auto", ["plain", "float32"]),
        ("auto", "int8", []),
        ("onnxruntime", "int8", ["int8"]),
        ("openvino", "int8", ["openvino_int8"]),
        ("openvino", "auto", ["openvino_float32"]),
    ],
)
def test_what_must_pass_is_what_nothing_else_could_take_the_place_of(wide_network, tmp_path, engine, precision, needed):
    networks = CpuNetworks(plain=wide_network[1], float32=tmp_path / "float32.onnx", int8=tmp_path / "int8.onnx")
    made = candidates_from_networks(networks, tmp_path, engine=engine, precision=precision)
    assert [candidate.name for candidate in made if candidate.is_needed] == needed
    assert engine == "onnxruntime" or "openvino_int8" in [candidate.name for candidate in made]


def test_what_openvino_cannot_read_is_one_sentence(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no network")
    with pytest.raises(OptimizationError, match=r"OpenVINO .* cannot read the exported network"):
        openvino_from_onnx(tmp_path / "x.onnx", tmp_path / "out", precision="float32")
    (tmp_path / "network.xml").write_text("<net/>")
    with pytest.raises(SpanqaError, match=r"network\.xml: OpenVINO .* cannot load it"):
        load_network(tmp_path / "network.xml", n_threads=1)


def test_a_plan_and_a_report_name_it(tiny_model_folder, thirty_questions, tmp_path, capsys):
    command = ["build", "-m", tiny_model_folder, "-o", tmp_path / "r", "--data", thirty_questions, "--quiet", "--json"]
    assert main([str(part) for part in command]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "openvino_float32" in report["windows_per_s"]
    assert report["engine"] in cpu_candidates.ENGINES
