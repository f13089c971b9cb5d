"""Folders as transformers saves them, of small random models, and how to see that two models compute the same."""

from __future__ import annotations

import json

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    MegatronBertConfig,
    MegatronBertForMaskedLM,
    MegatronBertForPreTraining,
    MegatronBertForQuestionAnswering,
    MegatronBertModel,
)

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "who", "built", "the", "tower", "?")
MEGATRON = (MegatronBertModel, MegatronBertForQuestionAnswering, MegatronBertForMaskedLM, MegatronBertForPreTraining)
WEIGHTS = "model.safetensors"


def write_source(folder, model_class, vocab_size=16):
    """Save a small random model with transformers; returns it."""
    config_class = MegatronBertConfig if model_class in MEGATRON else BertConfig
    config = config_class(
        vocab_size=vocab_size,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=400,
    )
    torch.manual_seed(5)
    source = model_class(config).eval()
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    source.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return source


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder, change):
    weights = load_file(folder / WEIGHTS)
    save_file(change({name: tensor.clone() for name, tensor in weights.items()}), folder / WEIGHTS)


def batch(vocab_size=16):
    """Two windows, one padded."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.tensor([[1] * 30, [1] * 11 + [0] * 19])
    ids = torch.randint(1, vocab_size, mask.shape, generator=generator) * mask
    return ids, mask, (torch.arange(30) > 6).long() * mask


def assert_same_logits(model, oracle):
    ids, mask, types = batch()
    with torch.no_grad():
        start, end = model(ids, mask, types)
        expected = oracle(input_ids=ids, attention_mask=mask, token_type_ids=types)
    for got, wanted in ((start, expected.start_logits), (end, expected.end_logits)):
        torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-5, rtol=0)
