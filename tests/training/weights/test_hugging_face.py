"""Hugging Face folders become checkpoints that compute the same, and checkpoints become such folders."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    MegatronBertConfig,
    MegatronBertForMaskedLM,
    MegatronBertForPreTraining,
    MegatronBertForQuestionAnswering,
    MegatronBertModel,
)

from spanqa.errors import TokenizerError
from spanqa.tokenization import load_tokenizer
from spanqa.windows import WindowSettings
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.errors import CheckpointError, ImportWeightsError
from spanqa_training.model import EncoderConfig, SpanModel
from spanqa_training.weights.hugging_face import OWN_FILES, write_hugging_face
from spanqa_training.weights.hugging_face_names import hugging_face_keys, hugging_face_weights_from_model
from spanqa_training.weights.recognition import ImportOptions, import_model

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "who", "built", "the", "tower", "?")
BERT = (BertModel, BertForQuestionAnswering, BertForMaskedLM, BertForPreTraining, BertForSequenceClassification)
MEGATRON = (MegatronBertModel, MegatronBertForQuestionAnswering, MegatronBertForMaskedLM, MegatronBertForPreTraining)
EVERY_KIND = pytest.mark.parametrize("model_class", [*BERT, *MEGATRON])
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


def oracle_of(source, model):
    """transformers' question answering model with the source's encoder and the imported head."""
    oracle_class = MegatronBertForQuestionAnswering if type(source) in MEGATRON else BertForQuestionAnswering
    oracle = oracle_class(source.config).eval()
    encoder = getattr(source, "bert", source).state_dict()
    oracle.bert.load_state_dict({name: t for name, t in encoder.items() if not name.startswith("pooler")})
    oracle.qa_outputs.load_state_dict(getattr(source, "qa_outputs", model.head).state_dict())
    return oracle


def as_safetensors(folder):
    """What save_pretrained wrote."""


def as_safetensors_shards(folder):
    split(folder, WEIGHTS, save_file)


def as_bin(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def as_legacy_bin(folder):
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    (folder / WEIGHTS).unlink()


def as_bin_shards(folder):
    split(folder, "pytorch_model.bin", torch.save)


def split(folder, name, save):
    """Deal the weights out to three shards."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    stem, _, suffix = name.partition(".")
    shards = [f"{stem}-{number:05d}-of-00003.{suffix}" for number in (1, 2, 3)]
    for number, shard in enumerate(shards):
        save({key: weights[key] for key in list(weights)[number::3]}, folder / shard)
    shard_of_weight = {key: shards[number % 3] for number, key in enumerate(weights)}
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shard_of_weight}))


STORAGES = (as_safetensors, as_safetensors_shards, as_bin, as_legacy_bin, as_bin_shards)


@pytest.mark.parametrize(
    ("model_class", "store"),
    [
        *((model_class, as_safetensors) for model_class in (*BERT, *MEGATRON)),
        *itertools.product((BertForQuestionAnswering, MegatronBertForPreTraining), STORAGES[1:]),
    ],
)
def test_logits_equal_those_of_transformers(tmp_path, model_class, store):
    source = write_source(tmp_path, model_class)
    store(tmp_path)
    imported = import_model(tmp_path)
    assert_same_logits(imported.model, oracle_of(source, imported.model))
    assert not imported.model.training
    assert all(parameter.requires_grad for parameter in imported.model.parameters())


@EVERY_KIND
def test_every_kind_of_model_is_renamed_back(tmp_path, model_class):
    """The round trip gives transformers' own names and values again."""
    source = write_source(tmp_path, model_class)
    back = hugging_face_weights_from_model(import_model(tmp_path).model)
    wanted = {
        name if name.startswith(("bert.", "qa_outputs.")) else f"bert.{name}": tensor
        for name, tensor in source.state_dict().items()
    }
    shared = [name for name in back if name in wanted]
    assert len(shared) == len(back) - (0 if "QuestionAnswering" in model_class.__name__ else 2)
    for name in shared:
        assert torch.equal(back[name], wanted[name]), name


@pytest.mark.parametrize("family", ["bert", "megatron-bert"])
def test_the_renaming_table_is_one_to_one(family):
    keys = hugging_face_keys(family, 24)
    assert len(set(keys.values())) == len(keys)


@EVERY_KIND
def test_a_masked_lm_head_is_kept_where_there_is_one(tmp_path, model_class):
    source = write_source(tmp_path, model_class)
    imported = import_model(tmp_path)
    if not hasattr(source, "cls"):
        assert imported.lm_head == {}
        assert imported.checkpoint.provenance["masked_lm_head"] is None
        return
    head = source.cls.predictions
    assert set(imported.lm_head) == {"transform.weight", "transform.bias", "norm.weight", "norm.bias", "bias"}
    assert torch.equal(imported.lm_head["transform.weight"], head.transform.dense.weight)
    assert torch.equal(imported.lm_head["norm.bias"], head.transform.LayerNorm.bias)
    assert torch.equal(imported.lm_head["bias"], head.bias)
    assert imported.checkpoint.provenance["masked_lm_head"] == "taken over"


def test_a_masked_lm_head_whose_decoder_is_not_the_word_embedding_is_left_out(tmp_path):
    write_source(tmp_path, BertForMaskedLM)
    name = "cls.predictions.decoder.weight"
    edit_weights(tmp_path, lambda weights: weights | {name: weights["bert.embeddings.word_embeddings.weight"] * 1})
    assert import_model(tmp_path).lm_head
    edit_weights(tmp_path, lambda weights: weights | {name: weights[name] + 1})
    assert import_model(tmp_path).lm_head == {}


def test_half_a_masked_lm_head_is_refused(tmp_path):
    write_source(tmp_path, BertForMaskedLM)
    edit_weights(tmp_path, lambda ws: {n: w for n, w in ws.items() if n != "cls.predictions.transform.dense.bias"})
    with pytest.raises(ImportWeightsError, match=r"lacks cls\.predictions\.transform\.dense\.bias"):
        import_model(tmp_path)


def test_a_head_is_taken_over_where_there_is_one_and_drawn_by_the_seed_elsewhere(tmp_path):
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    source = write_source(tmp_path / "with", BertForQuestionAnswering)
    write_source(tmp_path / "without", BertModel)
    imported = import_model(tmp_path / "with")
    assert torch.equal(imported.model.head.weight, source.qa_outputs.weight)
    assert imported.checkpoint.provenance["head"] == "taken over"
    fresh = [import_model(tmp_path / "without", ImportOptions(seed=seed)) for seed in (1, 1, 2)]
    heads = [imported.model.head for imported in fresh]
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)
    assert not heads[0].bias.any()
    assert fresh[2].checkpoint.provenance["head"] == "fresh, seed 2"


def test_weights_of_sentence_transformers_are_taken_over(tmp_path):
    """Those have no `bert.` prefix and hold a buffer of position ids."""
    write_source(tmp_path, BertModel)
    edit_weights(tmp_path, lambda weights: weights | {"embeddings.position_ids": torch.arange(400)[None]})
    assert "embeddings.position_ids" not in import_model(tmp_path).model.state_dict()


def test_the_first_names_of_layer_norms_are_understood(tmp_path):
    write_source(tmp_path, BertForQuestionAnswering)
    expected = import_model(tmp_path).model

    def old(weights):
        renamed = {}
        for name, tensor in weights.items():
            if "LayerNorm" in name:
                name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            renamed[name] = tensor
        return renamed

    edit_weights(tmp_path, old)
    model = import_model(tmp_path).model
    assert torch.equal(model.layers[1].attention_norm.bias, expected.layers[1].attention_norm.bias)


def test_half_precision_weights_become_float32(tmp_path):
    write_source(tmp_path, BertForMaskedLM)
    edit_weights(tmp_path, lambda weights: {name: tensor.half() for name, tensor in weights.items()})
    imported = import_model(tmp_path)
    tensors = [*imported.model.parameters(), *imported.lm_head.values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_the_models_weights_outlive_the_files(tmp_path):
    """They are copies: overwriting the file changes no weight."""
    write_source(tmp_path, BertForQuestionAnswering)
    as_bin(tmp_path)
    model = import_model(tmp_path).model
    before = model.head.weight.clone()
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(model.head.weight, before)


def test_what_the_user_says_replaces_what_the_configuration_says(tmp_path):
    write_source(tmp_path, MegatronBertModel)
    kept = import_model(tmp_path).checkpoint
    assert (kept.encoder.layer_norm_eps, kept.encoder.activation, kept.encoder.num_heads) == (1e-12, "gelu", 3)
    assert kept.windows == WindowSettings()
    windows = WindowSettings(max_seq_length=200, doc_stride=50)
    options = ImportOptions(
        layer_norm_eps=1e-5,
        activation="gelu_tanh",
        num_heads=6,
        windows=windows,
        config={"hidden_dropout_prob": 0.25, "num_attention_heads": 2},
    )
    imported = import_model(tmp_path, options)
    encoder, provenance = imported.checkpoint.encoder, imported.checkpoint.provenance
    assert (encoder.activation, encoder.num_heads, encoder.dropout) == ("gelu_tanh", 6, 0.25)
    assert encoder.layer_norm_eps == imported.model.final_norm.eps == provenance["layer_norm_eps"] == 1e-5
    assert provenance["layer_norm_eps_of_source"] == 1e-12
    assert imported.checkpoint.windows == windows


def test_an_activation_that_we_do_not_compute_cannot_be_asked_for():
    with pytest.raises(ImportWeightsError, match="activation is 'relu': give one of gelu, gelu_tanh"):
        ImportOptions(activation="relu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, r"config\.json: model_type is 'gpt2': only bert, megatron-bert, "),
        ({"hidden_act": "relu"}, "hidden_act is 'relu': supported are gelu"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key': only 'absolute'"),
        ({"is_decoder": True}, "is_decoder is True: only False"),
        ({"num_attention_heads": 5}, "hidden_size 24 is not a multiple of num_heads 5"),
        ({"num_hidden_layers": 1}, r"model\.safetensors: holds encoder\.layer\.1\..* and 15 more weights"),
        ({"num_hidden_layers": 3}, r"model\.safetensors: lacks encoder\.layer\.2\..*incomplete, or of another arch"),
        ({"intermediate_size": 41}, r"has shape \(40, 24\) and the configuration asks for \(41, 24\)"),
        ({"vocab_size": 17}, r"has shape \(16, 24\) and the configuration asks for \(17, 24\)"),
        ({"type_vocab_size": 1}, "question and context need one type each"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_sentence(tmp_path, changes, message):
    write_source(tmp_path, BertForQuestionAnswering)
    edit_config(tmp_path, **changes)
    with pytest.raises(ImportWeightsError, match=message) as caught:
        import_model(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_an_incomplete_configuration_names_the_key(tmp_path):
    write_source(tmp_path, BertModel)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ImportWeightsError, match="lacks 'vocab_size': give a whole one"):
        import_model(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", "\ud800"])
def test_a_damaged_configuration_is_named(tmp_path, content):
    write_source(tmp_path, BertModel)
    (tmp_path / "config.json").write_text(content, encoding="utf-16" if content == "\ud800" else None, errors="replace")
    with pytest.raises(ImportWeightsError, match=r"config\.json: (holds no JSON object|cannot be read as JSON)"):
        import_model(tmp_path)


def test_missing_and_damaged_weights_are_named(tmp_path):
    write_source(tmp_path, BertModel)
    path = tmp_path / WEIGHTS
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ImportWeightsError, match=r"model\.safetensors: is damaged or incomplete"):
        import_model(tmp_path)
    path.unlink()
    with pytest.raises(ImportWeightsError, match=r"holds no weights: .*model\.safetensors or pytorch_model\.bin"):
        import_model(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(ImportWeightsError, match=r"pytorch_model\.bin: is damaged") as raised:
        import_model(tmp_path)
    assert str(raised.value).count("pytorch_model.bin") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [([torch.ones(1)], "holds a list instead"), ({"bert": {"a": 1}}, "holds under 'bert' a dict instead of a weight")],
)
def test_a_bin_of_something_else_than_weights_is_refused(tmp_path, content, message):
    write_source(tmp_path, BertModel)
    (tmp_path / WEIGHTS).unlink()
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ImportWeightsError, match=rf"pytorch_model\.bin: {message}"):
        import_model(tmp_path)


def test_shards_are_read_from_the_folder_only(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    write_source(folder, BertModel)
    as_safetensors_shards(folder)
    shard = folder / "model-00002-of-00003.safetensors"
    index = folder / f"{WEIGHTS}.index.json"
    whole = json.loads(index.read_text())
    shard.rename(tmp_path / shard.name)
    with pytest.raises(ImportWeightsError, match=rf"{shard.name}: is missing: fetch it"):
        import_model(folder)
    for name in (f"../{shard.name}", str(tmp_path / shard.name), 7, ""):
        moved = {key: name if value == shard.name else value for key, value in whole["weight_map"].items()}
        index.write_text(json.dumps({"weight_map": moved}))
        with pytest.raises(ImportWeightsError, match="only files beside it are read"):
            import_model(folder)


def test_an_index_that_promises_too_much_is_refused(tmp_path):
    write_source(tmp_path, BertModel)
    as_safetensors_shards(tmp_path)
    index = tmp_path / f"{WEIGHTS}.index.json"
    whole = json.loads(index.read_text())["weight_map"]
    index.write_text(json.dumps({"weight_map": whole | {"pooler.more": next(iter(whole.values()))}}))
    with pytest.raises(ImportWeightsError, match=r"names pooler\.more, which no shard holds"):
        import_model(tmp_path)
    index.write_text(json.dumps({"weight_map": {}}))
    with pytest.raises(ImportWeightsError, match=r"index\.json: has no weight_map"):
        import_model(tmp_path)


def test_a_head_of_another_task_is_refused(tmp_path):
    write_source(tmp_path, BertForQuestionAnswering)
    edit_weights(tmp_path, lambda weights: weights | {"qa_outputs.weight": torch.zeros(3, 24)})
    with pytest.raises(ImportWeightsError, match=r"head\.weight has shape \(3, 24\)"):
        import_model(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused_unless_one_is_given(tmp_path):
    write_source(tmp_path, BertModel)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "vocab.txt").rename(tmp_path / "elsewhere" / "vocab.txt")
    with pytest.raises(ImportWeightsError, match=r"no tokenizer\.json or vocab\.txt there: .*\(--tokenizer\)"):
        import_model(tmp_path)
    for given in (tmp_path / "elsewhere", tmp_path / "elsewhere" / "vocab.txt"):
        assert import_model(tmp_path, ImportOptions(tokenizer=given)).checkpoint.tokenizer().vocab_size == 9
    with pytest.raises(TokenizerError, match="cannot be read"):
        import_model(tmp_path, ImportOptions(tokenizer=tmp_path / "missing.txt"))


@pytest.mark.parametrize(("lower", "expected"), [(True, [7]), (False, [1])])
def test_the_tokenizer_of_a_vocabulary_follows_its_configuration_and_the_user(tmp_path, lower, expected):
    write_source(tmp_path, BertModel)
    said = import_model(tmp_path, ImportOptions(do_lower_case=lower))
    assert said.checkpoint.tokenizer().pieces("Tower").ids.tolist() == expected
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    assert import_model(tmp_path).checkpoint.tokenizer().pieces("Tower").ids.tolist() == expected


@pytest.mark.parametrize(("more", "expected"), [("Tower", [9]), ("##X", [1]), ("[unused1]", [7]), ("é", [7])])
def test_a_bare_vocabulary_with_capitals_keeps_case(tmp_path, more, expected):
    write_source(tmp_path, BertModel)
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, more]), encoding="utf-8")
    assert import_model(tmp_path).checkpoint.tokenizer().pieces("Tower").ids.tolist() == expected


def test_the_real_vocabulary_of_lower_cased_text_has_no_capitals(root, tmp_path):
    write_source(tmp_path, BertModel, vocab_size=30522)
    tokenizer = json.loads((root / "training" / "checkpoints" / "spanqa-minilm" / "tokenizer.json").read_text())
    (tmp_path / "vocab.txt").write_text("\n".join(tokenizer["model"]["vocab"]), encoding="utf-8")
    pieces = import_model(tmp_path).checkpoint.tokenizer().pieces_of_many(["Tower", "tower"])
    assert pieces[0].ids.tolist() == pieces[1].ids.tolist()


def real_checkpoint(root, layer_norm="post", **changes):
    """A random model with the real tokenizer."""
    config = EncoderConfig(
        vocab_size=30522,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        intermediate_size=24,
        layer_norm=layer_norm,
        layer_norm_eps=1e-5,
        **changes,
    )
    torch.manual_seed(2)
    model = SpanModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokenizer = (root / "training" / "checkpoints" / "spanqa-minilm" / "tokenizer.json").read_text(encoding="utf-8")
    return Checkpoint(encoder=config, tokenizer_json=tokenizer, no_answer_threshold=1.5), model


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize("layer_norm", ["pre", "post"])
def test_an_exported_folder_computes_the_same_in_transformers_and_when_it_comes_back(
    root, tmp_path, layer_norm, activation
):
    checkpoint, model = real_checkpoint(root, layer_norm, activation=activation)
    folder = tmp_path / "deep" / "export"
    write_hugging_face(checkpoint, model, folder)
    assert {path.name for path in folder.iterdir()} == set(OWN_FILES)
    oracle, report = AutoModelForQuestionAnswering.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    assert type(oracle).__name__ == json.loads((folder / "config.json").read_text())["architectures"][0]
    assert_same_logits(model, oracle.eval())
    back = import_model(folder)
    assert back.checkpoint.encoder == checkpoint.encoder
    for name, tensor in back.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_an_exported_model_comes_back_with_its_windows_and_decode_settings(root, tmp_path):
    checkpoint, model = real_checkpoint(root)
    checkpoint = replace(
        checkpoint,
        windows=WindowSettings(max_seq_length=200, doc_stride=50, max_query_length=40),
        max_answer_tokens=17,
        no_answer_threshold=-2.5,
        temperature=1.25,
        word_boundaries=True,
    )
    write_hugging_face(checkpoint, model, tmp_path / "export")
    back = import_model(tmp_path / "export").checkpoint
    assert replace(back, tokenizer_json=checkpoint.tokenizer_json, provenance={}) == checkpoint
    asked = WindowSettings(max_seq_length=100, doc_stride=20, max_query_length=30)
    assert import_model(tmp_path / "export", ImportOptions(windows=asked)).checkpoint.windows == asked


def test_an_export_from_before_word_boundaries_comes_back_with_parts_of_words(root, tmp_path):
    checkpoint, model = real_checkpoint(root)
    write_hugging_face(replace(checkpoint, word_boundaries=True), model, tmp_path / "export")
    own = json.loads((tmp_path / "export" / "config.json").read_text())["spanqa"]
    del own["word_boundaries"]
    edit_config(tmp_path / "export", spanqa=own)
    back = import_model(tmp_path / "export").checkpoint
    assert (back.word_boundaries, back.no_answer_threshold) == (False, 1.5)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"word_boundaries": "no"}, "spanqa.word_boundaries is 'no': give true or false"),
        ({"word_boundaries": 1}, "spanqa.word_boundaries is 1: give true or false"),
        ({"max_answer_tokens": True}, "spanqa.max_answer_tokens is True: give a whole number"),
        ({"doc_stride": "128"}, "spanqa.doc_stride is '128': give a whole number"),
        ({"temperature": None}, "spanqa.temperature is None: give a number"),
        ({"temperature": 0}, "temperature is 0: give a number above 0"),
        ({"max_seq_length": 4096}, "max_seq_length 4096 is more than the model's 512 positions"),
        ("yes", "spanqa is 'yes': it must hold settings"),
    ],
    ids=str,
)
def test_settings_of_ours_that_cannot_be_are_one_sentence(root, tmp_path, own, message):
    checkpoint, model = real_checkpoint(root)
    write_hugging_face(checkpoint, model, tmp_path / "export")
    edit_config(tmp_path / "export", spanqa=own)
    with pytest.raises(ImportWeightsError, match=message):
        import_model(tmp_path / "export")


def test_an_exported_tokenizer_cuts_real_questions_as_ours_does(root, tmp_path, real_questions):
    checkpoint, model = real_checkpoint(root)
    write_hugging_face(checkpoint, model, tmp_path / "export")
    theirs, ours = AutoTokenizer.from_pretrained(tmp_path / "export"), checkpoint.tokenizer()
    for example in real_questions[::5]:
        question, context = ours.pieces_of_many([example.question, example.context])
        pair = theirs(example.question, example.context)
        expected = [ours.cls_id, *question.ids, ours.sep_id, *context.ids, ours.sep_id]
        assert pair["input_ids"] == expected
        assert pair["token_type_ids"] == [0] * (len(question) + 2) + [1] * (len(context) + 1)
    assert theirs.model_max_length == checkpoint.encoder.max_positions
    assert (theirs.pad_token_id, theirs.mask_token) == (ours.pad_id, "[MASK]")


def test_an_export_of_a_vocabulary_without_a_mask_names_no_mask(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    config = EncoderConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8)
    tokenizer = load_tokenizer(tmp_path / "vocab.txt")
    write_hugging_face(
        Checkpoint(encoder=config, tokenizer_json=tokenizer.serialized), SpanModel(config), tmp_path / "x"
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "x").mask_token is None


def test_an_export_replaces_an_earlier_one_and_nothing_else(root, tmp_path):
    checkpoint, model = real_checkpoint(root)
    folder = tmp_path / "export"
    write_hugging_face(checkpoint, model, folder)
    (folder / "README.md").write_text("a card")
    model.head.bias.data += 1
    write_hugging_face(checkpoint, model, folder)
    assert torch.equal(load_file(folder / WEIGHTS)["qa_outputs.bias"], model.head.bias)
    assert (folder / "README.md").read_text() == "a card"
    other = tmp_path / "other"
    other.mkdir()
    write_hugging_face(checkpoint, model, other)
    source = tmp_path / "source"
    source.mkdir()
    write_source(source, BertModel)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    (tmp_path / "file").write_text("mine")
    for target in (source, tmp_path / "file"):
        with pytest.raises(CheckpointError, match="holds something else than an earlier export and is left alone"):
            write_hugging_face(checkpoint, model, target)
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before


def test_an_interrupted_export_leaves_the_earlier_one(root, tmp_path, monkeypatch):
    checkpoint, model = real_checkpoint(root)
    folder = tmp_path / "export"
    write_hugging_face(checkpoint, model, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*args, **kwargs):
        raise OSError("the disk is full")

    monkeypatch.setattr("spanqa_training.weights.hugging_face.save_file", fail)
    with pytest.raises(CheckpointError, match=r"export: cannot be written: the disk is full"):
        write_hugging_face(checkpoint, model, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@pytest.mark.parametrize(
    ("place", "name"),
    [("our-encoder", "our-encoder"), ("models--acme--encoder/snapshots/0a1b2c", "acme/encoder")],
)
def test_a_source_is_named_by_its_folder_and_not_by_its_parent(tmp_path, place, name):
    write_source(tmp_path / place, BertModel)
    edit_config(tmp_path / place, _name_or_path="the/parent")
    provenance = import_model(tmp_path / place, ImportOptions()).checkpoint.provenance
    assert (provenance["name"], provenance["name_in_config"]) == (name, "the/parent")
