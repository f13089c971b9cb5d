"""What the engine in torch computes in, and on which GPU."""

import numpy as np
import pytest
import torch

from spanqa.windows import Batch
from spanqa_build.gpu import GpuFacts
from spanqa_build.torch_engine import choose_dtype
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
