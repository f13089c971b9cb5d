"""An encoder of any family pads, trains and exports as BERT's does, and its distances are those of the references."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from spanqa_training.encoder.config import EncoderConfig, architecture_of
from spanqa_training.encoder.distances import bias_buckets, embedding_buckets
from spanqa_training.errors import ModelError
from spanqa_training.model import SpanModel, exportable

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64}
UNTYPED = {"type_vocab_size": 0}
FAMILIES = {
    "roberta": {"type_vocab_size": 1, "position_offset": 2},
    "distilbert": UNTYPED,
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16, "shared_layers": True},
    "mpnet": UNTYPED
    | {"position_offset": 2, "position_scheme": "biased", "relative_buckets": 32, "relative_distance": 128},
    "deberta-v2": UNTYPED | {"position_scheme": "disentangled", "relative_buckets": 8, "relative_distance": 64},
}
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
DISTANCES = torch.arange(-511, 512)


def model_of(family, **changes):
    config = EncoderConfig(**(SIZES | {"max_positions": 40, "family": family} | FAMILIES[family] | changes))
    torch.manual_seed(0)
    model = SpanModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def batch(lengths):
    generator = torch.Generator().manual_seed(sum(lengths))
    shape = (len(lengths), max(lengths))
    mask = torch.tensor([[int(column < length) for column in range(shape[1])] for length in lengths])
    ids = torch.randint(4, 50, shape, generator=generator) * mask
    return ids, mask, torch.randint(0, 2, shape, generator=generator) * mask


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@EVERY_FAMILY
def test_padding_changes_no_logit(family, attention):
    model = model_of(family)
    model.attention = attention
    ids, mask, types = batch((40, 9))
    with torch.no_grad():
        together = model(ids, mask, types)
        alone = model(ids[1:, :9], mask[1:, :9], types[1:, :9])
    for padded, unpadded in zip(together, alone, strict=True):
        torch.testing.assert_close(padded[1:, :9], unpadded, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@EVERY_FAMILY
def test_every_weight_learns(family, attention):
    model = model_of(family).train()
    model.attention = attention
    with torch.autocast("cpu", torch.bfloat16):
        start, end = model(*batch((30, 12)))
        (start + end).square().mean().backward()
    assert start.dtype == torch.float32
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0 or name.endswith("key.bias"), name  # which softmax cancels


@EVERY_FAMILY
def test_a_half_precision_model_gives_float32_logits(family):
    model, inputs = model_of(family), batch((30, 12))
    with torch.no_grad():
        expected, _ = model(*inputs)
        for attention in ("eager", "sdpa"):
            model.attention = attention
            got, _ = model.to(torch.bfloat16)(*inputs)
            assert got.dtype == torch.float32
            assert (got - expected).abs().max() < 0.1 * expected.abs().max()


@EVERY_FAMILY
def test_what_is_exported_computes_the_same_and_depends_on_every_input(family):
    model = model_of(family)
    inputs = batch((30, 12))
    copied = exportable(model)
    with torch.no_grad():
        for got, wanted in zip(copied(*inputs), model(*inputs), strict=True):
            torch.testing.assert_close(got[inputs[1].bool()], wanted[inputs[1].bool()], atol=1e-5, rtol=0)
    assert copied.embeddings.token_type.num_embeddings == 2
    assert copied.attention == "eager"
    assert model.attention == "sdpa"  # the model is left as it is
    assert model.state_dict().keys() == model_of(family).state_dict().keys()


@pytest.mark.parametrize("family", ["roberta", "distilbert", "mpnet", "deberta-v2"])
def test_token_types_say_nothing_where_a_family_has_none(family):
    model = model_of(family)
    ids, mask, types = batch((30,))
    with torch.no_grad():
        for one, other in zip(model(ids, mask, types), model(ids, mask, 1 - types), strict=True):
            assert torch.equal(one, other)


@EVERY_FAMILY
def test_the_longest_window_is_the_last_that_is_taken(family):
    ids, mask, types = batch((41,))
    with pytest.raises(ModelError, match="windows of 41 tokens are longer than the model's 40 positions"):
        model_of(family)(ids, mask, types)


def test_distances_are_sorted_as_mpnet_sorts_them():
    for buckets, farthest in ((32, 128), (16, 64)):
        wanted = MPNetEncoder.relative_position_bucket(-DISTANCES, num_buckets=buckets, max_distance=farthest)
        assert torch.equal(bias_buckets(DISTANCES, buckets, farthest), wanted)


def test_distances_are_sorted_as_deberta_sorts_them():
    for span, farthest in ((256, 512), (8, 64), (32, 512)):
        wanted = make_log_bucket_position(DISTANCES, span, farthest).long()
        assert torch.equal(embedding_buckets(DISTANCES, span, farthest), wanted)


def test_only_what_differs_from_bert_is_written_of_the_newer_fields():
    bert = EncoderConfig(**SIZES)
    assert "family" not in architecture_of(bert)
    for family in FAMILIES:
        config = model_of(family).config
        assert EncoderConfig(**architecture_of(config)) == config
        assert architecture_of(config)["family"] == family


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "gpt2"}, "family is 'gpt2': give one of bert, "),
        ({"embedding_size": 0}, "embedding_size is 0: give a whole number of at least 1"),
        ({"position_offset": -1}, "position_offset is -1: give a whole number of at least 0"),
        ({"position_scheme": "rotary"}, "position_scheme is 'rotary': give one of absolute, biased, disentangled"),
        ({"shared_layers": 1}, "shared_layers is 1: give true or false"),
        ({"position_scheme": "biased"}, "relative_buckets is None: position_scheme 'biased' needs one"),
        ({"relative_distance": 9}, "relative_distance is 9: position_scheme 'absolute' has none"),
        (
            {"position_scheme": "biased", "relative_buckets": 6, "relative_distance": 99},
            "relative_buckets is 6 and relative_distance 99: give a multiple of 4",
        ),
        (
            {"position_scheme": "disentangled", "relative_buckets": 256, "relative_distance": 128},
            "a distance of more than half of it",
        ),
        ({"family": "electra", "type_vocab_size": 1}, "question and context need one type each"),
    ],
)
def test_an_impossible_architecture_says_what_is_allowed(changes, message):
    with pytest.raises(ModelError, match=message):
        EncoderConfig(**(SIZES | changes))


def test_a_config_names_its_family():
    assert EncoderConfig(vocab_size=9).family_name == "BERT (post-LN)"
    megatron = EncoderConfig(vocab_size=9, layer_norm="pre")
    assert (megatron.model_type, megatron.family_name) == ("megatron-bert", "Megatron-BERT (pre-LN)")
    assert dataclasses.replace(megatron, layer_norm="post", family="distilbert").family_name == "DistilBERT"
