"""Small random models of every family as transformers saves them, each with a tokenizer of its kind."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
import transformers
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from spanqa_training.weights.recognition import import_model

SIZES = {
    "vocab_size": 90,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 128,
}
DISTILBERT_SIZES = {
    "vocab_size": 90,
    "dim": 48,
    "n_layers": 3,
    "n_heads": 4,
    "hidden_dim": 80,
    "max_position_embeddings": 128,
}
DEBERTA = {
    "relative_attention": True,
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": "p2c|c2p",
    "position_biased_input": False,
    "type_vocab_size": 0,
}
ONE_TYPE = {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "max_position_embeddings": 130}
"""RoBERTa's: positions begin after the padding's id, 1, so that two more rows hold windows of 128."""

FAMILIES = {
    "bert": ("Bert", SIZES),
    "megatron-bert": ("MegatronBert", SIZES),
    "roberta": ("Roberta", SIZES | ONE_TYPE),
    "xlm-roberta": ("XLMRoberta", SIZES | ONE_TYPE),
    "camembert": ("Camembert", SIZES | ONE_TYPE),
    "distilbert": ("DistilBert", DISTILBERT_SIZES),
    "electra": ("Electra", SIZES | {"embedding_size": 24}),
    "albert": ("Albert", SIZES | {"embedding_size": 24}),
    "mpnet": ("MPNet", SIZES | {"max_position_embeddings": 130}),
    "deberta-v2": ("DebertaV2", SIZES | DEBERTA),
}
"""By model_type: the name in transformers' classes, and a small configuration."""

READS_TYPES = ("bert", "megatron-bert", "electra", "albert")
WITHOUT_TYPES = ("distilbert", "mpnet")
"""Families whose classes take no token types at all."""


def random_oracle(family, kind="ForQuestionAnswering", std=0.2, **changes):
    """A model of transformers whose every weight is random."""
    name, sizes = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**(sizes | changes))
    torch.manual_seed(7)
    oracle = getattr(transformers, f"{name}{kind}")(config).eval()
    for key, parameter in oracle.named_parameters():
        is_scale = key.endswith("weight") and parameter.ndim == 1  # of a layer norm
        torch.nn.init.normal_(parameter, mean=float(is_scale), std=std)
    return oracle


def tokenizer_of(family):
    """A tokenizer.json with the special tokens, the template and the padding of a family."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    if family in ("bert", "megatron-bert", "distilbert", "electra"):
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
        backend = Backend(models.WordPiece({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer()
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        first, last, between = "[CLS]", "[SEP]", "[SEP]"
    elif family in ("albert", "deberta-v2"):
        words = [
            ("[PAD]", 0.0),
            ("[CLS]", 0.0),
            ("[SEP]", 0.0),
            ("[UNK]", 0.0),
            *((letter, -2.0) for letter in letters),
        ]
        backend = Backend(models.Unigram([*words, ("▁", -2.0)], unk_id=3))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        first, last, between = "[CLS]", "[SEP]", "[SEP]"
    else:
        words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())[:60]]
        backend = Backend(models.BPE({word: index for index, word in enumerate(words)}, [], unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        first, last, between = "<s>", "</s>", "</s> </s>"
    second = 1 if family in READS_TYPES else 0
    ids = backend.token_to_id
    backend.add_special_tokens([token for token in (first, last) if ids(token) is not None])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {between} $B:{second} {last}:{second}",
        special_tokens=[(token, ids(token)) for token in (first, last)],
    )
    padding = "<pad>" if ids("<pad>") is not None else "[PAD]"
    backend.enable_padding(pad_id=ids(padding), pad_token=padding)
    return backend.to_str()


def save_folder(folder, family, kind="ForQuestionAnswering", **changes):
    """Save a model and its tokenizer as transformers does; returns the model."""
    oracle = random_oracle(family, kind, **changes)
    oracle.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer_of(family), encoding="utf-8")
    return oracle


@pytest.fixture(scope="session")
def every_family():
    return tuple(FAMILIES)


@pytest.fixture(scope="session", params=FAMILIES)
def source(request, tmp_path_factory):
    """A family, its folder, the model of transformers and the one taken over."""
    folder = tmp_path_factory.mktemp("families") / request.param
    folder.mkdir()
    oracle = save_folder(folder, request.param)
    return request.param, folder, oracle, import_model(folder)


@pytest.fixture
def save():
    """Saves a model of a family: `save(folder, family, kind, **changes)`."""
    return save_folder


@pytest.fixture
def oracle_logits():
    """What transformers gives for windows of ours."""

    def logits(oracle, family, ids, mask, types):
        given = {} if family in WITHOUT_TYPES else {"token_type_ids": types if family in READS_TYPES else types * 0}
        with torch.no_grad():
            out = oracle(input_ids=ids, attention_mask=mask, **given)
        return out.start_logits, out.end_logits

    return logits


@pytest.fixture
def edited():
    """Changes a folder's config.json."""

    def edit(folder, **changes):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return folder

    return edit


@pytest.fixture
def real_widths():
    """Oracles as wide as the base models, with one layer and a small vocabulary."""
    wide = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "num_hidden_layers": 1}
    distilbert = {"dim": 768, "n_heads": 12, "hidden_dim": 3072, "n_layers": 1}
    changes = {family: wide | {"max_position_embeddings": 512} for family in FAMILIES}
    changes["distilbert"] = distilbert | {"max_position_embeddings": 512}
    for family in ("roberta", "xlm-roberta", "camembert", "mpnet"):
        changes[family] = wide | {"max_position_embeddings": 514}
    changes["electra"] |= {"embedding_size": 128}
    changes["albert"] |= {"embedding_size": 128}
    changes["deberta-v2"] |= {"position_buckets": 256}
    return {
        family: partial(random_oracle, family, std=0.03, vocab_size=1_000, **said) for family, said in changes.items()
    }
