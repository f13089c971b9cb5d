"""Plans: sizes that are those of the real network, and all that a build needs, without a GPU."""

import dataclasses
import itertools
import json
import shlex
import sys

import pytest
import torch

from spanqa.cli import main
from spanqa_build.commands import build
from spanqa_build.gpu_memory import activation_bytes, n_parameters
from spanqa_build.plan import plan_from, table_from_plan
from spanqa_build.plan_commands import Wanted
from spanqa_build.targets import all_targets, target_from_name
from spanqa_training.checkpoints.checkpoint import read_checkpoint
from spanqa_training.model import EncoderConfig, SpanModel

MEGATRON = EncoderConfig(
    vocab_size=30592, hidden_size=1024, num_layers=24, num_heads=16, intermediate_size=4096, layer_norm="pre"
)
GPU_NAMES = [name for name, target in all_targets().items() if target.is_gpu]


@pytest.fixture(scope="module")
def megatron(root):
    checkpoint = read_checkpoint(root / "training" / "checkpoints" / "spanqa-minilm")
    windows = dataclasses.replace(checkpoint.windows, max_seq_length=384)
    return dataclasses.replace(checkpoint, encoder=MEGATRON, windows=windows)


@pytest.fixture(autouse=True)
def nothing_of_a_gpu(monkeypatch, tmp_path):
    """No TensorRT and no nvidia-smi, wherever the tests run."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_the_parameters_of_megatron_are_counted_to_the_last():
    assert n_parameters(MEGATRON) == 334_166_018


@pytest.mark.parametrize("family", ["pre", "post"])
def test_the_count_is_that_of_the_network_itself(family):
    config = EncoderConfig(vocab_size=100, hidden_size=24, num_layers=3, num_heads=2, layer_norm=family)
    assert n_parameters(config) == sum(parameter.numel() for parameter in SpanModel(config).parameters())


@pytest.mark.parametrize("name", all_targets())
def test_a_plan_is_json_and_can_be_read(megatron, name):
    plan = plan_from(megatron, target_from_name(name))
    assert json.loads(json.dumps(plan.as_json()))["target"] == name
    table = table_from_plan(plan)
    assert max(map(len, table.splitlines())) < 260
    for text in (plan.description, *plan.versions.values(), *plan.commands, "334,166,018"):
        assert text in table


@pytest.mark.parametrize("name", GPU_NAMES)
def test_a_gpu_gets_an_engine_a_bucket_and_each_holds_the_weights_in_fp16(megatron, name):
    plan = plan_from(megatron, target_from_name(name))
    assert plan.lengths == (128, 192, 256, 384)
    assert [artefact.size_bytes for artefact in plan.artefacts] == [2 * 334_166_018] * 5
    assert plan.gpu_memory.weights_bytes == 4 * target_from_name(name).instances * 2 * 334_166_018


def test_memory_adds_up_and_fits_the_smallest_v100(megatron):
    memory = plan_from(megatron, target_from_name("v100")).gpu_memory
    parts = dataclasses.asdict(memory).values()
    assert memory.total_bytes == sum(parts)
    assert min(parts) > 0
    assert memory.total_bytes < 16 << 30


def test_megatron_can_be_built_on_every_target(megatron):
    smallest_bytes = {"v100": 16 << 30, "t4": 15 << 30, "a100": 24 << 30, "h100": 80 << 30}
    for name in GPU_NAMES:
        plan = plan_from(megatron, target_from_name(name))
        assert max(plan.build_bytes, plan.gpu_memory.total_bytes) < smallest_bytes[name]


def test_activations_grow_with_the_batch_and_faster_than_the_length():
    one = activation_bytes(MEGATRON, 1, 128)
    assert activation_bytes(MEGATRON, 16, 128) == 16 * one
    assert activation_bytes(MEGATRON, 1, 384) >= 3 * one


@torch.inference_mode()
def test_the_estimate_of_activations_is_not_below_what_attention_alone_must_hold():
    rows, length = 4, 384
    scores = torch.empty((rows, 16, length, length), dtype=torch.float32, device="meta")
    states = torch.empty((rows, length, 1024), dtype=torch.float32, device="meta")
    held = sum(tensor.numel() * tensor.element_size() for tensor in (scores, states))
    assert held < activation_bytes(MEGATRON, rows, length) < 4 * held


def test_more_instances_need_more_of_all_but_cuda_itself(megatron):
    target = target_from_name("v100")
    one = plan_from(megatron, target).gpu_memory
    two = plan_from(megatron, dataclasses.replace(target, instances=2)).gpu_memory
    for part in ("weights_bytes", "activations_bytes", "graphs_bytes"):
        assert getattr(two, part) == 2 * getattr(one, part)
    assert two.context_bytes == one.context_bytes


def test_a_plan_for_volta_names_the_versions_and_the_torch_that_still_run_there(megatron):
    plan = plan_from(megatron, target_from_name("v100"), wanted=Wanted(model="my.tlt", output="served"))
    assert plan.versions["TensorRT"] == "==10.4.0.* (tensorrt-cu12==10.4.0)"
    assert plan.versions["to train there"] == "torch==2.13.0 from PyTorch's index cu126"
    assert len(plan.commands) == 3
    assert "tritonserver:24.09-py3" in plan.commands[0]
    assert "spanqa build -m my.tlt --target v100 --engine tensorrt -o served" in plan.commands[1]


def test_a_plan_for_a_cpu_needs_no_gpu_memory_and_no_container_to_build_in(megatron):
    plan = plan_from(megatron, target_from_name("cpu"))
    assert (plan.gpu_memory, plan.build_bytes, plan.lengths) == (None, 0, (384,))
    assert [artefact.size_bytes for artefact in plan.artefacts] == [4 * 334_166_018]
    assert plan.commands[0] == "spanqa build -m CHECKPOINT --target cpu -o REPOSITORY"


def test_the_plan_of_the_command_for_a_cpu_knows_what_was_chosen(megatron, monkeypatch, capsys):
    monkeypatch.setattr(build, "is_checkpoint", lambda path: True)
    monkeypatch.setattr(build, "read_checkpoint", lambda path: megatron)
    command = ["build", "-m", "CHECKPOINT", "--target", "cpu", "--engine", "openvino", "--prefer", "accuracy", "--plan"]
    assert main(command) == 0
    planned = "spanqa build -m CHECKPOINT --target cpu --engine openvino --prefer accuracy -o REPOSITORY"
    assert planned in capsys.readouterr().out


@pytest.fixture
def here(tmp_path, monkeypatch):
    folder = tmp_path / "my project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def commands_of(checkpoint, **changes):
    wanted = Wanted(**{"model": "my.tlt", "output": "served", **changes})
    plan = plan_from(checkpoint, target_from_name("v100"), engine="onnxruntime", wanted=wanted)
    return [shlex.split(command) for command in plan.commands]


@pytest.mark.parametrize("name", GPU_NAMES)
def test_the_image_of_a_target_is_made_with_its_own_versions(megatron, name):
    target = target_from_name(name)
    command = shlex.split(plan_from(megatron, target).commands[0])
    given = [after for before, after in itertools.pairwise(command) if before == "--build-arg"]
    assert given == [
        f"IMAGE={target.container}",
        f"TENSORRT_BINDINGS={target.tensorrt_bindings}",
        f"ONNXRUNTIME={target.onnxruntime}",
    ]


def test_what_the_user_gave_is_in_the_commands_and_quoted(megatron, here):
    _, build, serve = commands_of(
        megatron, model="my model;x.tlt", data=str(here / "dev $1.json"), key="env:THE_KEY", output="a b"
    )
    expected = "spanqa build -m |my model;x.tlt| --target v100 --engine onnxruntime -k env:THE_KEY --data |dev $1.json|"
    assert build[build.index("spanqa") :] == [*shlex.split(expected.replace("|", "'")), "-o", "a b"]
    assert build[build.index("-e") + 1] == "THE_KEY"
    assert serve[-2:] == ["--repository", "a b"]
    assert "THE_KEY" not in serve


def test_the_containers_run_as_the_user_whose_folder_it_is(megatron, here):
    plan = plan_from(megatron, target_from_name("v100"))
    for command in plan.commands[1:]:
        assert ' --user "$(id -u):$(id -g)" -v "$PWD:/work" ' in command


def test_what_lies_outside_the_current_folder_is_mounted(megatron, here, tmp_path):
    elsewhere = tmp_path / "else where"
    _, build, serve = commands_of(
        megatron,
        model=str(elsewhere / "my.tlt"),
        data="../dev.json",
        key=f"@{elsewhere / 'key'}",
        output=str(elsewhere / "served"),
    )
    mounts = [after for before, after in itertools.pairwise(build) if before == "-v"]
    assert mounts == [
        f"{elsewhere}/my.tlt:/mnt/model/my.tlt:ro",
        f"{tmp_path}/dev.json:/mnt/data/dev.json:ro",
        f"{elsewhere}/key:/mnt/key/key:ro",
        f"{elsewhere}:/mnt/output",
        "$PWD:/work",
    ]
    expected = "-m /mnt/model/my.tlt --target v100 --engine onnxruntime -k @/mnt/key/key --data /mnt/data/dev.json"
    assert build[build.index("-m") :] == [*expected.split(), "-o", "/mnt/output/served"]
    assert f"{elsewhere}:/mnt/output" in serve
    assert serve[-1] == "/mnt/output/served"


@pytest.mark.parametrize("target", ["v100", "cpu"])
def test_a_key_given_as_itself_is_not_printed(megatron, target):
    plan = plan_from(megatron, target_from_name(target), wanted=Wanted(key="hunter2"))
    assert "hunter2" not in json.dumps(plan.as_json())
    assert any("-k env:MODEL_KEY" in command for command in plan.commands)


def test_a_plan_for_onnx_runtime_makes_no_engines_and_needs_none_of_tensorrts_memory(megatron):
    target = target_from_name("v100")
    plan, with_tensorrt = plan_from(megatron, target, engine="onnxruntime"), plan_from(megatron, target)
    assert [artefact.file for artefact in plan.artefacts] == [
        f"model.onnx for {length} tokens, fp16" for length in plan.lengths
    ]
    assert with_tensorrt.build_bytes - plan.build_bytes == 2 * 334_166_018 + (target.workspace_mib << 20)


def test_a_plan_goes_no_further_than_the_positions_of_the_model(megatron):
    encoder = dataclasses.replace(MEGATRON, max_positions=382)
    windows = dataclasses.replace(megatron.windows, max_seq_length=381)
    plan = plan_from(dataclasses.replace(megatron, encoder=encoder, windows=windows), target_from_name("v100"))
    assert plan.lengths == (128, 192, 256, 382)
