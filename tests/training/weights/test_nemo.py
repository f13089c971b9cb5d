"""NeMo's question answering models become checkpoints that compute the same, cut contexts the same and answer so."""

from __future__ import annotations

import io
import json
import tarfile

import pytest
import torch
import yaml
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    MegatronBertConfig,
    MegatronBertForQuestionAnswering,
)

from spanqa.errors import TokenizerError
from spanqa.tokenization import load_tokenizer
from spanqa.windows import WindowSettings
from spanqa_training.errors import ImportWeightsError
from spanqa_training.weights.recognition import ImportOptions, import_model

TARGETS = {
    "QAModel": "nemo.collections.nlp.models.question_answering.qa_model.QAModel",
    "BERTQAModel": "nemo.collections.nlp.models.question_answering.qa_bert_model.BERTQAModel",
}
HASH = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
FAMILIES = ["bert", "megatron"]


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


@pytest.fixture(scope="module")
def vocabulary(vocabulary_file):
    return vocabulary_file.read_bytes()


@pytest.fixture(scope="module")
def models(vocabulary_file):
    vocab_size = load_tokenizer(vocabulary_file).vocab_size
    return {family: oracle(family, vocab_size) for family in FAMILIES}


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


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("family", "version"), [("bert", 0), ("megatron", 0), ("megatron", 3.0)])
def test_logits_equal_those_of_transformers(tmp_path, models, vocabulary, family, version, target, mode):
    contents = members(models[family], family, vocabulary, target=target, version=version)
    imported = import_model(write(tmp_path / "qa.nemo", contents, mode=mode))
    assert_same_logits(imported, models[family])
    provenance = imported.checkpoint.provenance
    assert (provenance["source"], provenance["architectures"]) == ("NeMo archive", [target])
    assert provenance["head"] == "taken over"


def test_windows_and_answer_settings_are_carried_over(tmp_path, models, vocabulary):
    path = write(tmp_path / "qa.nemo", members(models["bert"], "bert", vocabulary))
    checkpoint = import_model(path).checkpoint
    assert checkpoint.windows == WindowSettings(max_seq_length=300, doc_stride=100, max_query_length=48)
    assert (checkpoint.max_answer_tokens, checkpoint.no_answer_threshold) == (25, -1.5)
    windows = WindowSettings(max_seq_length=200)
    assert import_model(path, ImportOptions(windows=windows)).checkpoint.windows == windows


def test_an_archive_that_says_nothing_of_windows_gets_berts(tmp_path, models, vocabulary):
    contents = changed_config(members(models["bert"], "bert", vocabulary), dataset={"max_seq_length": None})
    checkpoint = import_model(write(tmp_path / "qa.nemo", contents)).checkpoint
    assert (checkpoint.windows, checkpoint.max_answer_tokens) == (WindowSettings(), 30)


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_configuration_of_the_encoder_its_shapes_tell(tmp_path, models, vocabulary, family):
    contents = members(models[family], family, vocabulary)
    del contents[f"{HASH}_x_encoder_config.json"]
    contents = changed_config(contents, language_model={"config_file": None, "config": None})
    eps = models[family].config.layer_norm_eps
    assert_same_logits(
        import_model(write(tmp_path / "qa.nemo", contents), ImportOptions(layer_norm_eps=eps)), models[family]
    )


def test_the_encoder_may_be_described_in_the_models_own_configuration(tmp_path, models, vocabulary):
    contents = members(models["bert"], "bert", vocabulary)
    described = json.loads(contents.pop(f"{HASH}_x_encoder_config.json"))
    contents = changed_config(contents, language_model={"config_file": None, "config": described})
    assert_same_logits(import_model(write(tmp_path / "qa.nemo", contents)), models["bert"])


def test_the_version_of_fused_weights_is_the_archives_or_nemos_default(tmp_path, models, vocabulary):
    """The first without a word; the newest where NeMo's own encoder says that it is no legacy."""
    for version, encoder_config in ((0, {}), (3.0, {"megatron_legacy": False}), (0, {"megatron_legacy": True})):
        contents = members(models["megatron"], "megatron", vocabulary, version=version)
        del contents["megatron_checkpoint_version.json"]
        contents[f"{HASH}_x_encoder_config.json"] = json.dumps({"num_layers": 2, **encoder_config}).encode()
        imported = import_model(write(tmp_path / "qa.nemo", contents))
        assert_same_logits(imported, models["megatron"])
        assert imported.checkpoint.provenance["checkpoint_version"] == version


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.vocab_file", f"{HASH}_tokenizer.vocab_file"])
def test_the_vocabulary_is_found_under_every_name_that_nemo_gave_it(tmp_path, models, vocabulary, name):
    contents = members(models["bert"], "bert", vocabulary)
    contents[name] = contents.pop(f"{HASH}_vocab.txt")
    contents = changed_config(contents, tokenizer={"vocab_file": "/workspace/vocab.txt"})
    assert_same_logits(import_model(write(tmp_path / "qa.nemo", contents)), models["bert"])


def test_a_tokenizer_json_or_a_vocabulary_beside_the_archive_serves_as_well(
    tmp_path, models, vocabulary_file, vocabulary
):
    contents = members(models["bert"], "bert", vocabulary)
    del contents[f"{HASH}_vocab.txt"]
    path = write(tmp_path / "qa.nemo", contents)
    with pytest.raises(ImportWeightsError, match=rf"{tmp_path}: no tokenizer\.json or vocab\.txt there"):
        import_model(path)
    assert_same_logits(import_model(path, ImportOptions(tokenizer=vocabulary_file)), models["bert"])
    contents[f"{HASH}_tokenizer.json"] = load_tokenizer(vocabulary_file).serialized.encode()
    assert_same_logits(import_model(write(path, contents)), models["bert"])
    del contents[f"{HASH}_tokenizer.json"]
    (tmp_path / "vocab.txt").write_bytes(vocabulary)
    assert_same_logits(import_model(write(path, contents)), models["bert"])


@pytest.mark.parametrize(
    ("said", "more", "user", "lowers"),
    [
        (True, "tower", None, True),
        (False, "tower", None, False),
        (None, "tower", None, True),
        (True, "Tower", None, False),
        (True, "Tower", True, True),
        (True, "tower", False, False),
    ],
)
def test_case_is_the_datasets_unless_the_vocabulary_has_capitals_or_the_user_speaks(tmp_path, said, more, user, lowers):
    """The old toolkit let do_lower_case: true stand beside a cased model, and its tokenizer did not heed it."""
    model = oracle("bert", 6)
    contents = members(model, "bert", "\n".join(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "city", more)).encode())
    contents = changed_config(contents, dataset={"do_lower_case": said})
    imported = import_model(write(tmp_path / "qa.nemo", contents), ImportOptions(do_lower_case=user))
    assert imported.checkpoint.tokenizer().pieces("City").ids.tolist() == ([4] if lowers else [1])


def test_a_damaged_vocabulary_is_named_within_its_archive(tmp_path, models, vocabulary):
    contents = {**members(models["bert"], "bert", vocabulary), f"{HASH}_vocab.txt": b"no vocabulary"}
    with pytest.raises(TokenizerError, match=rf"^{tmp_path}/qa\.nemo/vocab\.txt: .*\[UNK\] is missing"):
        import_model(write(tmp_path / "qa.nemo", contents))


def test_an_archive_may_bear_any_name(tmp_path, models, vocabulary):
    path = write(tmp_path / "renamed.tlt", members(models["megatron"], "megatron", vocabulary))
    assert_same_logits(import_model(path), models["megatron"])


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"target": "nemo.models.TokenClassificationModel"}, r"is of the class nemo\.models\.TokenClassificationModel:"
         r" only question answering models with a BERT encoder \(QAModel, BERTQAModel\) can be taken over"),
        ({"target": "x.S2SQAModel"}, r"is of the class x\.S2SQAModel"),
        ({"target": None}, "is of the class None"),
        ({"token_classifier": {"num_layers": 2}}, r"token_classifier\.num_layers is 2: only 1 can be taken over"),
        ({"token_classifier": {"log_softmax": True}}, r"token_classifier\.log_softmax is True: only False"),
        ({"token_classifier": [1]}, r"token_classifier is \[1\]: it must be a section"),
        ({"dataset": {"max_seq_length": "long"}}, r"dataset\.max_seq_length is 'long': it must be a number"),
        ({"dataset": {"do_lower_case": "yes"}}, r"dataset\.do_lower_case is 'yes': it must be true or false"),
        ({"dataset": {"doc_stride": 380}}, "max_seq_length 384 is too short"),
        ({"dataset": {"max_seq_length": 500}}, "max_seq_length 500 is more than the model's 400 positions"),
        ({"dataset": {"max_answer_length": 0}}, "max_answer_tokens is 0: give at least 1"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_taken_over_are_one_sentence(tmp_path, models, vocabulary, sections, message):
    contents = changed_config(members(models["bert"], "bert", vocabulary), **sections)
    with pytest.raises(ImportWeightsError, match=rf"qa\.nemo: .*{message}") as caught:
        import_model(write(tmp_path / "qa.nemo", contents))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {**w, "classifier.mlp.layer2.bias": torch.ones(2)}, r"holds classifier\.mlp\.layer2\.bias: only"),
        (lambda w: {n: t for n, t in w.items() if "mlp.layer0.bias" not in n}, r"lacks classifier\.mlp\.layer0\.bias"),
        (lambda w: {**w, "classifier.mlp.layer0.weight": torch.ones(3, 128)}, r"head\.weight has shape \(3, 128\)"),
        (lambda w: {**w, "bert_model.more.weight": torch.ones(1)}, r"holds more\.weight, which the encoder"),
        (lambda w: {n: t for n, t in w.items() if "bert_model" not in n}, r"lacks embeddings\.word_embeddings\.weight"),
        (lambda w: {"state_dict": w}, r"model_weights\.ckpt: .*'state_dict' a dict instead of a weight"),
    ],
)  # fmt: skip
def test_other_weights_are_one_sentence(tmp_path, models, vocabulary, change, message):
    model = models["bert"]
    weights = change({**hugging_face_weights(model), **head_weights(model)})
    contents = {**members(model, "bert", vocabulary), "model_weights.ckpt": saved(weights)}
    with pytest.raises(ImportWeightsError, match=rf"qa\.nemo: .*{message}"):
        import_model(write(tmp_path / "qa.nemo", contents))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_config.yaml": None}, r"holds no model_config\.yaml: it is no archive that NeMo's save_to wrote"),
        ({"model_weights.ckpt": None}, r"holds no model_weights\.ckpt"),
        ({"model_config.yaml": b"a: [1"}, r"model_config\.yaml: is no YAML"),
        ({"model_config.yaml": b"\xff\xfe\xff"}, r"model_config\.yaml: is no YAML"),
        ({"model_config.yaml": b"!!python/object/apply:os.system ['true']"}, r"model_config\.yaml: is no YAML"),
        ({"model_config.yaml": b"date: 2021-13-45"}, r"model_config\.yaml: is no YAML"),
        ({"model_config.yaml": b"- 1"}, r"model_config\.yaml: holds no settings"),
        ({f"{HASH}_x_encoder_config.json": b"{"}, r"encoder_config\.json: cannot be read as JSON"),
        ({f"{HASH}_x_encoder_config.json": b"[]"}, r"encoder_config\.json: holds no JSON object"),
        ({"model_weights.ckpt": b"PK\x03\x04 broken"}, r"model_weights\.ckpt: is damaged"),
        ({"mp_rank_01/model_weights.ckpt": b"x"}, r"holds several model_weights\.ckpt.*merge the shards"),
    ],
)
def test_damaged_archives_are_one_sentence(tmp_path, models, vocabulary, change, message):
    contents = {**members(models["bert"], "bert", vocabulary), **change}
    path = write(tmp_path / "qa.nemo", {name: content for name, content in contents.items() if content is not None})
    with pytest.raises(ImportWeightsError, match=rf"qa\.nemo: .*{message}") as caught:
        import_model(path)
    assert "\n" not in str(caught.value)
    assert "/tmp/tmp" not in str(caught.value)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_truncated_archive_is_one_sentence(tmp_path, models, vocabulary, mode):
    path = write(tmp_path / "qa.nemo", members(models["bert"], "bert", vocabulary), mode=mode)
    whole = path.read_bytes()
    for kept in (len(whole) // 3, len(whole) - 60_000):
        path.write_bytes(whole[:kept])
        with pytest.raises(ImportWeightsError, match=r"qa\.nemo: (cannot be unpacked|holds no|is damaged)"):
            import_model(path)


def test_weights_that_were_encrypted_in_the_archive_are_told_so(tmp_path, models, vocabulary):
    noise = torch.randint(0, 256, (20_000,), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    contents = {**members(models["bert"], "bert", vocabulary), "model_weights.ckpt": noise.numpy().tobytes()}
    with pytest.raises(ImportWeightsError, match=r"model_weights\.ckpt: looks encrypted by the old toolkit"):
        import_model(write(tmp_path / "qa.tlt", contents))


def test_paths_and_links_in_an_archive_reach_nothing_outside(tmp_path, models, vocabulary):
    """Names are taken without their paths, and links are no members."""
    model = models["bert"]
    secret = tmp_path / "secret"
    secret.write_bytes(vocabulary)
    inside = tmp_path / "inside"
    inside.mkdir()
    contents = members(model, "bert", vocabulary)
    moved = {f"../../{name}" if "vocab" in name else f"/{name}": content for name, content in contents.items()}
    path = write(inside / "qa.nemo", moved, mode="w")
    with tarfile.open(path, "a") as archive:
        for kind, name in ((tarfile.SYMTYPE, f"{HASH}_vocab.txt"), (tarfile.LNKTYPE, "model_config.yaml")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, str(secret)
            archive.addfile(link)
    assert_same_logits(import_model(path), model)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["inside", "qa.nemo", "secret"]


def test_nothing_of_hostile_weights_is_run(tmp_path, models, vocabulary):
    marker = tmp_path / "marker"

    class Trap:
        def __reduce__(self):
            return eval, (f"open({str(marker)!r}, 'w')",)

    contents = {**members(models["bert"], "bert", vocabulary), "model_weights.ckpt": saved({"weight": Trap()})}
    with pytest.raises(ImportWeightsError, match="holds under 'weight' a Placeholder instead of a weight"):
        import_model(write(tmp_path / "qa.nemo", contents))
    assert not marker.exists()


def with_sparse_member(path, name, n_bytes):
    """Append a member that is all hole, as GNU tar's --sparse stores it."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = f"{n_bytes:011o}\0".encode()
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    whole = path.read_bytes()
    path.write_bytes(bytes(header) + whole)


@pytest.mark.parametrize("name", ["model_weights.ckpt", "vocab.txt"])
def test_a_sparse_member_is_refused(tmp_path, models, vocabulary, name):
    path = write(tmp_path / "qa.nemo", members(models["bert"], "bert", vocabulary), mode="w")
    with_sparse_member(path, name, 8**11 - 1)
    with pytest.raises(ImportWeightsError, match=rf"qa\.nemo: {name} is stored as a sparse file"):
        import_model(path)


def test_texts_are_bounded_together_and_other_members_are_not_read(tmp_path, models, vocabulary, monkeypatch):
    contents = members(models["bert"], "bert", vocabulary)
    n_bytes = sum(len(content) for name, content in contents.items() if name != "model_weights.ckpt")
    monkeypatch.setattr("spanqa_training.weights.nemo._LARGEST_TEXTS_BYTES", n_bytes)
    path = write(tmp_path / "qa.nemo", {**contents, "optimizer.bin": bytes(n_bytes)})
    assert_same_logits(import_model(path), models["bert"])
    write(path, {**contents, "more.txt": b"x", "most.json": b"{}"})
    with pytest.raises(ImportWeightsError, match=r"qa\.nemo: .* bytes, and \d+ are allowed or free"):
        import_model(path)


def test_weights_that_do_not_fit_are_refused_before_they_are_unpacked(tmp_path, models, vocabulary, monkeypatch):
    path = write(tmp_path / "qa.nemo", members(models["bert"], "bert", vocabulary))
    monkeypatch.setattr("spanqa_training.weights.nemo._LARGEST_WEIGHTS_BYTES", 1000)
    with pytest.raises(ImportWeightsError, match=r"model_weights\.ckpt takes [\d,]+ bytes, and 1,000 are allowed"):
        import_model(path)
