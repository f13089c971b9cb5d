"""Megatron-LM's checkpoints of BERT become checkpoints that compute what transformers' MegatronBert computes."""

from __future__ import annotations

import argparse
import enum
import itertools
import random
import sys
import types

import numpy as np
import pytest
import torch
from transformers import MegatronBertForPreTraining

from spanqa.cli import main
from spanqa_training.checkpoints.checkpoint import load_checkpoint, load_lm_head
from spanqa_training.weights.megatron_names import MEGATRON_KEYS, split_query_key_value
from spanqa_training.weights.recognition import ImportOptions, import_model
from spanqa_training.weights.renaming import expanded_keys, renamed_weights

HIDDEN_SIZE, N_HEADS, N_LAYERS = 128, 2, 2
FILE = "model_optim_rng.pt"


@pytest.mark.parametrize("with_arguments", [True, False], ids=["arguments", "shapes"])
@pytest.mark.parametrize("attention", ["attention", "self_attention"])
@pytest.mark.parametrize("nested", [True, False], ids=["nested", "flat"])
@pytest.mark.parametrize("version", [None, 0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_logits_equal_those_of_transformers(
    oracle, folder, zipped, version, nested, attention, with_arguments, megatron
):
    state = megatron.megatron_state(oracle, version=version, attention=attention)
    more = {} if version is None else {"checkpoint_version": version}
    if with_arguments:
        more["args"] = megatron.arguments()
    path = megatron.write(folder / FILE, state if nested else megatron.flat(state), zipped=zipped, **more)
    imported = import_model(path)
    megatron.assert_same_logits(imported, oracle)
    assert imported.checkpoint.encoder.layer_norm == "pre"
    assert imported.checkpoint.provenance["checkpoint_version"] == (version or 0)


@pytest.mark.parametrize("version", [0, 3.0])
@pytest.mark.parametrize("transformer", ["transformer", "encoder"])
@pytest.mark.parametrize("below", ["model", "top", "language_model"])
def test_every_nesting_is_understood(oracle, folder, below, transformer, version, megatron):
    state = megatron.megatron_state(oracle, version=version, transformer=transformer)
    content = {"model": {"model": state}, "top": state, "language_model": state["language_model"]}[below]
    torch.save({**content, "checkpoint_version": version}, folder / FILE)
    imported = import_model(folder / FILE)
    megatron.assert_same_logits(imported, oracle)
    assert bool(imported.lm_head) == (below != "language_model")


def test_the_names_of_later_releases_are_understood(oracle, folder, megatron):
    """Norms are called so, not layernorms, and their epsilon likewise."""
    state = megatron.flat(megatron.megatron_state(oracle, version=3.0))
    norms = {
        ".input_layernorm.": ".input_norm.",
        ".post_attention_layernorm.": ".post_attention_norm.",
        ".final_layernorm.": ".final_norm.",
        "lm_head.layernorm.": "lm_head.norm.",
    }
    renamed = {}
    for name, tensor in state.items():
        for old, new in norms.items():
            name = name.replace(old, new)
        renamed[name] = tensor
    assert sum(".norm." in name or "_norm." in name for name in renamed) == 2 * (2 * N_LAYERS + 2)
    said = vars(megatron.arguments(norm_epsilon=1e-4))
    del said["layernorm_epsilon"]
    path = megatron.write(folder / FILE, renamed, args=argparse.Namespace(**said), checkpoint_version=3.0)
    imported = import_model(path, ImportOptions(layer_norm_eps=1e-5))
    megatron.assert_same_logits(imported, oracle)
    expected = import_model(
        megatron.write(folder / "older" / FILE, state, checkpoint_version=3.0), ImportOptions(tokenizer=folder)
    )
    assert imported.lm_head.keys() == expected.lm_head.keys()
    assert all(torch.equal(tensor, expected.lm_head[name]) for name, tensor in imported.lm_head.items())
    assert import_model(path).checkpoint.encoder.layer_norm_eps == 1e-4


def test_everything_that_megatron_saves_beside_the_weights_is_no_hindrance(oracle, folder, monkeypatch, megatron):
    module = types.ModuleType("megatron.model.enums")
    module.ModelType = enum.Enum("ModelType", {"encoder_or_decoder": 1}, module=module.__name__)
    for name in ("megatron", "megatron.model", "megatron.model.enums"):
        monkeypatch.setitem(sys.modules, name, module)
    path = megatron.write(
        folder / FILE,
        {name: tensor.half() for name, tensor in megatron.flat(megatron.megatron_state(oracle, version=3.0)).items()},
        args=megatron.arguments(model_type=module.ModelType.encoder_or_decoder),
        checkpoint_version=3.0,
        optimizer={"state": [torch.ones(3)], "loss_scaler": argparse.Namespace(scale=2.0)},
        rng_state=[{"np_rng_state": np.random.get_state(), "random_rng_state": random.getstate()}],
    )
    monkeypatch.undo()
    imported = import_model(path)
    half = MegatronBertForPreTraining(oracle.config).eval()
    half.load_state_dict({name: tensor.half().float() for name, tensor in oracle.state_dict().items()})
    megatron.assert_same_logits(imported, half)
    assert {parameter.dtype for parameter in imported.model.parameters()} == {torch.float32}


def test_the_renaming_table_is_one_to_one_and_renames_back():
    keys = expanded_keys(MEGATRON_KEYS, 24)
    assert len(set(keys.values())) == len(keys)
    theirs = {name: torch.full((2,), float(number)) for number, name in enumerate(keys.values())}
    ours = renamed_weights(theirs, keys)
    back = renamed_weights(ours, {theirs_name: ours_name for ours_name, theirs_name in keys.items()})
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("shape", [(HIDDEN_SIZE, 7), (HIDDEN_SIZE,)], ids=["weight", "bias"])
@pytest.mark.parametrize("version", [0.0, 0.9, 1.0, 1.5, 2.0, 3.0])
def test_fused_attention_weights_are_cut_by_version(version, shape, megatron):
    parts = [torch.randn(shape) for _ in range(3)]
    split = split_query_key_value(megatron.fused(*parts, version), version=version, num_heads=N_HEADS)
    for got, expected in zip(split, parts, strict=True):
        assert torch.equal(got, expected)
        assert got.is_contiguous()


def test_the_order_of_another_version_computes_something_else(oracle, folder, megatron):
    for written, said in itertools.permutations([0, 1.0, 2.0], 2):
        path = megatron.write(folder / FILE, megatron.megatron_state(oracle, version=written), checkpoint_version=said)
        with pytest.raises(AssertionError):
            megatron.assert_same_logits(import_model(path), oracle)


def test_absent_token_types_become_zeros(oracle, folder, megatron):
    imported = import_model(megatron.write(folder / FILE, megatron.megatron_state(oracle, types=False)))
    assert not imported.model.embeddings.token_type.weight.any()
    megatron.assert_same_logits(imported, oracle, zero_types=True)


def test_the_masked_lm_head_is_kept_and_cut_with_the_vocabulary(oracle, folder, megatron):
    lm_head = import_model(megatron.write(folder / FILE, megatron.megatron_state(oracle))).lm_head
    head = oracle.cls.predictions
    expected = {
        "transform.weight": head.transform.dense.weight,
        "transform.bias": head.transform.dense.bias,
        "norm.weight": head.transform.LayerNorm.weight,
        "norm.bias": head.transform.LayerNorm.bias,
        "bias": head.bias,
    }
    assert lm_head.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(lm_head[name], tensor), name


def test_arguments_give_the_architecture_and_the_user_has_the_last_word(oracle, folder, megatron):
    said = megatron.arguments(layernorm_epsilon=1e-6, init_method_std=0.01)
    imported = import_model(megatron.write(folder / FILE, megatron.megatron_state(oracle), args=said))
    encoder, provenance = imported.checkpoint.encoder, imported.checkpoint.provenance
    assert (encoder.layer_norm_eps, encoder.dropout, encoder.attention_dropout) == (1e-6, 0.15, 0.05)
    assert encoder.initializer_range == 0.01
    assert (encoder.activation, provenance["activation_of_source"]) == ("gelu", "gelu_tanh")
    path = megatron.write(
        folder / FILE, megatron.megatron_state(oracle), args=megatron.arguments(layernorm_epsilon=1e-6)
    )
    options = ImportOptions(layer_norm_eps=1e-5, activation="gelu_tanh", config={"hidden_dropout_prob": 0.3})
    imported = import_model(path, options)
    assert imported.checkpoint.encoder.dropout == 0.3
    megatron.assert_same_logits(imported, oracle, hidden_act="gelu_new")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"bias_gelu_fusion": False}, "gelu"),
        ({"bias_gelu_fusion": False, "onnx_safe": True}, "gelu"),
        ({"bias_gelu_fusion": False, "openai_gelu": True}, "gelu_tanh"),
    ],
)
def test_the_activation_that_the_arguments_name_is_recorded(oracle, folder, changes, expected, megatron):
    imported = import_model(
        megatron.write(folder / FILE, megatron.megatron_state(oracle), args=megatron.arguments(**changes))
    )
    assert imported.checkpoint.provenance["activation_of_source"] == expected


def test_without_arguments_the_defaults_are_megatrons(oracle, folder, megatron):
    imported = import_model(megatron.write(folder / FILE, megatron.megatron_state(oracle)))
    encoder = imported.checkpoint.encoder
    assert (encoder.layer_norm_eps, encoder.activation, encoder.num_heads) == (1e-5, "gelu", HIDDEN_SIZE // 64)
    assert imported.checkpoint.provenance["activation_of_source"] is None
    assert import_model(folder / FILE, ImportOptions(num_heads=4)).checkpoint.encoder.num_heads == 4


def test_the_command_saves_what_it_took_over(oracle, folder, capsys, megatron):
    path = megatron.write(folder / FILE, megatron.megatron_state(oracle, version=3.0), checkpoint_version=3.0)
    assert main(["import", str(path), "-o", str(folder / "checkpoint.tlt")]) == 0
    assert "Megatron-LM file, megatron-bert, 2 layers of 128, 2 heads" in capsys.readouterr().out
    checkpoint, model = load_checkpoint(folder / "checkpoint.tlt")
    expected = import_model(path)
    assert checkpoint == expected.checkpoint
    for name, tensor in expected.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert load_lm_head(folder / "checkpoint.tlt").keys() == expected.lm_head.keys()
