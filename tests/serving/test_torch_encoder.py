"""The encoder in torch, inside a faked Triton: the build's weights or none, requests together, a fault its own."""

import importlib.util
import os
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from spanqa import contract
from spanqa.errors import InputError, SettingsError, SpanqaError
from spanqa.manifest import Artefact, Engine, load_manifest, manifest_json
from spanqa.packing import Bucket, Packing
from spanqa.startup import sha256_of
from spanqa_build.repository import TORCH_TEMPLATE, _template
from spanqa_build.torch_engine import write_weights
from spanqa_training.errors import RunError
from spanqa_training.inference import fixed_length
from spanqa_training.model import EncoderConfig, SpanModel

NAME, LENGTH = "encoder_32", 32
CONFIG = EncoderConfig(
    vocab_size=300, hidden_size=32, num_layers=1, num_heads=4, intermediate_size=64, max_positions=32
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(5)
    return SpanModel(CONFIG).eval()


@pytest.fixture
def built(repository, network):
    """The repository with one encoder in torch, on the CPU."""
    folder = repository / NAME / "1"
    folder.mkdir(parents=True)
    path = folder / "model.safetensors"
    write_weights(network, path, "float32")
    describe(
        repository,
        packing=Packing(buckets=(Bucket(length=LENGTH, model=NAME, max_rows=4),)),
        engine=Engine(platform="torch", graph_rows=(1, 2, 4), device="cpu", dtype="float32"),
        encoder={"architecture": asdict(CONFIG)},
        artefacts={f"{NAME}/model.safetensors": Artefact(sha256=sha256_of(path), size_bytes=path.stat().st_size)},
    )
    return repository


def describe(repository, **changes):
    folder = repository / contract.QUESTION_ANSWERING / "1"
    manifest = replace(load_manifest(folder), **changes)
    (folder / "manifest.json").write_text(manifest_json(manifest), encoding="utf-8")


def load(repository, device_id="0"):
    """The model.py that a build writes, loaded and initialized as the backend does."""
    spec = importlib.util.spec_from_file_location("served_encoder_torch", _template(TORCH_TEMPLATE))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    instance = module.TritonPythonModel()
    instance.initialize(
        {
            "model_repository": str(repository / NAME),
            "model_version": "1",
            "model_name": NAME,
            "model_instance_device_id": device_id,
        }
    )
    return instance


def arrays_of(n_rows, seed, length=LENGTH):
    random = np.random.default_rng(seed)
    ids = random.integers(1, 300, (n_rows, length), dtype=np.int32)
    mask = (np.arange(length) < random.integers(4, length, (n_rows, 1))).astype(np.int32)
    return ids * mask, mask, mask


def request_of(pb_utils, arrays):
    tensors = [
        pb_utils.Tensor(tensor.name, array) for tensor, array in zip(contract.ENCODER_INPUTS, arrays, strict=True)
    ]
    return pb_utils.InferenceRequest(tensors)


@torch.inference_mode()
def right(network, arrays):
    return [logits.numpy() for logits in network(*map(torch.from_numpy, arrays))]


def assert_answers(response, network, arrays):
    assert not response.has_error(), response.error().message()
    for tensor, wanted in zip(contract.ENCODER_OUTPUTS, right(network, arrays), strict=True):
        got = response.arrays()[tensor.name]
        assert (got.dtype, got.shape) == (np.float32, wanted.shape)
        np.testing.assert_allclose(got * arrays[1], wanted * arrays[1], atol=1e-5, rtol=0)


def test_requests_of_one_call_are_run_together_and_answered_each(built, pb_utils, network, monkeypatch):
    model = load(built)
    ran = []
    run = model._network._run
    monkeypatch.setattr(model._network, "_run", lambda arrays: (ran.append(len(arrays[0])), run(arrays))[1])
    asked = [arrays_of(n_rows, seed=n_rows) for n_rows in (1, 2, 1)]
    responses = model.execute([request_of(pb_utils, arrays) for arrays in asked])
    assert ran == [4]
    for response, arrays in zip(responses, asked, strict=True):
        assert_answers(response, network, arrays)


def test_a_request_that_cannot_be_run_fails_alone(built, pb_utils, network):
    model = load(built)
    good = arrays_of(1, seed=1)
    responses = model.execute(
        [request_of(pb_utils, arrays) for arrays in (good, arrays_of(1, seed=2, length=16), good)]
    )
    assert_answers(responses[0], network, good)
    assert_answers(responses[2], network, good)
    assert "windows of 16 tokens came to the network for 32" in responses[1].error().message()


@pytest.mark.parametrize(("place", "name", "wrong"), [(0, "input_ids", 300), (2, "token_type_ids", -1)])
def test_ids_that_the_network_has_not_are_their_senders_fault_alone(built, pb_utils, network, place, name, wrong):
    model = load(built)
    good, bad = arrays_of(1, seed=1), arrays_of(1, seed=2)
    bad[place][0, -1] = wrong
    responses = model.execute([request_of(pb_utils, arrays) for arrays in (good, bad)])
    assert_answers(responses[0], network, good)
    assert responses[1].error().code() == pb_utils.TritonError.INVALID_ARG
    assert responses[1].error().message().startswith(f"{name} holds {wrong}, and the network takes 0 to ")


class Ended(BaseException):
    """What `os._exit` does, as far as a test can bear it."""


def served_by(network, built, monkeypatch, device):
    """The encoder on a device, with a network of our own, where the end of the process is an exception."""

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(fixed_length, "network_from_file", lambda *_args, **_options: network)
    monkeypatch.setattr(os, "_exit", end)
    describe(built, engine=Engine(platform="torch", graph_rows=(1, 2, 4), device=device, dtype="float32"))
    return load(built)


def failing(error):
    def network(_batch):
        raise error

    return network


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA"),
        RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors"),
    ],
)
def test_a_process_whose_gpu_failed_ends_with_one_line(built, pb_utils, monkeypatch, capfd, error):
    model = served_by(failing(error), built, monkeypatch, "cuda")
    with pytest.raises(Ended, match="1"):
        model.execute([request_of(pb_utils, arrays_of(1, seed=seed)) for seed in (1, 2)])
    line = capfd.readouterr().err
    assert line.startswith("spanqa: encoder_32 failed on the GPU: CUDA error: device-side assert triggered ")
    assert line.endswith(": its process ends\n")
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("device", "error"),
    [
        ("cpu", RuntimeError("of a CPU")),
        ("cuda", InputError("of a request")),
        ("cuda", RunError("of another length")),
    ],
)
def test_any_other_fault_is_answered_and_the_process_lives(built, pb_utils, monkeypatch, device, error):
    model = served_by(failing(error), built, monkeypatch, device)
    (response,) = model.execute([request_of(pb_utils, arrays_of(1, seed=1))])
    assert response.has_error()


def altered(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (altered, "was altered"),
        (lambda path: path.write_bytes(b""), "has 0 bytes, the build wrote"),
        (lambda path: path.unlink(), "cannot be read: No such file"),
    ],
)
def test_weights_that_are_not_the_builds_do_not_start(built, pb_utils, damage, message):
    path = built / NAME / "1" / "model.safetensors"
    damage(path)
    with pytest.raises(SpanqaError, match=message) as caught:
        load(built)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_version_that_does_not_name_the_model_does_not_start(built, pb_utils):
    describe(built, artefacts={})
    with pytest.raises(SettingsError, match="encoder_32 is not in the manifest of this version: build"):
        load(built)


def test_a_gpus_network_goes_to_the_gpu_that_triton_names(built, pb_utils, monkeypatch):
    asked = []

    def check(device):
        asked.append(str(device))
        raise RunError("torch sees no GPU")

    monkeypatch.setattr(fixed_length, "check_device", check)
    describe(built, engine=Engine(platform="torch", graph_rows=(1, 2, 4)))
    with pytest.raises(RunError, match="torch sees no GPU"):
        load(built, device_id="3")
    assert asked == ["cuda:3"]


def test_the_main_entry_needs_what_torch_needs(built, model, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    describe(built, engine=Engine(platform="torch", graph_rows=(1, 2, 4)))
    with pytest.raises(SpanqaError, match=r"run with torch on a GPU, and here (torch .* for CPUs|CUDA shows no GPU)"):
        model(contract.QUESTION_ANSWERING)
