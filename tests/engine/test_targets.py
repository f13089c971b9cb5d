"""Targets: what is shipped holds together, and a wrong file or name is told in one sentence."""

import dataclasses

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from spanqa_build.errors import TargetError
from spanqa_build.gpu import GpuFacts
from spanqa_build.targets import TARGETS_FILE, Target, all_targets, target_from_name, targets_from_toml

GPU_TARGETS = [target for target in all_targets().values() if target.is_gpu]
CPU = {
    "description": "a CPU",
    "container": "image",
    "python": "3.10",
    "torch": "torch",
    "torch_index": "",
    "largest_batch": 16,
    "instances": 1,
}


def gpu_of(capability):
    return lambda: GpuFacts(
        name="Some GPU", compute_capability=capability, driver="580.95.05", free_bytes=1 << 34, total_bytes=1 << 34
    )


def test_the_shipped_targets_are_these():
    assert list(all_targets()) == ["v100", "t4", "a100", "h100", "cpu"]


def test_volta_is_built_with_exactly_tensorrt_10_4_0_in_triton_24_09_with_python_3_10():
    v100 = target_from_name("v100")
    accepted = SpecifierSet(v100.tensorrt)
    assert all(accepted.contains(version) for version in ("10.4.0", "10.4.0.26"))
    assert not any(accepted.contains(version) for version in ("10.3.0", "10.4.1", "10.5.0", "11.4.0.106"))
    assert (v100.container, v100.python) == ("nvcr.io/nvidia/tritonserver:24.09-py3", "3.10")
    assert v100.torch_index == "cu126"
    assert v100.tactic_sources == ((), ("CUBLAS", "CUBLAS_LT"))


@pytest.mark.parametrize("target", GPU_TARGETS, ids=lambda target: target.name)
def test_every_target_with_a_gpu_has_the_four_buckets_and_graphs_that_its_batches_can_use(target):
    assert target.buckets == (128, 192, 256, 384)
    assert target.graph_batches[0] == 1
    assert target.graph_batches[-1] <= target.largest_batch


def test_only_the_cpu_has_nothing_of_tensorrt():
    assert [target.name for target in all_targets().values() if not target.tensorrt] == ["cpu"]


def test_no_gpu_has_two_targets():
    capabilities = [capability for target in GPU_TARGETS for capability in target.compute_capabilities]
    assert len(capabilities) == len(set(capabilities))


@pytest.mark.parametrize(
    ("capability", "name"), [("7.0", "v100"), ("7.5", "t4"), ("8.0", "a100"), ("8.9", "a100"), ("9.0", "h100")]
)
def test_auto_is_the_target_of_the_gpu_that_is_there(capability, name):
    assert target_from_name("auto", gpu_of(capability)).name == name


def test_auto_says_what_it_found_where_no_target_fits():
    with pytest.raises(
        TargetError, match=r"the GPU is a Some GPU of compute capability 6\.1, and the targets are for v100"
    ):
        target_from_name("auto", gpu_of("6.1"))


def test_an_unknown_name_is_told_with_the_known_ones():
    with pytest.raises(TargetError, match="target is 'v10': give one of v100, t4, a100, h100, cpu, auto"):
        target_from_name("v10")


@pytest.mark.parametrize(
    ("longest", "max_positions", "lengths"),
    [
        (384, 512, (128, 192, 256, 384)),
        (256, 512, (128, 192, 256)),
        (512, 512, (128, 192, 256, 384, 512)),
        (100, 512, (104,)),
        (200, 512, (128, 192, 200)),
        (381, 512, (128, 192, 256, 384)),
        (381, 382, (128, 192, 256, 382)),
        (509, 509, (128, 192, 256, 384, 509)),
        (128, 128, (128,)),
    ],
)
def test_the_last_bucket_holds_the_longest_window_and_fills_the_tensor_cores_as_far_as_there_are_positions(
    longest, max_positions, lengths
):
    assert target_from_name("v100").lengths_up_to(longest, max_positions=max_positions) == lengths


@pytest.mark.parametrize("target", GPU_TARGETS, ids=lambda target: target.name)
def test_the_bindings_are_exact_and_of_a_tensorrt_and_a_cuda_that_the_target_takes(target):
    bindings, package = Requirement(target.tensorrt_bindings), Requirement(target.tensorrt_package)
    (exact,) = bindings.specifier
    assert exact.operator == "=="
    assert SpecifierSet(target.tensorrt).contains(exact.version)
    assert package.specifier.contains(exact.version)
    assert bindings.name == f"{package.name}-bindings"
    assert str(Version(target.onnxruntime)) == target.onnxruntime


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"largest_batch": "16"}, "largest_batch of target v100 is '16': give whole numbers"),
        ({"largest_batch": True}, "largest_batch of target v100 is True"),
        ({"largest_batch": 1, "optimal_batch": 1, "graph_batches": (1,)}, "give at least 2"),
        ({"buckets": (256, 128)}, r"buckets of target v100 is \(256, 128\)"),
        ({"buckets": ()}, "buckets .* as every target with a GPU has"),
        ({"buckets": 128}, "buckets of target v100 is 128: give a list"),
        ({"tactic_sources": ("CUBLAS",)}, "tactic_sources .*: give a list"),
        ({"optimal_batch": 17}, r"optimal_batch of target v100 is 17: give 1 to largest_batch \(16\)"),
        ({"graph_batches": (1, 32)}, "graph_batches .* none above largest_batch 16"),
        ({"tensorrt": "10.4"}, "tensorrt of target v100 is '10.4': give a version specifier"),
        ({"driver": ""}, "driver"),
        ({"tensorrt_bindings": ""}, "tensorrt_bindings .* as every target with a GPU has"),
        ({"onnxruntime": ""}, "onnxruntime .* as every target with a GPU has"),
        ({"layer_norm": "fused"}, "layer_norm of target v100 is 'fused': give operator or primitives"),
        ({"container": 24.09}, "container of target v100 is 24.09: give text in quotes"),
    ],
)
def test_a_target_that_contradicts_itself_is_refused(change, words):
    with pytest.raises(TargetError, match=words):
        dataclasses.replace(target_from_name("v100"), **change)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[cpu\n", "cannot be read"),
        ("cpu = 1\n", r"cpu is 1: write a table, \[cpu\]"),
        ('[cpu]\ndescription = "x"\n', "target cpu has no container"),
        (
            TARGETS_FILE.read_text(encoding="utf-8") + "largest_bacth = 3\n",
            "target cpu has the unknown key largest_bacth",
        ),
    ],
)
def test_a_wrong_file_is_told_in_one_line_with_its_path(text, words, tmp_path):
    path = tmp_path / "targets.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TargetError, match=words) as caught:
        targets_from_toml(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(TargetError, match=r"none\.toml: cannot be read"):
        targets_from_toml(tmp_path / "none.toml")


def test_a_cpu_needs_only_the_first_keys():
    assert not Target(name="cpu", **CPU).is_gpu
