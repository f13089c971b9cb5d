"""The masked language model computes what transformers computes, and its head stays with the checkpoint."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, MegatronBertConfig, MegatronBertForMaskedLM

from spanqa_training.adaptation.language_model import MaskedLanguageModel
from spanqa_training.checkpoints.checkpoint import load_checkpoint, load_lm_head, save_checkpoint
from spanqa_training.errors import CheckpointError
from spanqa_training.model import EncoderConfig, SpanModel
from spanqa_training.weights.model_sources import lm_head_of, open_model

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "built", "the", "tower", "?")
SIZES = {
    "vocab_size": 16,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
}
KINDS = [(BertConfig, BertForMaskedLM), (MegatronBertConfig, MegatronBertForMaskedLM)]


@pytest.fixture(params=KINDS, ids=["BERT", "Megatron-BERT"])
def source(request, tmp_path):
    """A random model of transformers, saved beside a vocabulary."""
    config_class, model_class = request.param
    torch.manual_seed(5)
    model = model_class(config_class(**SIZES)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return model, tmp_path / "source"


def batch():
    mask = torch.tensor([[1] * 12, [1] * 7 + [0] * 5])
    ids = torch.randint(1, 16, mask.shape, generator=torch.Generator().manual_seed(3)) * mask
    return ids, mask, torch.zeros_like(ids)


def masked_model(path):
    checkpoint, encoder = open_model(path)
    model = MaskedLanguageModel(encoder).eval()
    model.take_lm_head(lm_head_of(path))
    return checkpoint, model


@torch.inference_mode()
def test_scores_are_those_of_transformers_before_and_after_a_checkpoint(source, tmp_path):
    theirs, folder = source
    ids, mask, types = batch()
    places = torch.tensor([0, 3, 11, 12, 18])
    wanted = theirs(ids, attention_mask=mask, token_type_ids=types).logits.reshape(-1, 16)[places]
    checkpoint, model = masked_model(folder)
    torch.testing.assert_close(model(ids, mask, types, places), wanted, rtol=0, atol=1e-5)
    save_checkpoint(checkpoint, model.encoder, tmp_path / "kept.tlt", lm_head=model.lm_head())
    _, again = masked_model(tmp_path / "kept.tlt")
    assert torch.equal(again(ids, mask, types, places), model(ids, mask, types, places))


def test_the_scores_share_the_word_embeddings_and_leave_the_head_for_questions_alone():
    config = EncoderConfig(
        vocab_size=16, hidden_size=24, num_layers=1, num_heads=3, intermediate_size=40, max_positions=64, dropout=0.0
    )
    model = MaskedLanguageModel(SpanModel(config))
    ids, mask, types = batch()
    model(ids, mask, types, torch.tensor([1, 2])).sum().backward()
    assert model.encoder.embeddings.word.weight.grad.abs().sum(dim=1).min() > 0, "all scores, not the read rows alone"
    assert model.encoder.head.weight.grad is None
    assert not any("decoder" in name for name in model.state_dict())


def test_a_fresh_head_is_the_seeds():
    config = EncoderConfig(
        vocab_size=16, hidden_size=24, num_layers=1, num_heads=3, intermediate_size=40, max_positions=64
    )
    encoder = SpanModel(config)
    one, same, other = (MaskedLanguageModel(encoder, seed).lm_head()["transform.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bias", lambda bias: bias[:-1], r"bias has shape \(15,\) and the encoder asks for \(16,\)"),
        ("norm.bias", None, "holds bias, norm.weight, transform.bias, transform.weight and should hold"),
    ],
)
def test_a_head_of_another_vocabulary_or_half_a_head_is_refused(source, tmp_path, name, change, message):
    checkpoint, model = masked_model(source[1])
    head = model.lm_head()
    removed = head.pop(name)
    if change:
        head[name] = change(removed)
    save_checkpoint(checkpoint, model.encoder, tmp_path / "bad.tlt", lm_head=head)
    assert load_lm_head(tmp_path / "bad.tlt").keys() == head.keys()
    with pytest.raises(CheckpointError, match=message):
        masked_model(tmp_path / "bad.tlt")
    load_checkpoint(tmp_path / "bad.tlt")
