"""Every family's folders become checkpoints that compute the same, and come back byte for byte."""

from __future__ import annotations

import io
import json
import shutil
import tarfile

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForQuestionAnswering

from spanqa_training.adaptation.language_model import MaskedLanguageModel
from spanqa_training.checkpoints.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from spanqa_training.errors import ImportWeightsError
from spanqa_training.model import FAMILIES, SpanModel
from spanqa_training.weights.families.table import HUGGING_FACE_FAMILIES
from spanqa_training.weights.hugging_face import write_hugging_face
from spanqa_training.weights.hugging_face_names import hugging_face_keys, parts_from_hugging_face
from spanqa_training.weights.recognition import import_model

WEIGHTS = "model.safetensors"
TOLERANCE = 1e-5
MASKED_LM = {
    **dict.fromkeys(("bert", "megatron-bert"), "cls.predictions"),
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "mpnet"), "lm_head"),
    "distilbert": "vocab_projector",
    "electra": "generator_lm_head",
    "albert": "predictions",
}
"""Families whose masked language model has a head of our form -> where its bias is."""


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread():
    """Small products only: threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def windows(lengths, vocab_size, pad_id):
    """Random windows of these many tokens, padded to the longest with the family's padding."""
    generator = torch.Generator().manual_seed(sum(lengths))
    shape = (len(lengths), max(lengths))
    mask = torch.tensor([[int(column < length) for column in range(shape[1])] for length in lengths])
    ids = torch.randint(4, vocab_size, shape, generator=generator) * mask + pad_id * (1 - mask)
    return ids, mask, torch.randint(0, 2, shape, generator=generator) * mask


def largest_difference(got, wanted, mask):
    kept = mask.bool()
    return max(float((one[kept] - other[kept]).abs().max()) for one, other in zip(got, wanted, strict=True))


def test_every_family_that_has_a_name_has_a_table_and_none_is_left_untested(every_family):
    assert set(HUGGING_FACE_FAMILIES) == set(FAMILIES) == set(every_family)


@pytest.mark.parametrize("lengths", [(128,), (1,), (60, 33, 2)])
def test_logits_equal_those_of_transformers(source, oracle_logits, lengths):
    """With padding, and with the longest window that there are positions for."""
    family, _, oracle, imported = source
    config = imported.checkpoint.encoder
    assert config.max_positions == 128
    inputs = windows(lengths, 90, oracle.config.pad_token_id)
    wanted = oracle_logits(oracle, family, *inputs)
    for attention in ("eager", "sdpa"):
        model = imported.model
        model.attention = attention
        with torch.no_grad():
            got = model(*inputs)
        assert largest_difference(got, wanted, inputs[1]) < TOLERANCE


def test_logits_at_the_widths_of_the_base_models_equal_those_of_transformers(real_widths, oracle_logits, every_family):
    for family in every_family:
        if family in ("xlm-roberta", "camembert", "megatron-bert"):
            continue  # of one architecture with another, or with the small ones
        oracle = real_widths[family]()
        parts = parts_from_hugging_face(oracle.state_dict(), oracle.config.to_dict())
        model = SpanModel(parts.config).eval()
        model.load_state_dict({**parts.encoder, **parts.head})
        inputs = windows((200, 60), 1_000, oracle.config.pad_token_id)
        with torch.no_grad():
            got = model(*inputs)
        assert largest_difference(got, oracle_logits(oracle, family, *inputs), inputs[1]) < TOLERANCE, family


def test_a_folder_comes_back_byte_for_byte(source, oracle_logits, tmp_path):
    """Folder, checkpoint, folder: the same tensors under the same names, which transformers reads as the same model."""
    family, folder, oracle, imported = source
    save_checkpoint(imported.checkpoint, imported.model, tmp_path / "checkpoint")
    checkpoint, model = load_checkpoint(tmp_path / "checkpoint")
    assert checkpoint.encoder == imported.checkpoint.encoder
    assert checkpoint.encoder.model_type == family
    write_hugging_face(checkpoint, model, tmp_path / "back")
    before, after = load_file(folder / WEIGHTS), load_file(tmp_path / "back" / WEIGHTS)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert tensor.numpy().tobytes() == after[name].numpy().tobytes(), name
    again = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "back").eval()
    assert type(again) is type(oracle)
    inputs = windows((50, 20), 90, oracle.config.pad_token_id)
    wanted = oracle_logits(oracle, family, *inputs)
    assert largest_difference(oracle_logits(again, family, *inputs), wanted, inputs[1]) == 0
    assert import_model(tmp_path / "back").checkpoint.encoder == checkpoint.encoder


def test_an_exported_configuration_says_of_the_architecture_what_the_first_said(source, tmp_path):
    _, folder, _, imported = source
    write_hugging_face(imported.checkpoint, imported.model, tmp_path / "back")
    said = json.loads((tmp_path / "back" / "config.json").read_text())
    before, after = (AutoConfig.from_pretrained(path).to_dict() for path in (folder, tmp_path / "back"))
    assert before["max_position_embeddings"] == after["max_position_embeddings"]
    differing = {key for key in said.keys() & before.keys() if before[key] != after[key]}
    # Positions of distances are as many as all, which the first left unsaid.
    assert differing <= {"max_relative_positions", "architectures"}


@pytest.mark.parametrize("family", MASKED_LM)
def test_a_masked_lm_head_is_taken_over_and_scores_the_same(tmp_path, save, family):
    oracle = save(tmp_path, family, "ForMaskedLM")
    imported = import_model(tmp_path)
    assert imported.checkpoint.provenance["masked_lm_head"] == "taken over"
    model = MaskedLanguageModel(imported.model).eval()
    model.take_lm_head(imported.lm_head)
    ids, mask, _ = windows((40,), 90, oracle.config.pad_token_id)
    with torch.no_grad():
        wanted = oracle(input_ids=ids, attention_mask=mask).logits[0]
        got = model(ids, mask, torch.zeros_like(ids), torch.arange(40))
    assert float((got - wanted).abs().max()) < TOLERANCE


@pytest.mark.parametrize("family", ["roberta", "albert", "mpnet"])
@pytest.mark.parametrize("kept", ["own", "decoder"])
def test_the_bias_of_a_masked_lm_head_is_found_under_either_of_its_names(tmp_path, save, family, kept):
    save(tmp_path, family, "ForMaskedLM")
    weights = load_file(tmp_path / WEIGHTS)
    own, decoder = (f"{MASKED_LM[family]}.{name}" for name in ("bias", "decoder.bias"))
    bias = weights.pop(own) if own in weights else weights.pop(decoder)
    weights.pop(decoder, None)
    save_file(weights | {own if kept == "own" else decoder: bias}, tmp_path / WEIGHTS)
    assert torch.equal(import_model(tmp_path).lm_head["bias"], bias)


def test_a_discriminator_has_no_masked_lm_head(tmp_path, save):
    save(tmp_path, "electra", "ForPreTraining")
    imported = import_model(tmp_path)
    assert imported.lm_head == {}
    assert imported.checkpoint.provenance["masked_lm_head"] is None


@pytest.mark.parametrize("family", ["roberta", "distilbert", "electra", "albert", "mpnet", "deberta-v2"])
def test_an_encoder_without_a_head_is_taken_over_with_a_fresh_one(tmp_path, save, family):
    """Without the prefix too, and with a pooler, as sentence encoders come."""
    oracle = save(tmp_path, family, "Model")
    imported = import_model(tmp_path)
    assert imported.checkpoint.provenance["head"] == "fresh, seed 0"
    assert imported.checkpoint.provenance["model_type"] == family
    words = oracle.get_input_embeddings().weight
    assert torch.equal(imported.model.embeddings.word.weight, words)


def test_embeddings_as_wide_as_the_states_have_no_projection_in_electra(tmp_path, save):
    save(tmp_path, "electra", embedding_size=48)
    config = import_model(tmp_path).checkpoint.encoder
    assert config.embedding_size is None
    assert config.table_width == 48


@pytest.mark.parametrize("family", HUGGING_FACE_FAMILIES)
def test_every_table_is_one_to_one(family):
    keys = hugging_face_keys(family, 24)
    assert len(set(keys.values())) == len(keys)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("roberta", {"model_type": "gpt2"}, r"model_type is 'gpt2': only bert, .* and deberta-v2 can be taken over"),
        ("roberta", {"model_type": None}, "model_type is None: only bert"),
        (
            "roberta",
            {"pad_token_id": 0},
            r"tokenizer pads with id 1, and the positions of the weights begin after id 0",
        ),
        ("roberta", {"pad_token_id": None}, "pad_token_id is None .* positions begin after the padding's id"),
        ("roberta", {"pad_token_id": 600}, "pad_token_id is 600 and max_position_embeddings 130"),
        ("roberta", {"position_embedding_type": "relative_key"}, "only 'absolute' is supported"),
        ("distilbert", {"activation": "relu"}, "activation is 'relu': supported are gelu"),
        ("distilbert", {"n_heads": 5}, "hidden_size 48 is not a multiple of num_heads 5"),
        ("distilbert", {"n_layers": 4}, r"lacks transformer\.layer\.3\."),
        ("electra", {"embedding_size": 32}, r"has shape \(90, 24\) and the configuration asks for \(90, 32\)"),
        ("albert", {"num_hidden_groups": 2}, "num_hidden_groups is 2: only 1 is supported"),
        ("albert", {"inner_group_num": 2}, "inner_group_num is 2: only 1 is supported"),
        ("mpnet", {"relative_attention_num_buckets": 64}, "only 32 is supported"),
        ("deberta-v2", {"conv_kernel_size": 3}, "conv_kernel_size is 3: only 0 is supported"),
        ("deberta-v2", {"pos_att_type": ["c2p"]}, r"pos_att_type is \['c2p'\]: only 'p2c|c2p' is supported"),
        ("deberta-v2", {"position_biased_input": True}, "position_biased_input is True: only False"),
        ("deberta-v2", {"relative_attention": False}, "relative_attention is False: only True"),
        ("deberta-v2", {"position_buckets": -1}, "relative_buckets is -1: give a whole number"),
    ],
)
def test_a_variant_that_is_not_computed_is_one_sentence(tmp_path, save, edited, family, changes, message):
    save(tmp_path, family)
    with pytest.raises(ImportWeightsError, match=message) as caught:
        import_model(edited(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_family_says_so_and_one_of_bert_reads_as_before(source, tmp_path):
    family, _, _, imported = source
    save_checkpoint(imported.checkpoint, imported.model, tmp_path / "checkpoint")
    said = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    is_bert = family in ("bert", "megatron-bert")
    assert said["format_version"] == (1 if is_bert else 2)
    assert said["encoder"].get("family", "bert") == ("bert" if is_bert else family)
    new = {"family", "embedding_size", "position_offset", "position_scheme", "relative_buckets", "shared_layers"}
    assert not is_bert or not new & said["encoder"].keys()
    assert read_checkpoint(tmp_path / "checkpoint").encoder == imported.checkpoint.encoder
    shutil.rmtree(tmp_path / "checkpoint")


@pytest.mark.parametrize("family", ["roberta", "distilbert", "albert"])
def test_nemo_archives_may_hold_any_family(tmp_path, save, oracle_logits, family):
    """NeMo wraps transformers' encoders, and keeps their configuration."""
    oracle = save(tmp_path, family)
    weights = {f"bert_model.{name}": t for name, t in oracle.base_model.state_dict().items()}
    head = oracle.qa_outputs
    weights |= {"classifier.mlp.layer0.weight": head.weight, "classifier.mlp.layer0.bias": head.bias}
    content = io.BytesIO()
    torch.save(weights, content)
    config = {"target": "nemo.collections.nlp.models.question_answering.qa_model.QAModel"}
    with tarfile.open(tmp_path / "model.nemo", "w") as archive:
        for name, data in (
            ("model_config.yaml", yaml.safe_dump(config).encode()),
            ("encoder_config.json", json.dumps(oracle.config.to_dict()).encode()),
            ("tokenizer.json", (tmp_path / "tokenizer.json").read_bytes()),
            ("model_weights.ckpt", content.getvalue()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    imported = import_model(tmp_path / "model.nemo")
    assert imported.checkpoint.encoder.model_type == family
    inputs = windows((30, 12), 90, oracle.config.pad_token_id)
    with torch.no_grad():
        got = imported.model(*inputs)
    assert largest_difference(got, oracle_logits(oracle, family, *inputs), inputs[1]) < TOLERANCE
