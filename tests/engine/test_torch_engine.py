"""What the engine in torch computes in, and on which GPU."""

import numpy as np
import pytest
import torch

from spanqa.errors import SpanqaError
from spanqa.manifest import Engine, Manifest
from spanqa.startup import check_bfloat16
from spanqa.windows import Batch
from spanqa_build import check as checking
from spanqa_build.errors import GpuError
from spanqa_build.gpu import GpuFacts
from spanqa_build.torch_engine import check_same_gpu, choose_dtype
from spanqa_training.model import EncoderConfig, SpanModel

A100 = GpuFacts(name="A100", compute_capability="8.0", driver="580.82.07", free_bytes=15 << 30, total_bytes=16 << 30)


@pytest.mark.parametrize(("place", "dtype"), [("head", "float16"), ("layers.0.expand", "bfloat16")])
def test_float16_must_hold_every_weight_but_those_of_the_head(place, dtype):
    torch.manual_seed(0)
    model = SpanModel(
        EncoderConfig(vocab_size=300, hidden_size=32, num_layers=1, num_heads=4, intermediate_size=64, max_positions=32)
    ).eval()
    with torch.no_grad():
        model.get_submodule(place).weight[0, 0] = 70_000.0
    ids = np.ones((1, 8), dtype=np.int32)
    batch = Batch(input_ids=ids, attention_mask=ids, token_type_ids=ids)
    assert choose_dtype(model, [batch], A100)[0] == dtype


def torch_sees(monkeypatch, *capability):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(capability))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)


def test_a_gpu_that_torch_counts_otherwise_than_nvidia_smi_is_refused(monkeypatch):
    torch_sees(monkeypatch, 7, 5)
    with pytest.raises(GpuError, match=r"A100 of compute capability 8\.0, and torch's is of 7\.5, .*=PCI_BUS_ID$"):
        check_same_gpu(A100)


@pytest.mark.parametrize("capability", [(8, 0), ()], ids=["the same", "none"])
def test_the_gpu_that_nvidia_smi_names_passes_and_so_does_none(monkeypatch, capability):
    torch_sees(monkeypatch, *capability)
    check_same_gpu(A100)


@pytest.mark.parametrize(("here", "fails"), [((7, 5), True), ((8, 0), False)])
def test_a_check_of_a_repository_refuses_bfloat16_on_a_gpu_without(monkeypatch, here, fails):
    monkeypatch.setattr(checking, "check_bfloat16", lambda engine: check_bfloat16(engine, capabilities=lambda: [here]))
    manifest = Manifest(
        tokenizer_sha256="0", target="a100", engine=Engine(platform="torch", device="cuda", dtype="bfloat16")
    )
    if fails:
        with pytest.raises(SpanqaError, match=r"bfloat16, .* one here is of 7\.5"):
            checking._machine_line(manifest)
    else:
        line = "target a100: torch in bfloat16 on any GPU of compute capability 8.0 or later"
        assert checking._machine_line(manifest) == line
