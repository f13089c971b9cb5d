"""Layers that are computed again give the gradients, the random numbers and the weights of those that are not."""

import copy

import pytest
import torch

from spanqa_training.model import EncoderConfig, SpanModel
from spanqa_training.optimization.gradient_checkpointing import checkpoint_layers
from spanqa_training.optimization.optimizers import make_optimizer

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_layers": 3, "num_heads": 4, "intermediate_size": 64}


@pytest.fixture
def model():
    torch.manual_seed(1)
    return SpanModel(EncoderConfig(**SIZES, max_positions=64)).train()


def trained(model, *, autocast):
    """Weights after three steps with dropout, and what the random generator would give next."""
    optimizer = make_optimizer(model, "adamw", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01)
    torch.manual_seed(2)
    ids = torch.randint(0, 50, (4, 48))
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            start, end = model(ids, torch.ones_like(ids), torch.zeros_like(ids))
            loss = start.logsumexp(1).mean() - end[:, 3].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict(), torch.rand(1)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
def test_the_weights_are_the_same_to_the_last_bit_with_dropout(model, autocast):
    recomputed = copy.deepcopy(model)
    assert checkpoint_layers(recomputed) == 3
    (wanted, next_wanted), (got, next_got) = (trained(one, autocast=autocast) for one in (model, recomputed))
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[name], got[name]) for name in wanted)
    assert torch.equal(next_wanted, next_got)


def kept_bytes(model):
    """Bytes of all that the forward pass keeps for the backward pass."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    ids = torch.randint(0, 50, (8, 64))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        start, end = model(ids, torch.ones_like(ids), torch.zeros_like(ids))
        (start.sum() + end.sum()).backward()
    return sum(size for place, size in kept.items() if place not in own)


def test_a_forward_pass_keeps_less(model):
    without = kept_bytes(model)
    checkpoint_layers(model)
    assert kept_bytes(model) < 0.5 * without


def test_a_model_that_only_answers_runs_as_before(model):
    checkpoint_layers(model)
    ids = torch.randint(0, 50, (2, 20))
    with torch.inference_mode():
        one, _ = model.eval()(ids, torch.ones_like(ids), torch.zeros_like(ids))
        other, _ = copy.deepcopy(model)(ids, torch.ones_like(ids), torch.zeros_like(ids))
    assert torch.equal(one, other)
