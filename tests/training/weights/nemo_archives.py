"""Archives as NeMo saves them, of a random model of transformers, and how to see that two models compute the same."""

from __future__ import annotations

import io
import json
import tarfile

import torch
import yaml
from transformers import BertConfig, BertForQuestionAnswering, MegatronBertConfig, MegatronBertForQuestionAnswering

TARGETS = {
    "QAModel": "nemo.collections.nlp.models.question_answering.qa_model.QAModel",
    "BERTQAModel": "nemo.collections.nlp.models.question_answering.qa_bert_model.BERTQAModel",
}
HASH = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"


def oracle(family, vocab_size, *, eps=1e-5, heads=2):
    """A random question answering model of transformers."""
    config_class, model_class = {
        "bert": (BertConfig, BertForQuestionAnswering),
        "megatron": (MegatronBertConfig, MegatronBertForQuestionAnswering),
    }[family]
    config = config_class(
        vocab_size=vocab_size,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=heads,
        intermediate_size=96,
        max_position_embeddings=400,
        layer_norm_eps=eps,
    )
    torch.manual_seed(4)
    model = model_class(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def hugging_face_weights(model):
    weights = {f"bert_model.{name}": tensor for name, tensor in model.bert.state_dict().items()}
    pooler = {"bert_model.pooler.dense.weight": torch.ones(128, 128), "bert_model.pooler.dense.bias": torch.ones(128)}
    return {**weights, **pooler, "bert_model.embeddings.position_ids": torch.arange(400)[None]}


def megatron_weights(model, *, version=0, prefix="bert_model.language_model."):
    """Megatron's names and order of rows; one row of padding to 128."""
    embeddings, encoder = model.bert.embeddings, model.bert.encoder
    words = embeddings.word_embeddings.weight
    weights = {
        "embedding.word_embeddings.weight": torch.cat([words, torch.zeros(-len(words) % 128, 128)]),
        "embedding.position_embeddings.weight": embeddings.position_embeddings.weight,
        "embedding.tokentype_embeddings.weight": embeddings.token_type_embeddings.weight,
    }
    for part in ("weight", "bias"):
        weights[f"encoder.final_layernorm.{part}"] = getattr(encoder.ln, part)
        for number, layer in enumerate(encoder.layer):
            own = layer.attention.self
            three = [getattr(module, part).chunk(2) for module in (own.query, own.key, own.value)]
            rows = [head for heads in three for head in heads]
            if version >= 2:
                rows = [rows[index] for index in (0, 2, 4, 1, 3, 5)]
            for name, tensor in {
                "input_layernorm": getattr(layer.attention.ln, part),
                "self_attention.query_key_value": torch.cat(rows),
                "self_attention.dense": getattr(layer.attention.output.dense, part),
                "post_attention_layernorm": getattr(layer.ln, part),
                "mlp.dense_h_to_4h": getattr(layer.intermediate.dense, part),
                "mlp.dense_4h_to_h": getattr(layer.output.dense, part),
            }.items():
                weights[f"encoder.layers.{number}.{name}.{part}"] = tensor
    return {prefix + name: tensor for name, tensor in weights.items()}


def head_weights(model):
    return {f"classifier.mlp.layer0.{name}": tensor for name, tensor in model.qa_outputs.state_dict().items()}


def nemo_config(target="QAModel", **sections):
    """The parts of a model_config.yaml that matter, beside some that do not."""
    config = {
        "target": TARGETS.get(target, target),
        "nemo_version": "1.4.0",
        "dataset": {
            "max_seq_length": 300,
            "doc_stride": 100,
            "max_query_length": 48,
            "max_answer_length": 25,
            "null_score_diff_threshold": -1.5,
            "do_lower_case": True,
            "version_2_with_negative": True,
        },
        "train_ds": {"file": None},
        "tokenizer": {"tokenizer_name": "x", "vocab_file": f"nemo:{HASH}_vocab.txt", "special_tokens": None},
        "language_model": {"pretrained_model_name": "x", "config_file": f"nemo:{HASH}_x_encoder_config.json"},
        "token_classifier": {"num_layers": 1, "num_classes": 2, "log_softmax": False},
    }
    return {**config, **sections}


ENCODER_CONFIGS = {
    "bert": lambda model: model.config.to_dict(),
    "megatron": lambda model: {
        "hidden_size": 128,
        "num_attention_heads": 2,
        "num_layers": 2,
        "max_position_embeddings": 400,
        "onnx_safe": True,
        "tokenizer_type": "BertWordPieceLowerCase",
    },
}


def saved(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def members(model, family, vocabulary, *, target="QAModel", version=0):
    encoder = hugging_face_weights(model) if family == "bert" else megatron_weights(model, version=version)
    weights = {name: tensor.detach().clone() for name, tensor in {**encoder, **head_weights(model)}.items()}
    return {
        "model_config.yaml": yaml.safe_dump(nemo_config(target)).encode(),
        "model_weights.ckpt": saved(weights),
        f"{HASH}_vocab.txt": vocabulary,
        f"{HASH}_x_encoder_config.json": json.dumps(ENCODER_CONFIGS[family](model)).encode(),
        "megatron_checkpoint_version.json": json.dumps({"checkpoint_version": version}).encode(),
    }


def write(path, contents, *, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def changed_config(contents, **sections):
    config = yaml.safe_load(contents["model_config.yaml"])
    return {**contents, "model_config.yaml": yaml.safe_dump({**config, **sections}).encode()}


def assert_same_logits(imported, model):
    generator = torch.Generator().manual_seed(3)
    mask = torch.tensor([[1] * 40, [1] * 17 + [0] * 23])
    ids = torch.randint(1, model.config.vocab_size, mask.shape, generator=generator) * mask
    types = (torch.arange(40) > 8).long() * mask
    with torch.no_grad():
        start, end = imported.model(ids, mask, types)
        expected = model(input_ids=ids, attention_mask=mask, token_type_ids=types)
    for got, wanted in ((start, expected.start_logits), (end, expected.end_logits)):
        torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], atol=1e-5, rtol=0)
