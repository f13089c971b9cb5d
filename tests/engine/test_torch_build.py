"""A build with torch: what it chooses, holds against the checkpoint and writes, and what it refuses in one line."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from google.protobuf import text_format
from safetensors.torch import load_file
from tritonclient.grpc import model_config_pb2 as pb

from spanqa import contract
from spanqa.cli import main
from spanqa.manifest import load_manifest
from spanqa.windows import WindowMaker
from spanqa_build import gpu_build, torch_engine
from spanqa_build.comparison import Limits
from spanqa_build.cpu_speed import sampled_batches
from spanqa_build.errors import BuildError, GpuError, ParityError, PrecisionError
from spanqa_build.gpu import GpuFacts
from spanqa_build.gpu_build import GpuBuild
from spanqa_build.plan import plan_from
from spanqa_build.targets import all_targets, target_from_name
from spanqa_build.torch_engine import choose_dtype
from spanqa_build.torch_scan import scan_modules
from spanqa_server.repository import models_of
from spanqa_training.checkpoints.checkpoint import load_checkpoint
from spanqa_training.errors import RunError
from spanqa_training.model import EncoderConfig, SpanModel

T4 = GpuFacts(name="Tesla T4", compute_capability="7.5", driver="580.82.07", free_bytes=15 << 30, total_bytes=16 << 30)
A100 = replace(T4, name="NVIDIA A100", compute_capability="8.0")
ENCODERS = ("encoder_128", "encoder_192", "encoder_256")


@pytest.fixture(scope="module")
def small_target():
    """A T4 with few rows, which a CPU runs in no time."""
    return replace(target_from_name("t4"), largest_batch=4, optimal_batch=2, graph_batches=(1, 2), instances=2)


@pytest.fixture(scope="module")
def build(tiny_model_folder, thirty_questions, small_target):
    checkpoint, model = load_checkpoint(tiny_model_folder)

    def made(**changes):
        settings = {"model": model, "target": small_target, "engine": "torch", "device": "cpu", **changes}
        return GpuBuild(checkpoint=checkpoint, name="tiny", data=thirty_questions, quiet=True, **settings)

    return made


@pytest.fixture(scope="module")
def built(build, tmp_path_factory):
    """A repository for the CPU."""
    folder = tmp_path_factory.mktemp("torch") / "repository"
    build().write(folder)
    return folder


def config_of(repository, model):
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), pb.ModelConfig())


def manifest_of(repository, version=1):
    return load_manifest(repository / contract.QUESTION_ANSWERING / str(version))


def test_a_repository_has_an_encoder_a_bucket_of_one_file_of_weights(built):
    manifest = manifest_of(built)
    assert manifest.packing.encoders == ENCODERS
    for bucket in manifest.packing.buckets:
        config = config_of(built, bucket.model)
        assert (config.backend, config.platform, config.max_batch_size) == ("python", "", 4)
        assert [list(tensor.dims) for tensor in (*config.input, *config.output)] == [[bucket.length]] * 5
        assert [group.kind for group in config.instance_group] == [pb.ModelInstanceGroup.KIND_CPU]
        assert config.HasField("dynamic_batching")
        assert [sample.batch_size for sample in config.model_warmup] == [1, 4]
        assert (built / bucket.model / "1" / "model.py").is_file()
    files = {(built / name / "1" / "model.safetensors").stat().st_ino for name in ENCODERS}
    assert len(files) == 1
    assert not list(built.rglob("*.onnx"))


def test_the_manifest_says_how_it_runs_and_how_near_it_is(built, build):
    manifest = manifest_of(built)
    engine = manifest.engine
    assert (engine.platform, engine.device, engine.dtype, engine.gpu) == ("torch", "cpu", "float32", None)
    assert (engine.graph_rows, engine.instances) == ((1, 2, 4), 1)
    assert manifest.encoder["precision"] == "float32"
    assert manifest.encoder["architecture"]["num_layers"] == 2
    reference, served = manifest.encoder["stages"]
    assert (reference["name"], served["name"]) == ("torch float32", "torch float32, cpu")
    assert served["parity"]["max_difference"] < 1e-4
    assert served["parity"]["answers_changed"] == 0


def test_the_commands_build_check_and_roll_back(tiny_model_folder, thirty_questions, built, tmp_path, capsys):
    folder = tmp_path / "repository"
    shutil.copytree(built, folder)
    options = ["-m", str(tiny_model_folder), "--target", "v100", "--engine", "torch", "--device", "cpu"]
    assert main(["build", *options, "--data", str(thirty_questions), "-o", str(folder), "--quiet"]) == 0
    assert "torch float32, cpu" in capsys.readouterr().out
    assert manifest_of(folder, 2).engine.graph_rows == (1, 2, 4, 8, 16)
    assert main(["build", "--check", str(folder)]) == 0
    assert capsys.readouterr().out.endswith("target v100: torch in float32 on a CPU\n")
    assert main(["build", "--rollback", str(folder)]) == 0
    assert manifest_of(folder, 3).engine.graph_rows == (1, 2, 4)
    path = folder / "encoder_192" / "3" / "model.safetensors"
    path.unlink()
    path.write_bytes((built / "encoder_192" / "1" / "model.safetensors").read_bytes()[:-1] + b"!")
    assert main(["build", "--check", str(folder)]) == 2
    assert "encoder_192/3/model.safetensors: was altered" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "cpu"], "--device cpu is of --engine torch: give --target v100, t4, a100, h100 and --engine"),
        (["--device", "cuda", "--target", "t4"], "--device cuda is of --engine torch"),
        (["--device", "cpu", "--target", "t4", "--engine", "tensorrt"], "--device cpu is of --engine torch"),
        (["--engine", "torch"], "--engine torch is for GPUs: name one with --target"),
        (["--engine", "torch", "--device", "cpu"], "--engine torch is for GPUs: name one with --target"),
        (["--device", "tpu", "--target", "t4", "--engine", "torch"], "invalid choice: 'tpu'"),
        (["--target", "t4", "--engine", "torch", "--precision", "int8"], "--precision int8 is for --target cpu"),
        (["--target", "t4", "--engine", "torch", "--rehearse"], "--rehearse is of TensorRT's engines"),
    ],
)
def test_options_that_mean_nothing_together_are_one_line(tiny_model_folder, tmp_path, capsys, options, words):
    try:
        status = main(["build", "-m", str(tiny_model_folder), "-o", str(tmp_path / "repository"), *options])
    except SystemExit as error:  # argparse's own
        status = error.code
    said = capsys.readouterr().err
    assert (status, said.count("\n")) == (2, 1)
    assert words in said


def test_another_engine_than_torch_needs_a_gpu(build):
    with pytest.raises(BuildError, match="the engine tensorrt runs on a GPU alone, not on cpu: give torch"):
        build(engine="tensorrt")


@pytest.fixture
def on_a_gpu(monkeypatch):
    """A T4, in appearance: what it would run, the CPU runs, in the same precision."""
    load = torch_engine.network_from_file
    asked = []

    def on_the_cpu(path, architecture, *, device, **settings):
        asked.append((device, settings["dtype"]))
        return load(path, architecture, device="cpu", **settings)

    monkeypatch.setattr(gpu_build, "gpu_facts", lambda: T4)
    monkeypatch.setattr(gpu_build, "check_device", lambda device: None)
    monkeypatch.setattr(gpu_build, "check_same_gpu", lambda gpu: None)
    monkeypatch.setattr(torch_engine, "network_from_file", on_the_cpu)
    # A network with random weights has near ties everywhere, which any rounding decides.
    limits = Limits(max_difference=0.5, answers_changed=0.3, f1_loss=30)
    monkeypatch.setattr(torch_engine, "LIMITS", {"float16": limits, "bfloat16": limits})
    return asked


def test_a_build_for_a_gpu_writes_float16_and_says_where_it_was_measured(
    on_a_gpu, build, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    folder = tmp_path / "repository"
    manifest = build(device="cuda").write(folder)
    assert set(on_a_gpu) == {("cuda", "float16")}
    assert (manifest.engine.device, manifest.engine.dtype, manifest.engine.instances) == ("cuda", "float16", 2)
    assert manifest.encoder["measured_on"] == {"name": "Tesla T4", "compute_capability": "7.5", "driver": T4.driver}
    assert manifest.encoder["largest_activation"] > 0
    (group,) = config_of(folder, "encoder_192").instance_group
    assert (group.kind, group.count) == (pb.ModelInstanceGroup.KIND_GPU, 2)
    weights = load_file(folder / "encoder_192" / "1" / "model.safetensors")
    assert {weight.dtype for name, weight in weights.items() if not name.startswith("head.")} == {torch.float16}
    assert weights["head.weight"].dtype == torch.float32
    assert main(["build", "--check", str(folder)]) == 0
    # Served without a GPU it is one sentence, before Triton starts.
    capsys.readouterr()
    assert main(["serve", "--repository", str(folder)]) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert said.startswith("spanqa: error: the encoders run with torch on a GPU, and here ")


def test_what_the_gpu_lacks_is_said_before_any_work(on_a_gpu, build, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_build, "questions_to_check", lambda _data: pytest.fail("work was begun"))
    for wrong, words in (
        ({"compute_capability": "8.0"}, r"compute capability 8\.0, and target t4 needs 7\.5"),
        ({"driver": "470.57.02"}, r"driver is 470\.57\.02, and torch==2\.13\.0 needs >=580\.65\.06"),
        ({"free_bytes": 1 << 20}, "1 MiB of the GPU's .* are free"),
    ):
        monkeypatch.setattr(gpu_build, "gpu_facts", lambda wrong=wrong: replace(T4, **wrong))
        with pytest.raises(GpuError, match=words):
            build(device="cuda").write(tmp_path / "repository")
    monkeypatch.setattr(gpu_build, "gpu_facts", lambda: T4)

    def refuse(device):
        raise RunError(f"torch cannot compute on {device}")

    def refuse_other(gpu):
        raise GpuError(f"torch sees another than {gpu.name}")

    with monkeypatch.context() as patch:
        patch.setattr(gpu_build, "check_same_gpu", refuse_other)
        with pytest.raises(GpuError, match="torch sees another than Tesla T4"):
            build(device="cuda").write(tmp_path / "repository")
    monkeypatch.setattr(gpu_build, "check_device", refuse)
    with pytest.raises(RunError, match="torch cannot compute on cuda:0"):
        build(device="cuda").write(tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_a_network_that_answers_otherwise_is_not_written(on_a_gpu, build, tmp_path, monkeypatch):
    load = torch_engine.network_from_file

    def wrong(path, architecture, **settings):
        network = load(path, architecture, **settings)
        with torch.no_grad():
            network._model.head.weight.mul_(-1)
        return network

    monkeypatch.setattr(torch_engine, "network_from_file", wrong)
    with pytest.raises(ParityError, match=r"torch float16, cuda against torch: .*: nothing is written"):
        build(device="cuda").write(tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


@pytest.fixture(scope="module")
def batches(tiny_model_folder, real_questions):
    checkpoint, _ = load_checkpoint(tiny_model_folder)
    maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
    pairs = [(example.question, example.context) for example in real_questions[:5]]
    return sampled_batches(maker.windows_of_many(pairs))


@pytest.mark.parametrize("what", ["activation", "weight"])
def test_what_float16_cannot_hold_is_bfloat16_where_the_gpu_has_it_and_refused_where_not(
    tiny_model_folder, batches, what
):
    _, model = load_checkpoint(tiny_model_folder)
    assert choose_dtype(model, batches, T4)[0] == "float16"
    with torch.no_grad():
        if what == "activation":
            model.layers[0].expand.bias[5] = 60_000.0
        else:
            model.embeddings.word.weight[30_000] = 70_000.0  # a word piece that no window has
    assert choose_dtype(model, batches, A100)[0] == "bfloat16"
    with pytest.raises(PrecisionError, match=r"come near float16's range, and Tesla T4 .*: use --engine tensorrt"):
        choose_dtype(model, batches, T4)
    assert choose_dtype(model, batches, None) == ("float32", None)


def test_every_sum_of_both_families_is_scanned(batches):
    for family in ("post", "pre"):
        config = EncoderConfig(
            vocab_size=30522, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64, layer_norm=family
        )
        model = SpanModel(config).eval()
        largest = scan_modules(model, batches).largest
        assert {"layers.1.feed_forward_norm.input", "layers.1.attention_norm.input", "layers.1"} <= largest.keys()
        assert ("embeddings.norm.input" in largest) is (family == "post")
        with torch.no_grad():  # a residual stream that only the sums show: each part of it is half as large
            model.layers[0].attention.output.bias[3] = 20_000.0
            model.layers[0].contract.bias[3] = 20_000.0
        found = scan_modules(model, batches)
        assert ("layers.0" in found.float32_tensors) is (family == "pre")
        assert 15_000 < found.largest["layers.0.attention.output"] < 25_000


def test_a_network_that_is_not_finite_is_refused(batches):
    config = EncoderConfig(vocab_size=30522, hidden_size=32, num_layers=1, num_heads=4, intermediate_size=64)
    model = SpanModel(config).eval()
    with torch.no_grad():
        model.layers[0].expand.weight[0, 0] = float("nan")
    with pytest.raises(PrecisionError, match="not finite even in float32"):
        scan_modules(model, batches)
    with pytest.raises(PrecisionError, match="no windows to scan"):
        scan_modules(model, [])


@pytest.mark.parametrize("name", [name for name, target in all_targets().items() if target.is_gpu])
def test_a_plan_needs_no_container_and_every_process_of_torch_its_own_memory(tiny_model_folder, name):
    checkpoint, _ = load_checkpoint(tiny_model_folder)
    target = target_from_name(name)
    plan = plan_from(checkpoint, target, engine="torch")
    assert not [command for command in plan.commands if "docker" in command]
    assert plan.commands[0] == "make setup"
    assert plan.commands[-2:] == (
        f"spanqa build -m CHECKPOINT --target {name} --engine torch -o REPOSITORY",
        "spanqa serve --repository REPOSITORY",
    )
    (artefact,) = plan.artefacts
    assert artefact.size_bytes == 2 * plan.n_parameters
    other = plan_from(checkpoint, target, engine="onnxruntime").gpu_memory
    assert plan.gpu_memory.context_bytes > 3 * target.instances * other.context_bytes // 2


def test_a_plan_for_volta_installs_the_torch_that_still_runs_there(tiny_model_folder, capsys):
    options = ["-m", str(tiny_model_folder), "--target", "v100", "--engine", "torch", "--plan", "--json"]
    assert main(["build", *options]) == 0
    plan = json.loads(capsys.readouterr().out)
    wanted = "pip install torch==2.13.0+cu126  # of PyTorch's own index, cu126"
    assert wanted in plan["commands"]
    assert plan["versions"]["torch"] == "torch==2.13.0 from PyTorch's index cu126"
    assert main(["build", *options, "--device", "cpu"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["gpu_memory"], plan["build_bytes"], wanted in plan["commands"]) == (None, 0, False)
    assert "--engine torch --device cpu" in plan["commands"][-2]
    assert plan["artefacts"][0]["size_bytes"] == 4 * plan["n_parameters"]


def test_memory_is_asked_for_torch_in_each_of_its_processes(built):
    assert {model.name for model in models_of(built) if model.has_torch} == set(ENCODERS)
