"""Dropping elements: how many, which, and what stays of the rest."""

import pytest
import torch

from spanqa_training.encoder.dropout import LEVELS, Dropout, dropout, dropped_levels


def test_the_share_is_dropped_and_the_mean_stays():
    torch.manual_seed(1)
    values = torch.full((1000, 1003), 3.0)
    dropped = dropout(values, 0.1, True)
    assert (dropped == 0).float().mean().item() == pytest.approx(26 / LEVELS, abs=1e-3)
    assert dropped.mean().item() == pytest.approx(3.0, abs=1e-2)
    assert len(dropped.unique()) == 2


@pytest.mark.parametrize(("share", "levels"), [(0.0, 0), (1e-6, 1), (0.1, 26), (0.5, 128), (0.9999, LEVELS - 1)])
def test_the_share_is_a_multiple_of_a_byte_and_never_none_or_all(share, levels):
    assert dropped_levels(share) == levels


def test_the_gradient_is_of_what_stayed():
    values = torch.ones(64, 7, requires_grad=True)
    dropped = dropout(values, 0.3, True)
    dropped.sum().backward()
    assert torch.equal(values.grad, dropped.detach())


def test_the_seed_decides_and_every_call_differs():
    values = torch.ones(4096)
    torch.manual_seed(7)
    first, second = dropout(values, 0.5, True), dropout(values, 0.5, True)
    torch.manual_seed(7)
    assert torch.equal(dropout(values, 0.5, True), first)
    assert not torch.equal(first, second)


def test_neighbours_are_dropped_independently():
    torch.manual_seed(3)
    gone = (dropout(torch.ones(1_000_000), 0.5, True) == 0).float()
    for distance in (1, 2, 4, 7, 8):
        together = (gone[:-distance] * gone[distance:]).mean().item()
        assert together == pytest.approx(0.25, abs=2e-3)
    by_byte = gone[: 8 * 125_000].view(-1, 8).mean(0)
    assert by_byte.tolist() == pytest.approx([0.5] * 8, abs=6e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_shape_and_dtype_stay(dtype):
    dropped = Dropout(0.1)(torch.ones(3, 5, 7, dtype=dtype))
    assert (dropped.shape, dropped.dtype) == ((3, 5, 7), dtype)


def test_nothing_is_dropped_where_nothing_is_trained():
    layer = Dropout(0.5).eval()
    values = torch.ones(100)
    assert layer(values) is values
    assert dropout(values, 0.0, True) is values
