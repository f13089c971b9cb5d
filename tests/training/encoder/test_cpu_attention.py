"""The attention of a training step is torch's own, both ways, and its dropout has the gradient that it should."""

import pytest
import torch
from torch.nn import functional

from spanqa_training.encoder.attention import MASKED_SCORE
from spanqa_training.encoder.cpu_attention import attention_on_cpu
from spanqa_training.model import EncoderConfig, SpanModel


def _heads(n_rows, length, dtype=torch.float64):
    # As the model gives them: transposed views, not contiguous.
    return [torch.randn(n_rows, length, 4, 8, dtype=dtype).transpose(1, 2).requires_grad_() for _ in range(3)]


def _with_gradients(attention, heads, weights):
    mixed = attention(*heads)
    return mixed, torch.autograd.grad(mixed, heads, weights)


@pytest.mark.parametrize(("n_rows", "length"), [(1, 1), (5, 300), (3, 1100), (40, 30)])
def test_it_is_torchs_attention(n_rows, length):
    torch.manual_seed(0)
    heads = _heads(n_rows, length)
    mask = torch.zeros(n_rows, 1, 1, length, dtype=torch.float64)
    mask[-1, ..., length // 2 + 1 :] = MASKED_SCORE
    weights = torch.randn(n_rows, 4, length, 8, dtype=torch.float64)
    ours = _with_gradients(lambda *qkv: attention_on_cpu(*qkv, mask, 0.0), heads, weights)
    torchs = _with_gradients(lambda *qkv: functional.scaled_dot_product_attention(*qkv, attn_mask=mask), heads, weights)
    torch.testing.assert_close(ours, torchs, atol=1e-6, rtol=0)


def test_bfloat16_is_as_near_as_it_can_be():
    torch.manual_seed(0)
    heads = _heads(2, 64, torch.bfloat16)
    mixed = attention_on_cpu(*heads, torch.zeros(2, 1, 1, 64, dtype=torch.bfloat16), 0.0)
    exact = functional.scaled_dot_product_attention(*(states.double() for states in heads))
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.double(), exact, atol=2e-2, rtol=2e-2)


def test_the_gradient_through_dropout_is_right():
    torch.manual_seed(0)
    heads = [torch.randn(2, 2, 6, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    mask = torch.zeros(2, 1, 1, 6, dtype=torch.float64)

    def attend(*qkv):
        torch.manual_seed(5)
        return attention_on_cpu(*qkv, mask, 0.3)

    assert torch.autograd.gradcheck(attend, heads)


def test_a_model_learns_by_it_what_it_learns_by_plain_operators():
    config = EncoderConfig(
        vocab_size=50,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=32,
        max_positions=32,
        dropout=0.0,
        attention_dropout=0.0,
    )
    gradients = []
    for attention in ("sdpa", "eager"):
        torch.manual_seed(1)
        model = SpanModel(config, attention).train()
        ids = torch.randint(0, 50, (3, 20), dtype=torch.int32)
        mask = torch.ones_like(ids)
        mask[1, 12:] = 0
        starts, ends = model(ids, mask, torch.zeros_like(ids))
        ((starts * ends) * mask).sum().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)
