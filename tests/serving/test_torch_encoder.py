"""The encoder in torch, inside a faked Triton: the build's weights or none, requests together, a fault its own."""

import importlib.util
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from spanqa import contract
from spanqa.errors import SettingsError, SpanqaError
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
