"""NeMo's archives that cannot be taken over are refused in one sentence, and hostile ones reach nothing."""

from __future__ import annotations

import tarfile

import pytest
import torch

from spanqa_training.errors import ImportWeightsError
from spanqa_training.weights.recognition import import_model

HASH = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"


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
def test_settings_that_cannot_be_taken_over_are_one_sentence(tmp_path, models, vocabulary, sections, message, nemo):
    contents = nemo.changed_config(nemo.members(models["bert"], "bert", vocabulary), **sections)
    with pytest.raises(ImportWeightsError, match=rf"qa\.nemo: .*{message}") as caught:
        import_model(nemo.write(tmp_path / "qa.nemo", contents))
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
def test_other_weights_are_one_sentence(tmp_path, models, vocabulary, change, message, nemo):
    model = models["bert"]
    weights = change({**nemo.hugging_face_weights(model), **nemo.head_weights(model)})
    contents = {**nemo.members(model, "bert", vocabulary), "model_weights.ckpt": nemo.saved(weights)}
    with pytest.raises(ImportWeightsError, match=rf"qa\.nemo: .*{message}"):
        import_model(nemo.write(tmp_path / "qa.nemo", contents))


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
def test_damaged_archives_are_one_sentence(tmp_path, models, vocabulary, change, message, nemo):
    contents = {**nemo.members(models["bert"], "bert", vocabulary), **change}
    path = nemo.write(
        tmp_path / "qa.nemo", {name: content for name, content in contents.items() if content is not None}
    )
    with pytest.raises(ImportWeightsError, match=rf"qa\.nemo: .*{message}") as caught:
        import_model(path)
    assert "\n" not in str(caught.value)
    assert "/tmp/tmp" not in str(caught.value)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_truncated_archive_is_one_sentence(tmp_path, models, vocabulary, mode, nemo):
    path = nemo.write(tmp_path / "qa.nemo", nemo.members(models["bert"], "bert", vocabulary), mode=mode)
    whole = path.read_bytes()
    for kept in (len(whole) // 3, len(whole) - 60_000):
        path.write_bytes(whole[:kept])
        with pytest.raises(ImportWeightsError, match=r"qa\.nemo: (cannot be unpacked|holds no|is damaged)"):
            import_model(path)


def test_weights_that_were_encrypted_in_the_archive_are_told_so(tmp_path, models, vocabulary, nemo):
    noise = torch.randint(0, 256, (20_000,), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    contents = {**nemo.members(models["bert"], "bert", vocabulary), "model_weights.ckpt": noise.numpy().tobytes()}
    with pytest.raises(ImportWeightsError, match=r"model_weights\.ckpt: looks encrypted by the old toolkit"):
        import_model(nemo.write(tmp_path / "qa.tlt", contents))


def test_paths_and_links_in_an_archive_reach_nothing_outside(tmp_path, models, vocabulary, nemo):
    """Names are taken without their paths, and links are no members."""
    model = models["bert"]
    secret = tmp_path / "secret"
    secret.write_bytes(vocabulary)
    inside = tmp_path / "inside"
    inside.mkdir()
    contents = nemo.members(model, "bert", vocabulary)
    moved = {f"../../{name}" if "vocab" in name else f"/{name}": content for name, content in contents.items()}
    path = nemo.write(inside / "qa.nemo", moved, mode="w")
    with tarfile.open(path, "a") as archive:
        for kind, name in ((tarfile.SYMTYPE, f"{HASH}_vocab.txt"), (tarfile.LNKTYPE, "model_config.yaml")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, str(secret)
            archive.addfile(link)
    nemo.assert_same_logits(import_model(path), model)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["inside", "qa.nemo", "secret"]


def test_nothing_of_hostile_weights_is_run(tmp_path, models, vocabulary, nemo):
    marker = tmp_path / "marker"

    class Trap:
        def __reduce__(self):
            return eval, (f"open({str(marker)!r}, 'w')",)

    contents = {
        **nemo.members(models["bert"], "bert", vocabulary),
        "model_weights.ckpt": nemo.saved({"weight": Trap()}),
    }
    with pytest.raises(ImportWeightsError, match="holds under 'weight' a Placeholder instead of a weight"):
        import_model(nemo.write(tmp_path / "qa.nemo", contents))
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
def test_a_sparse_member_is_refused(tmp_path, models, vocabulary, name, nemo):
    path = nemo.write(tmp_path / "qa.nemo", nemo.members(models["bert"], "bert", vocabulary), mode="w")
    with_sparse_member(path, name, 8**11 - 1)
    with pytest.raises(ImportWeightsError, match=rf"qa\.nemo: {name} is stored as a sparse file"):
        import_model(path)


def test_texts_are_bounded_together_and_other_members_are_not_read(tmp_path, models, vocabulary, monkeypatch, nemo):
    contents = nemo.members(models["bert"], "bert", vocabulary)
    n_bytes = sum(len(content) for name, content in contents.items() if name != "model_weights.ckpt")
    monkeypatch.setattr("spanqa_training.weights.nemo._LARGEST_TEXTS_BYTES", n_bytes)
    path = nemo.write(tmp_path / "qa.nemo", {**contents, "optimizer.bin": bytes(n_bytes)})
    nemo.assert_same_logits(import_model(path), models["bert"])
    nemo.write(path, {**contents, "more.txt": b"x", "most.json": b"{}"})
    with pytest.raises(ImportWeightsError, match=r"qa\.nemo: .* bytes, and \d+ are allowed or free"):
        import_model(path)


def test_weights_that_do_not_fit_are_refused_before_they_are_unpacked(tmp_path, models, vocabulary, monkeypatch, nemo):
    path = nemo.write(tmp_path / "qa.nemo", nemo.members(models["bert"], "bert", vocabulary))
    monkeypatch.setattr("spanqa_training.weights.nemo._LARGEST_WEIGHTS_BYTES", 1000)
    with pytest.raises(ImportWeightsError, match=r"model_weights\.ckpt takes [\d,]+ bytes, and 1,000 are allowed"):
        import_model(path)
