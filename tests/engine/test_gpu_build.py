"""A build for a GPU: its order of checks, what it writes, and that nothing is written where one fails.

No GPU and no TensorRT are here: what they would compile is stood in for by the very ONNX, run by ONNX Runtime.
"""

import json
import shutil
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from spanqa.cli import main
from spanqa_build import gpu_build
from spanqa_build.comparison import Limits
from spanqa_build.engine import EngineFacts
from spanqa_build.errors import EngineError, GpuError, ParityError, RepositoryError
from spanqa_build.gpu import GpuFacts
from spanqa_build.gpu_build import GpuBuild
from spanqa_build.parity import run_onnx, session_from_onnx
from spanqa_build.targets import target_from_name
from spanqa_training.checkpoint import load_checkpoint

V100 = GpuFacts(
    name="Tesla V100-SXM2-32GB",
    compute_capability="7.0",
    driver="535.183.01",
    free_bytes=32 << 30,
    total_bytes=32 << 30,
)


def build_engine(onnx, target, length, output, *, gpu, timing_caches):
    output.write_bytes(onnx.read_bytes())
    return EngineFacts(
        file=output.name,
        sha256="0" * 64,
        size_bytes=output.stat().st_size,
        length=length,
        largest_batch=target.largest_batch,
        optimal_batch=target.optimal_batch,
        tensorrt="10.4.0",
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        device_memory_bytes=1,
        n_layers=1,
        fused_attention=(),
        latency_ms={1: 1.0},
        tactic_sources=(),
        trials=(),
    )


@contextmanager
def network_from_engines(engines, *, largest_batch):
    yield partial(run_onnx, session_from_onnx(engines[max(engines)]))


@pytest.fixture
def there(monkeypatch):
    """A V100 with the right TensorRT, in appearance."""
    monkeypatch.setattr(gpu_build, "gpu_facts", lambda: V100)
    # A network with random weights has near ties everywhere, which any rounding decides.
    limits = Limits(max_difference=0.5, answers_changed=0.3, f1_loss=30)
    monkeypatch.setattr(gpu_build, "FLOAT16", limits)
    monkeypatch.setattr(gpu_build, "FLOAT16_ROUNDED", limits)
    monkeypatch.setattr(gpu_build, "tensorrt_version", lambda: "10.4.0")
    monkeypatch.setattr(gpu_build, "build_engine", build_engine)
    monkeypatch.setattr(gpu_build, "network_from_engines", network_from_engines)


@pytest.fixture
def build(tiny_model_folder, thirty_questions, tmp_path):
    checkpoint, model = load_checkpoint(tiny_model_folder)

    def made(**changes):
        settings = {
            "checkpoint": checkpoint,
            "model": model,
            "name": "tiny",
            "target": target_from_name("v100"),
            "data": thirty_questions,
            "timing_caches": tmp_path / "timing",
            "quiet": True,
        }
        return GpuBuild(**{**settings, **changes})

    return made


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def config_of(repository, model):
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), pb.ModelConfig())


def test_a_repository_has_an_encoder_a_bucket_and_all_that_was_measured(there, build, tmp_path):
    repository = tmp_path / "repository"
    manifest = build().write(repository)
    assert [bucket.length for bucket in manifest.packing.buckets] == [128, 192, 256]
    for bucket in manifest.packing.buckets:
        config = config_of(repository, bucket.model)
        assert config.platform == "tensorrt_plan"
        assert config.max_batch_size == bucket.max_rows == 16
        assert list(config.instance_group[0].profile) == ["0"]
        assert [spec.batch_size for spec in config.optimization.cuda.graph_spec] == [1, 2, 4, 8]
        assert (repository / bucket.model / "1" / "model.plan").is_file()
        assert (repository / bucket.model / "warmup" / "input_ids").stat().st_size == 4 * bucket.length
    assert (manifest.engine.gpu.name, manifest.engine.tensorrt) == (V100.name, "10.4.0")
    names = [stage["name"] for stage in manifest.encoder["stages"]]
    assert names == ["torch float32", "ONNX float16", "ONNX float16, rounded", "engine"]
    assert manifest.encoder["layer_norm"] == "primitives"
    assert manifest.encoder["float32_tensors"] == []
    assert manifest.encoder["stages"][1]["parity"]["answers_changed"] == 0


def test_a_check_of_what_is_there_comes_before_any_work(there, build, tmp_path, monkeypatch):
    a100 = GpuFacts(name="NVIDIA A100", compute_capability="8.0", driver="535.1", free_bytes=1, total_bytes=1 << 30)
    monkeypatch.setattr(gpu_build, "gpu_facts", lambda: a100)
    with pytest.raises(GpuError, match=r"compute capability 8\.0, and target v100 needs 7\.0.* MiB are needed"):
        build().write(tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("fault", ["engine", "parity", "disk"])
def test_a_build_that_fails_leaves_the_repository_as_it_was(there, build, tmp_path, monkeypatch, fault):
    repository = tmp_path / "repository"
    build().write(repository)
    before = contents(repository)
    if fault == "engine":

        def refuse(*_args, **_kwargs):
            raise EngineError("TensorRT cannot build the engine")

        monkeypatch.setattr(gpu_build, "build_engine", refuse)
    if fault == "parity":

        @contextmanager
        def wrong(engines, *, largest_batch):
            network = partial(run_onnx, session_from_onnx(engines[max(engines)]))
            yield lambda batch: tuple(logits + 3 * (batch.input_ids % 7 == 0) for logits in network(batch))

        monkeypatch.setattr(gpu_build, "network_from_engines", wrong)
    if fault == "disk":

        def full(*_args, **_kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises((EngineError, ParityError, RepositoryError)):
        build().write(repository)
    assert contents(repository) == before


def test_an_activation_beyond_float16_is_kept_in_float32_and_said(there, build, tiny_model_folder, tmp_path):
    _, model = load_checkpoint(tiny_model_folder)
    with torch.no_grad():
        model.layers[0].expand.bias[5] = 100_000.0
        model.layers[0].contract.weight[:, 5] = 0.0
    manifest = build(model=model).write(tmp_path / "repository")
    assert manifest.encoder["float32_tensors"]
    assert manifest.encoder["largest_activation"] > 90_000
    assert manifest.encoder["stages"][1]["parity"]["answers_changed"] == 0


def test_the_command_plans_for_any_gpu_without_one(tiny_model_folder, capsys):
    for target, lengths in (("v100", [128, 192, 256]), ("h100", [128, 192, 256])):
        assert main(["build", "-m", str(tiny_model_folder), "--target", target, "--plan", "--json"]) == 0
        plan = json.loads(capsys.readouterr().out)
        assert plan["lengths"] == lengths
        assert plan["gpu_memory"]["total_bytes"] > 0


def test_the_command_builds_checks_and_rolls_back(
    there, tiny_model_folder, thirty_questions, tmp_path, monkeypatch, capsys
):
    repository = str(tmp_path / "repository")
    build = [
        "build",
        "-m",
        str(tiny_model_folder),
        "--target",
        "v100",
        "--data",
        str(thirty_questions),
        "-o",
        repository,
    ]
    assert main(build) == 0
    told = capsys.readouterr().out
    assert "ONNX float16" in told
    assert "fused attention: none seen" in told
    assert main([*build, "--quiet"]) == 0
    assert main(["build", "--check", repository]) == 0
    assert "model.plan" in capsys.readouterr().out
    assert main(["build", "--rollback", repository]) == 0
    assert "version 3" in capsys.readouterr().out
