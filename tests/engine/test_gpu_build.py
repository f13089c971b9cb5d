"""A build for a GPU: its order of checks, what it writes, and that nothing is written where one fails.

No GPU and no TensorRT are here: what they would compile is stood in for by the very ONNX, run by ONNX Runtime.
"""

import dataclasses
import json
import shutil
import subprocess
import sys
from contextlib import contextmanager
from functools import partial

import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from spanqa.cli import main
from spanqa.packing import Bucket
from spanqa.squad import Example
from spanqa.windows import WindowMaker
from spanqa_build import gpu_build
from spanqa_build.comparison import Limits
from spanqa_build.engine import EngineFacts
from spanqa_build.errors import EngineError, GpuError, ParityError, RepositoryError
from spanqa_build.gpu import GpuFacts
from spanqa_build.gpu_build import GpuBuild
from spanqa_build.onnx_gpu import check_cuda_provider
from spanqa_build.parity import run_onnx, session_from_onnx
from spanqa_build.plan import ENGINES
from spanqa_build.targets import target_from_name
from spanqa_build.warmup import warmup_from_examples
from spanqa_training.checkpoints.checkpoint import load_checkpoint

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


def pretend(patch):
    """Put a V100 with the right TensorRT there, in appearance."""
    patch.setattr(gpu_build, "gpu_facts", lambda: V100)
    # A network with random weights has near ties everywhere, which any rounding decides.
    limits = Limits(max_difference=0.5, answers_changed=0.3, f1_loss=30)
    patch.setattr(gpu_build, "FLOAT16", limits)
    patch.setattr(gpu_build, "FLOAT16_ROUNDED", limits)
    patch.setattr(gpu_build, "tensorrt_version", lambda: "10.4.0")
    patch.setattr(gpu_build, "build_engine", build_engine)
    patch.setattr(gpu_build, "network_from_engines", network_from_engines)
    patch.setattr(gpu_build, "check_cuda_provider", lambda: None)
    patch.setattr(gpu_build, "cuda_network", lambda path: partial(run_onnx, session_from_onnx(path)))


@pytest.fixture
def there(monkeypatch, exported_once):
    pretend(monkeypatch)


@pytest.fixture
def no_work(monkeypatch):
    """Nothing of the work itself may be begun."""
    for name in ("questions_to_check", "Comparison", "fused_float16_from_model", "float16_network_from_windows"):
        monkeypatch.setattr(gpu_build, name, lambda *_args, name=name, **_kwargs: pytest.fail(f"{name} was called"))


@pytest.fixture(scope="module")
def build(tiny_model_folder, thirty_questions, tmp_path_factory):
    checkpoint, model = load_checkpoint(tiny_model_folder)

    def made(**changes):
        settings = {
            "checkpoint": checkpoint,
            "model": model,
            "name": "tiny",
            "target": target_from_name("v100"),
            "data": thirty_questions,
            "timing_caches": tmp_path_factory.mktemp("timing"),
            "quiet": True,
        }
        return GpuBuild(**{**settings, **changes})

    return made


@pytest.fixture(scope="module")
def built(build, exported_once, tmp_path_factory):
    """A repository that was built, and its manifest: tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("built") / "repository"
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch)
        return folder, build().write(folder)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def config_of(repository, model):
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), pb.ModelConfig())


def test_a_repository_has_an_encoder_a_bucket_and_all_that_was_measured(built):
    repository, manifest = built
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


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"compute_capability": "8.0"}, r"compute capability 8\.0, and target v100 needs 7\.0"),
        ({"driver": "470.57.02"}, r"NVIDIA's driver is 470\.57\.02"),
        ({"free_bytes": 1 << 20}, r"1 MiB of the GPU's .* are free"),
    ],
)
def test_both_engines_need_the_gpu_its_driver_and_its_memory(
    there, no_work, build, tmp_path, monkeypatch, engine, wrong, words
):
    monkeypatch.setattr(gpu_build, "gpu_facts", lambda: dataclasses.replace(V100, **wrong))
    with pytest.raises(GpuError, match=words):
        build(engine=engine).write(tmp_path / "repository")


def test_onnx_runtime_needs_no_tensorrt_and_is_bound_to_no_gpu_but_says_where_it_was_measured(
    there, build, tmp_path, monkeypatch
):
    monkeypatch.setattr(gpu_build, "tensorrt_version", lambda: pytest.fail("TensorRT was asked for"))
    manifest = build(engine="onnxruntime").write(tmp_path / "repository")
    assert (manifest.engine.platform, manifest.engine.gpu, manifest.engine.tensorrt) == ("onnxruntime_onnx", None, None)
    assert manifest.encoder["measured_on"] == {"name": V100.name, "compute_capability": "7.0", "driver": V100.driver}
    assert main(["build", "--check", str(tmp_path / "repository")]) == 0


def test_without_a_cuda_provider_nothing_is_begun(there, no_work, build, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_build, "check_cuda_provider", check_cuda_provider)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ParityError, match="has no CUDAExecutionProvider"):
        build(engine="onnxruntime").write(tmp_path / "repository")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_output_that_is_something_else_is_refused_before_anything_is_begun(
    there, no_work, build, tmp_path, monkeypatch, engine
):
    monkeypatch.setattr(gpu_build, "gpu_facts", lambda: pytest.fail("the GPU was asked"))
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").touch()
    with pytest.raises(RepositoryError, match="holds something else than a model repository"):
        build(engine=engine).write(tmp_path / "letters")


def test_a_bucket_that_no_question_fits_is_warmed_up_with_the_head_of_one(tiny_model_folder):
    checkpoint, _ = load_checkpoint(tiny_model_folder)
    maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
    context = "The tower of Crete was built long ago by masons. " * 18
    example = Example(id="1", question="Who built it?", title="", context=context, answers=(), paragraph=0)
    buckets = [Bucket(length=length, model=f"encoder_{length}", max_rows=1) for length in (128, 192, 256)]
    warmup = warmup_from_examples(maker, [example], buckets)
    assert {model: batch.input_ids.shape for model, batch in warmup.items()} == {
        "encoder_128": (1, 128),
        "encoder_192": (1, 192),
        "encoder_256": (1, 256),
    }
    whole = warmup["encoder_256"].input_ids
    for length in (128, 192):
        batch = warmup[f"encoder_{length}"]
        assert (batch.input_ids == whole[:, :length]).all()
        assert batch.attention_mask.all()


def test_warm_up_is_chosen_before_torch_is_asked_and_engines_are_built(there, build, tmp_path, monkeypatch):
    def refuse(*_args):
        raise RepositoryError("chosen")

    monkeypatch.setattr(gpu_build, "warmup_from_examples", refuse)
    monkeypatch.setattr(gpu_build, "Comparison", lambda *_args, **_kwargs: pytest.fail("torch was asked"))
    with pytest.raises(RepositoryError, match="chosen"):
        build().write(tmp_path / "repository")


def test_the_inputs_of_perf_analyzer_are_of_the_buckets_that_have_windows(built, root, tmp_path):
    repository, _ = built
    short = tmp_path / "short.json"
    question = {"id": "1", "question": "Who built it?", "answers": [{"text": "masons", "answer_start": 3}]}
    document = {"data": [{"title": "", "paragraphs": [{"context": "By masons.", "qas": [question]}]}]}
    short.write_text(json.dumps(document), encoding="utf-8")
    script, options = root / "benchmarks" / "gpu_report.py", ["--repository", str(repository), "--data", str(short)]
    command = [sys.executable, str(script), "inputs", *options, "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "128\n"), done.stderr
    assert [line.split(": ", 1)[1] for line in done.stderr.splitlines()] == [
        "no window of 129 to 192 tokens: not measured",
        "no window of 193 to 256 tokens: not measured",
    ]
    (row,) = json.loads((tmp_path / "inputs_128.json").read_text())["data"]
    assert {tuple(tensor["shape"]) for tensor in row.values()} == {(128,)}
    assert not (tmp_path / "inputs_192.json").exists()


@pytest.mark.parametrize("fault", ["engine", "parity", "disk"])
def test_a_build_that_fails_leaves_the_repository_as_it_was(there, build, built, tmp_path, monkeypatch, fault):
    repository = tmp_path / "repository"
    shutil.copytree(built[0], repository)
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


def test_the_plan_of_the_command_has_what_was_given(tiny_model_folder, thirty_questions, capsys):
    options = ["--engine", "onnxruntime", "-k", "env:THE_KEY", "--data", str(thirty_questions)]
    assert main(["build", "-m", str(tiny_model_folder), "--target", "v100", "--plan", "--json", *options]) == 0
    command = json.loads(capsys.readouterr().out)["commands"][1]
    assert "--engine onnxruntime -k env:THE_KEY --data /mnt/data/thirty.json" in command


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
