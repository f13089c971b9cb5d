"""What Megatron-LM saves of a model of transformers, and how to see that two models compute the same."""

from __future__ import annotations

import argparse
import functools

import torch
from transformers import MegatronBertConfig, MegatronBertForPreTraining, MegatronBertForQuestionAnswering

HIDDEN_SIZE, N_HEADS, N_LAYERS = 128, 2, 2


def random_model(vocab_size):
    """A random model of transformers, with a masked-LM head and a pooler."""
    config = MegatronBertConfig(
        vocab_size=vocab_size,
        hidden_size=HIDDEN_SIZE,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        intermediate_size=160,
        max_position_embeddings=400,
        layer_norm_eps=1e-5,
    )
    torch.manual_seed(11)
    model = MegatronBertForPreTraining(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def fused(query, key, value, version):
    """Megatron-LM's order of rows, row by row."""
    size = len(query) // N_HEADS
    three, rows = [query, key, value], range(len(query))
    if version < 1:
        order = [(part, row) for part in range(3) for row in rows]
    elif version < 2:
        order = [(part, row) for row in rows for part in range(3)]
    else:
        heads = range(N_HEADS)
        order = [(part, head * size + row) for head in heads for part in range(3) for row in range(size)]
    return torch.stack(three)[[part for part, _ in order], [row for _, row in order]]


def layer_weights(layer, number, version, attention):
    own = layer.attention.self
    names = {
        "input_layernorm": layer.attention.ln,
        f"{attention}.dense": layer.attention.output.dense,
        "post_attention_layernorm": layer.ln,
        "mlp.dense_h_to_4h": layer.intermediate.dense,
        "mlp.dense_4h_to_h": layer.output.dense,
    }
    weights = {}
    for part in ("weight", "bias"):
        weights |= {f"layers.{number}.{name}.{part}": getattr(module, part) for name, module in names.items()}
        three = [getattr(module, part) for module in (own.query, own.key, own.value)]
        weights[f"layers.{number}.{attention}.query_key_value.{part}"] = fused(*three, version)
    return weights


def padded(rows, n_rows):
    """Rows of noise beyond the vocabulary."""
    return torch.cat([rows, torch.full((n_rows - len(rows), *rows.shape[1:]), 7.0)])


def megatron_state(model, *, version=None, attention="self_attention", transformer="encoder", n_rows=None, types=True):
    """What Megatron-LM's BertModel saves, nested."""
    bert = model.bert
    words = bert.embeddings.word_embeddings.weight
    n_rows = n_rows or -(-len(words) // 128) * 128
    weights = {f"final_layernorm.{part}": getattr(bert.encoder.ln, part) for part in ("weight", "bias")}
    for number, layer in enumerate(bert.encoder.layer):
        weights |= layer_weights(layer, number, version or 0, attention)
    embedding = {
        "word_embeddings": {"weight": padded(words, n_rows)},
        "position_embeddings": {"weight": bert.embeddings.position_embeddings.weight},
    }
    if types:
        embedding["tokentype_embeddings"] = {"weight": bert.embeddings.token_type_embeddings.weight}
    head = model.cls.predictions
    lm_head = {"bias": padded(head.bias, n_rows)}
    for part in ("weight", "bias"):
        lm_head[f"dense.{part}"] = getattr(head.transform.dense, part)
        lm_head[f"layernorm.{part}"] = getattr(head.transform.LayerNorm, part)
    return detached(
        {
            "language_model": {
                "embedding": embedding,
                transformer: weights,
                "pooler": {f"dense.{part}": getattr(bert.pooler.dense, part) for part in ("weight", "bias")},
            },
            "lm_head": lm_head,
            "binary_head": {"weight": model.cls.seq_relationship.weight, "bias": model.cls.seq_relationship.bias},
        }
    )


def detached(tree):
    if isinstance(tree, dict):
        return {key: detached(value) for key, value in tree.items()}
    return tree.detach().clone()


def flat(tree, prefix=""):
    """Dotted names in one dictionary."""
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {name: tensor for key, value in tree.items() for name, tensor in flat(value, f"{prefix}{key}.").items()}


def arguments(**changes):
    said = {
        "hidden_size": HIDDEN_SIZE,
        "num_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "ffn_hidden_size": 160,
        "max_position_embeddings": 400,
        "layernorm_epsilon": 1e-5,
        "hidden_dropout": 0.15,
        "attention_dropout": 0.05,
        "bias_gelu_fusion": True,
        "openai_gelu": False,
        "onnx_safe": None,
        "apply_residual_connection_post_layernorm": False,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
        "params_dtype": torch.float16,
    }
    return argparse.Namespace(**{**said, **changes})


def write(path, state, *, zipped=True, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": state, "iteration": 3, **content}, path, _use_new_zipfile_serialization=zipped)
    return path


def batch(vocab_size):
    """Three windows, two padded."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.tensor([[1] * 40, [1] * 17 + [0] * 23, [1] * 3 + [0] * 37])
    ids = torch.randint(1, vocab_size, mask.shape, generator=generator) * mask
    return ids, mask, (torch.arange(40) > 8).long() * mask


@functools.cache
def logits_of_transformers(source, zero_types, hidden_act):
    """Of its question answering model with the source's encoder and the head that seed 0 draws."""
    config = MegatronBertConfig(**{**source.config.to_dict(), "hidden_act": hidden_act})
    model = MegatronBertForQuestionAnswering(config).eval()
    encoder = {name: t for name, t in source.bert.state_dict().items() if not name.startswith("pooler")}
    if zero_types:
        encoder["embeddings.token_type_embeddings.weight"] = torch.zeros(2, HIDDEN_SIZE)
    model.bert.load_state_dict(encoder)
    torch.nn.init.normal_(model.qa_outputs.weight, std=0.02, generator=torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(model.qa_outputs.bias)
    ids, mask, types = batch(config.vocab_size)
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask, token_type_ids=types)
    return model.qa_outputs.weight.detach(), expected.start_logits, expected.end_logits


def assert_same_logits(imported, source, *, zero_types=False, hidden_act="gelu"):
    head, *expected = logits_of_transformers(source, zero_types, hidden_act)
    assert torch.equal(imported.model.head.weight, head)
    ids, mask, types = batch(source.config.vocab_size)
    with torch.no_grad():
        got = imported.model(ids, mask, types)
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()], atol=1e-5, rtol=0)
