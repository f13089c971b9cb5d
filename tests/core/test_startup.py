"""What is not as the build left it, or not on the machine that it was compiled for, is refused with one sentence."""

import os
import re
import stat
from dataclasses import replace
from types import SimpleNamespace

import pytest

from spanqa import startup
from spanqa.cuda_gpus import cuda_capabilities_here, cuda_gpus_here
from spanqa.errors import SpanqaError
from spanqa.manifest import Artefact, Engine, Gpu, Manifest
from spanqa.packing import Bucket, Packing
from spanqa.startup import (
    check_bfloat16,
    check_files,
    check_machine,
    check_served,
    gpus_here,
    sha256_of,
    tensorrt_here,
    torch_fault,
    versions_in,
)

V100 = Gpu(name="Tesla V100-SXM2-32GB", compute_capability="7.0")
T4 = Gpu(name="Tesla T4", compute_capability="7.5")
ENGINE = Engine(platform="tensorrt_plan", gpu=V100, tensorrt="10.4.0")


def manifest_of(repository, version):
    """A manifest of what is there."""

    def artefact(path):
        return Artefact(sha256=sha256_of(path), size_bytes=path.stat().st_size)

    return Manifest(
        tokenizer_sha256="0",
        packing=Packing(buckets=(Bucket(length=384, model="encoder_384", max_rows=4),)),
        engine=Engine(platform="tensorrt_plan"),
        artefacts={
            "encoder_384/model.plan": artefact(repository / "encoder_384" / str(version) / "model.plan"),
            "question_answering/model.py": artefact(repository / "question_answering" / str(version) / "model.py"),
        },
        configs={"encoder_384/config.pbtxt": artefact(repository / "encoder_384" / "config.pbtxt")},
    )


@pytest.fixture
def repository(tmp_path):
    for name, file in (("encoder_384", "model.plan"), ("question_answering", "model.py")):
        for version in ("1", "2"):
            (tmp_path / name / version).mkdir(parents=True)
            (tmp_path / name / version / file).write_text(f"{name} {version}")
    (tmp_path / "encoder_384" / "config.pbtxt").write_text("config")
    return tmp_path


def test_what_the_build_wrote_is_served(repository):
    check_served(repository, 2, manifest_of(repository, 2))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("encoder_384/2/model.plan", "encoder_384 3", r"model\.plan: was altered \(SHA-256 "),
        ("encoder_384/2/model.plan", "encoder", r"model\.plan: has 7 bytes, the build wrote 13"),
        ("encoder_384/2/model.plan", None, r"model\.plan: cannot be read: No such file"),
        ("question_answering/2/model.py", "", r"model\.py: has 0 bytes"),
        ("encoder_384/config.pbtxt", "confiG", r"config\.pbtxt: was altered"),
    ],
)
def test_a_file_that_is_not_the_builds_is_refused(repository, file, content, message):
    manifest = manifest_of(repository, 2)
    if content is None:
        (repository / file).unlink()
    else:
        (repository / file).write_text(content)
    with pytest.raises(SpanqaError, match=message + ".*: build the repository again$") as caught:
        check_served(repository, 2, manifest)
    assert "\n" not in str(caught.value)


def test_an_older_version_does_not_own_the_configurations(repository):
    manifest = manifest_of(repository, 1)
    (repository / "encoder_384" / "config.pbtxt").write_text("that of version 2")
    check_served(repository, 1, manifest)


def test_files_that_are_not_read_as_a_whole_are_known_by_their_size(repository):
    manifest = manifest_of(repository, 2)
    (repository / "question_answering" / "2" / "model.py").write_text("x" * 20)
    check_files(repository, 2, manifest, whole=())
    with pytest.raises(SpanqaError, match="was altered"):
        check_files(repository, 2, manifest, whole=manifest.artefacts)


def test_versions_are_ordered_as_numbers(tmp_path):
    for name in ("10", "9", "warmup", ".2"):
        (tmp_path / name).mkdir()
    (tmp_path / "11").touch()
    assert versions_in(tmp_path) == [9, 10]
    assert versions_in(tmp_path / "nowhere") == []


def machine(gpus, tensorrt):
    return {"gpus": lambda: gpus, "tensorrt": lambda major: tensorrt if major == 10 else None}


def check(engine, gpus, tensorrt):
    check_machine(Manifest(tokenizer_sha256="0", engine=engine), **machine(gpus, tensorrt))


@pytest.mark.parametrize("gpus", [[V100], [T4, V100], []], ids=["same", "one of two", "unknown"])
def test_engines_run_on_their_kind_of_gpu(gpus):
    check(ENGINE, gpus, "10.4.0")
    check(replace(ENGINE, tensorrt="10.4.0.26"), gpus, "10.4.0")


def test_engines_of_another_gpu_are_refused():
    with pytest.raises(SpanqaError, match=r"built for Tesla V100.*7\.0\), this machine has Tesla T4 \(7\.5\): build"):
        check(ENGINE, [T4], "10.4.0")


@pytest.mark.parametrize(("found", "said"), [("10.5.0", "10.5.0"), (None, "another or none")])
def test_engines_of_another_tensorrt_are_refused(found, said):
    with pytest.raises(SpanqaError, match=f"built by TensorRT 10.4.0, this machine has {said}: serve in the Triton"):
        check(ENGINE, [V100], found)


def test_a_repository_for_cpus_asks_for_no_gpu():
    def never(*_):
        raise AssertionError("asked")

    check_machine(Manifest(tokenizer_sha256="0"), gpus=never, tensorrt=never)
    check_machine(
        Manifest(tokenizer_sha256="0", engine=Engine(platform="onnxruntime_onnx")), gpus=never, tensorrt=never
    )


def test_the_driver_is_asked_for_the_gpus(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Tesla V100-SXM2-32GB, 7.0'\necho 'Tesla T4, 7.5'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")
    assert gpus_here() == [V100, T4]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert gpus_here() == []
    program.unlink()
    assert gpus_here() == []


@pytest.mark.parametrize(("number", "version"), [(100400, "10.4.0"), (101602, "10.16.2"), (110100, "11.1.0")])
def test_tensorrts_number_is_read_as_a_version(monkeypatch, number, version):
    asked = []

    def library(name):
        asked.append(name)
        return SimpleNamespace(getInferLibVersion=lambda: number)

    monkeypatch.setattr(startup.ctypes, "CDLL", library)
    assert tensorrt_here(10) == version
    assert asked == ["libnvinfer.so.10"]


def test_a_tensorrt_that_is_not_there_has_no_version():
    assert tensorrt_here(1) is None


def installed(monkeypatch, **versions):
    def version(name):
        if name not in versions:
            raise startup.importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(startup.importlib.metadata, "version", version)


@pytest.mark.parametrize(
    ("versions", "n_gpus", "words"),
    [
        ({"torch": "2.13.0", "safetensors": "0.8"}, 1, None),
        ({"torch": "2.13.0+cu126", "safetensors": "0.8"}, 2, None),
        ({"torch": "2.13.0+cpu", "safetensors": "0.8"}, 1, r"torch 2.13.0\+cpu is made for CPUs alone: install one"),
        ({"torch": "2.13.0", "safetensors": "0.8"}, 0, "CUDA shows no GPU: check NVIDIA's driver and CUDA_VISIBLE"),
        ({"safetensors": "0.8"}, 1, "torch is not installed: pip install"),
        ({"torch": "2.13.0"}, 1, "safetensors is not installed: pip install"),
    ],
)
def test_torch_on_a_gpu_needs_a_torch_made_for_one_and_a_gpu(monkeypatch, versions, n_gpus, words):
    installed(monkeypatch, **versions)
    fault = torch_fault("cuda", n_gpus=lambda: n_gpus)
    assert (fault is None) is (words is None)
    assert words is None or re.match(words, fault)
    manifest = Manifest(tokenizer_sha256="0", engine=Engine(platform="torch", device="cuda"))
    if words:
        with pytest.raises(SpanqaError, match=f"the encoders run with torch on a GPU, and here {words}"):
            check_machine(manifest, torch=lambda _device: fault)
    else:
        check_machine(manifest, torch=lambda _device: fault)


BFLOAT16 = Engine(platform="torch", device="cuda", dtype="bfloat16")


@pytest.mark.parametrize("here", [[(7, 5)], [(8, 0), (7, 0)]])
def test_bfloat16_is_refused_where_a_gpu_shows_that_has_none(here):
    with pytest.raises(
        SpanqaError, match=rf"bfloat16, .* one here is of 7\.{here[-1][1]}: hide it by CUDA_VISIBLE_DEV"
    ):
        check_machine(
            Manifest(tokenizer_sha256="0", engine=BFLOAT16), torch=lambda _device: None, capabilities=lambda: here
        )


@pytest.mark.parametrize("here", [[(8, 0)], [(12, 0), (8, 9)], []])
def test_bfloat16_runs_on_newer_gpus_and_where_none_shows_it_is_not_refused(here):
    check_bfloat16(BFLOAT16, capabilities=lambda: here)


@pytest.mark.parametrize(
    "engine", [replace(BFLOAT16, dtype="float16"), replace(BFLOAT16, device="cpu"), Engine(platform="tensorrt_plan")]
)
def test_no_other_engine_asks_for_bfloat16(engine):
    check_bfloat16(engine, capabilities=lambda: pytest.fail("GPUs were asked"))


def test_compute_capabilities_are_those_that_the_driver_gives(monkeypatch):
    known = [(9, 0), (7, 5)]

    def attribute(out, which, device):
        out._obj.value = known[device.value][which - 75]
        return 0

    def fill(out, number):
        out._obj.value = number
        return 0

    driver = SimpleNamespace(
        cuInit=lambda _flags: 0,
        cuDeviceGetCount=lambda out: fill(out, 2),
        cuDeviceGet=fill,
        cuDeviceGetAttribute=attribute,
    )
    monkeypatch.setattr(startup.ctypes, "CDLL", lambda _name: driver)
    assert cuda_capabilities_here() == known
    driver.cuDeviceGetAttribute = lambda *_: 1
    assert cuda_capabilities_here() == []
    monkeypatch.setattr(startup.ctypes, "CDLL", lambda _name: SimpleNamespace())
    assert cuda_capabilities_here() == []


def test_torch_on_a_cpu_needs_no_gpu(monkeypatch):
    installed(monkeypatch, torch="2.13.0+cpu", safetensors="0.8")
    assert torch_fault("cpu", n_gpus=lambda: pytest.fail("a GPU was looked for")) is None


def test_a_machine_without_a_driver_has_no_gpu_for_cuda(monkeypatch):
    def nothing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(startup.ctypes, "CDLL", nothing)
    assert cuda_gpus_here() == 0


@pytest.mark.parametrize(("status", "count", "found"), [(0, 2, 2), (100, 2, 0)])  # 100: CUDA_ERROR_NO_DEVICE
def test_the_gpus_that_cuda_shows_are_counted_by_its_driver(monkeypatch, status, count, found):
    def count_devices(pointer):
        pointer._obj.value = count
        return 0

    driver = SimpleNamespace(cuInit=lambda _flags: status, cuDeviceGetCount=count_devices)
    monkeypatch.setattr(startup.ctypes, "CDLL", lambda name: driver)
    assert cuda_gpus_here() == found


def test_weights_for_torch_are_left_to_the_model_that_reads_them(repository):
    """It reads them whole; here their size is enough."""
    manifest = manifest_of(repository, 2)
    path = repository / "encoder_384" / "2" / "model.plan"
    path.write_text("encoder_384 3")
    with pytest.raises(SpanqaError, match="was altered"):
        check_served(repository, 2, manifest)
    check_served(repository, 2, replace(manifest, engine=Engine(platform="torch", device="cpu")))
