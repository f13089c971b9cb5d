"""Checks of the GPU: every mismatch one sentence, and nvidia-smi read whatever it says."""

import dataclasses
import os
import sys
import types

import pytest

from spanqa_build.errors import GpuError
from spanqa_build.gpu import GpuFacts, check_gpu, gpu_facts, mismatches, tensorrt_version
from spanqa_build.targets import target_from_name

V100 = target_from_name("v100")
GPU = GpuFacts(
    name="Tesla V100-SXM2-16GB",
    compute_capability="7.0",
    driver="535.104.05",
    free_bytes=15 << 30,
    total_bytes=16 << 30,
)


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A program of that name that answers as it is told to, and writes down how it was called."""

    def install(answer, code=0):
        program = tmp_path / "nvidia-smi"
        program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\ncat <<END\n{answer}\nEND\nexit {code}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        return tmp_path / "called"

    return install


def test_what_fits_has_no_mismatch():
    assert mismatches(V100, GPU, "10.4.0", needed_bytes=15 << 30) == []
    check_gpu(V100, GPU, "10.4.0.26")


def test_tensorrt_beyond_volta_is_told_with_the_last_one_and_the_image_that_has_it():
    assert mismatches(V100, GPU, "10.5.0") == [
        "TensorRT is 10.5.0, and TensorRT 10.5 and later do not support sm_70: use tensorrt-cu12==10.4.0, as in"
        " nvcr.io/nvidia/tritonserver:24.09-py3"
    ]


@pytest.mark.parametrize("version", ["10.3.0", "9.3", "unknown"])
def test_tensorrt_of_another_version_is_told_with_the_one_needed(version):
    assert mismatches(V100, GPU, version) == [
        f"TensorRT is {version}, and target v100 needs ==10.4.0.*: use tensorrt-cu12==10.4.0, as in"
        " nvcr.io/nvidia/tritonserver:24.09-py3"
    ]


@pytest.mark.parametrize(("version", "fits"), [("10.4.0", False), ("11.0.0", False), ("11.1.0", True), ("12.0", False)])
def test_tensorrt_for_t4_is_11_from_11_1_on(version, fits):
    t4 = dataclasses.replace(GPU, compute_capability="7.5", driver="580.95.05")
    assert (mismatches(target_from_name("t4"), t4, version) == []) == fits


def test_another_gpu_is_told_with_the_one_needed():
    (found,) = mismatches(V100, dataclasses.replace(GPU, name="NVIDIA L4", compute_capability="8.9"), "10.4.0")
    assert found.startswith(
        "the GPU is a NVIDIA L4 of compute capability 8.9, and target v100 needs 7.0: use such a GPU"
    )


def test_without_a_part_for_tensorrt_all_else_is_compared():
    wrong = dataclasses.replace(GPU, compute_capability="8.0", driver="450.1", free_bytes=0)
    assert mismatches(V100, GPU, None) == []
    assert len(mismatches(V100, wrong, None, needed_bytes=1)) == 3


def test_an_old_driver_is_told():
    (found,) = mismatches(V100, dataclasses.replace(GPU, driver="470.57.02"), "10.4.0")
    assert found.startswith("NVIDIA's driver is 470.57.02, and nvcr.io/nvidia/tritonserver:24.09-py3 needs >=525.60.13")


def test_too_little_free_memory_is_told_in_mebibytes():
    (found,) = mismatches(V100, dataclasses.replace(GPU, free_bytes=1 << 30), "10.4.0", needed_bytes=(2 << 30) + 1)
    assert found.startswith("1,024 MiB of the GPU's 16,384 MiB are free, and 2,049 MiB are needed: stop what else")


def test_several_mismatches_are_one_line():
    wrong = dataclasses.replace(GPU, compute_capability="8.0", driver="450.1")
    with pytest.raises(GpuError, match=r"8\.0.*; and TensorRT is 11\.0.*; and NVIDIA's driver is 450\.1") as caught:
        check_gpu(V100, wrong, "11.0")
    assert "\n" not in str(caught.value)


def test_the_facts_are_what_nvidia_smi_says(nvidia_smi):
    called = nvidia_smi("Tesla V100-SXM2-16GB, 7.0, 535.104.05, 15360, 16384")
    assert gpu_facts() == GPU
    assert "--id=0" in called.read_text()


@pytest.mark.parametrize(("visible", "asked"), [("2,3", "--id=2"), ("GPU-8f2a", "--id=GPU-8f2a")])
def test_the_gpu_asked_about_is_the_first_visible_one(nvidia_smi, monkeypatch, visible, asked):
    called = nvidia_smi("NVIDIA H100, 9.0, 580.95.05, 1, 2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu_facts().compute_capability == "9.0"
    assert asked in called.read_text()


@pytest.mark.parametrize("visible", ["", "-1"])
def test_hidden_gpus_are_told(monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(GpuError, match="CUDA_VISIBLE_DEVICES hides every GPU"):
        gpu_facts()


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ("No devices were found", 6, "reports no GPU 0: No devices were found: check the driver"),
        ('Field "compute_cap" is not a valid field to query.', 2, "is not a valid field to query"),
        ("Tesla V100, [N/A], 470.1, 1, 2", 0, "nvidia-smi says 'Tesla V100,"),
        ("", 0, "nvidia-smi says ''"),
    ],
)
def test_whatever_else_nvidia_smi_says_is_one_line(nvidia_smi, answer, code, words):
    nvidia_smi(answer, code)
    with pytest.raises(GpuError, match=words.replace("[", r"\[")) as caught:
        gpu_facts()
    assert "\n" not in str(caught.value)


def test_without_nvidia_smi_there_is_no_gpu(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(GpuError, match=r"no GPU found, as nvidia-smi is not installed: .* give --target cpu"):
        gpu_facts()


def test_tensorrt_is_known_by_its_package(monkeypatch):
    package = types.ModuleType("tensorrt")
    package.__version__ = "10.4.0"
    monkeypatch.setitem(sys.modules, "tensorrt", package)
    assert tensorrt_version() == "10.4.0"


def test_a_missing_tensorrt_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        GpuError, match=r"TensorRT cannot be imported .*: build in the Triton image of the target"
    ) as caught:
        tensorrt_version()
    assert "\n" not in str(caught.value)
