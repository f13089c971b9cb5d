"""The fused optimiser makes the steps of the plain one."""

import copy

import pytest
import torch

from spanqa_training.optimization.optimizers import can_fuse, keep_restored_kernel, make_optimizer

OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.999), "weight_decay": 0.1}


@pytest.fixture
def network():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(40, 33), torch.nn.LayerNorm(33), torch.nn.Linear(33, 7))


def stepped(network, optimizer, n_steps=20):
    torch.manual_seed(2)
    for _ in range(n_steps):
        network(torch.randn(5, 40)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return network


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_the_fused_optimiser_ends_with_the_same_weights(network, name):
    plain, fused = network, copy.deepcopy(network)
    stepped(plain, make_optimizer(plain, name, **OPTIONS))
    stepped(fused, make_optimizer(fused, name, **OPTIONS, fused=True))
    for one, other in zip(plain.parameters(), fused.parameters(), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_what_has_no_fused_kernel_is_not_fused():
    cpu = torch.device("cpu")
    assert can_fuse("adamw", cpu, clips_scaled=False)
    assert can_fuse("adamw", torch.device("cuda"), clips_scaled=False)
    assert not can_fuse("adamw", cpu, clips_scaled=True)
    assert not can_fuse("adamw", torch.device("meta"), clips_scaled=False)
    assert not can_fuse("rmsprop", cpu, clips_scaled=False)


def test_a_state_that_was_saved_without_it_goes_on_without_and_with_the_loss_scaler(network):
    wanted = copy.deepcopy(network)
    old = make_optimizer(wanted, "adamw", **OPTIONS)
    stepped(wanted, old, 3)
    resumed = copy.deepcopy(wanted)
    fresh = make_optimizer(resumed, "adamw", **OPTIONS, fused=True)
    fresh.load_state_dict(copy.deepcopy(old.state_dict()))
    keep_restored_kernel(fresh)
    stepped(wanted, old)
    stepped(resumed, fresh)
    assert all(torch.equal(one, other) for one, other in zip(wanted.parameters(), resumed.parameters(), strict=True))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(resumed(torch.ones(1, 40)).sum()).backward()
    scaler.step(fresh)
