"""A manifest comes back as it was written; a damaged one is named."""

import json

import pytest

from spanqa.errors import SettingsError, SpanqaError
from spanqa.manifest import (
    Artefact,
    Engine,
    Gpu,
    Manifest,
    load_manifest,
    load_served_tokenizer,
    manifest_json,
)
from spanqa.packing import Bucket, Packing
from spanqa.pair_template import PairTemplate
from spanqa.spans import DecodeSettings
from spanqa.windows import WindowSettings

MANIFEST = Manifest(
    tokenizer_sha256="ab" * 32,
    windows=WindowSettings(max_seq_length=256, doc_stride=96, max_query_length=48),
    decode=DecodeSettings(no_answer_threshold=-1.2345678901234567, max_answer_tokens=20, temperature=1.5),
    packing=Packing(rows_per_call=4, tokens_per_call=1024, calls_in_flight=3),
    max_context_bytes=1000,
    encoder={"file": "network.onnx", "precision": "int8"},
    model={"name": "Ωmega"},
)


GPU_MANIFEST = Manifest(
    tokenizer_sha256="ab" * 32,
    pair=PairTemplate(before=(0,), between=(2, 2), after=(2,), pad_id=1, context_type=0),
    target="v100",
    packing=Packing(
        buckets=(
            Bucket(length=128, model="encoder_128", max_rows=16),
            Bucket(length=384, model="encoder_384", max_rows=8),
        )
    ),
    engine=Engine(
        platform="tensorrt_plan",
        graph_rows=(1, 8),
        instances=2,
        gpu=Gpu(name="Tesla V100-SXM2-32GB", compute_capability="7.0"),
        tensorrt="10.4.0",
    ),
    versions={"torch": "2.13.0"},
    artefacts={"encoder_128/model.plan": Artefact(sha256="cd" * 32, size_bytes=5)},
    configs={"encoder_128/config.pbtxt": Artefact(sha256="ef" * 32, size_bytes=6)},
)


@pytest.fixture
def document():
    """A manifest of version 1, which has no seal: each value can be changed by itself."""
    document = json.loads(manifest_json(MANIFEST)) | {"format_version": 1}
    for key in ("sha256", "target", "engine", "versions", "artefacts", "configs"):
        del document[key]
    del document["packing"]["buckets"]
    return document


def write(folder, document):
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / "manifest.json").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("manifest", [MANIFEST, GPU_MANIFEST], ids=["cpu", "gpu"])
def test_a_manifest_comes_back_as_it_was_written(tmp_path, manifest):
    write(tmp_path, manifest_json(manifest))
    assert load_manifest(tmp_path) == manifest


def test_a_manifest_of_version_1_is_read(tmp_path, document):
    write(tmp_path, document)
    assert load_manifest(tmp_path) == MANIFEST


@pytest.mark.parametrize(
    ("key", "value"),
    [("decode", {"no_answer_threshold": 0.0}), ("model", {"name": "x"}), ("artefacts", {}), ("sha256", "0" * 64)],
)
def test_an_edited_manifest_is_refused(tmp_path, key, value):
    document = json.loads(manifest_json(GPU_MANIFEST))
    document[key] = value
    write(tmp_path, document)
    with pytest.raises(
        SettingsError, match=r"manifest\.json: was edited after the build .*build the repository again$"
    ):
        load_manifest(tmp_path)


def test_a_manifest_without_its_seal_is_damaged(tmp_path):
    document = json.loads(manifest_json(MANIFEST))
    del document["sha256"]
    write(tmp_path, document)
    with pytest.raises(SettingsError, match="damaged"):
        load_manifest(tmp_path)


def test_the_servers_own_limit_may_be_edited(tmp_path):
    document = json.loads(manifest_json(MANIFEST)) | {"max_context_bytes": 7700}
    write(tmp_path, document)
    assert load_manifest(tmp_path).max_context_bytes == 7700


def test_the_longest_bucket_must_hold_the_longest_window():
    packing = Packing(buckets=(Bucket(length=128, model="encoder_128", max_rows=4),))
    with pytest.raises(SettingsError, match="takes 128 tokens and windows have up to 384: add a bucket"):
        Manifest(tokenizer_sha256="0", packing=packing)


@pytest.mark.parametrize("lengths", [(256, 128), (128, 128)])
def test_buckets_grow_in_length(lengths):
    with pytest.raises(SettingsError, match="buckets must grow in length"):
        Packing(buckets=tuple(Bucket(length=length, model="e", max_rows=1) for length in lengths))


@pytest.mark.parametrize(("length", "max_rows"), [(0, 1), (1, 0)])
def test_a_bucket_holds_at_least_one_token_and_row(length, max_rows):
    with pytest.raises(SettingsError, match="bucket 'e': length and max_rows must be at least 1"):
        Bucket(length=length, model="e", max_rows=max_rows)


def test_absent_settings_take_their_defaults(tmp_path, document):
    for key in ("windows", "decode", "packing", "max_context_bytes", "encoder", "model"):
        del document[key]
    write(tmp_path, document)
    assert load_manifest(tmp_path) == Manifest(tokenizer_sha256="ab" * 32)


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "null", '"text"', "{}", '{"format": "spanqa-repository"}'])
def test_a_damaged_file_is_named(tmp_path, text):
    write(tmp_path, text)
    with pytest.raises(SettingsError, match=r"manifest\.json: .*build the repository again"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "spanqa-checkpoint"),
        ("format_version", 3),
        ("colour", "red"),
        ("windows", {"max_seq_length": "long"}),
        ("windows", {"doc_overlap": 3}),
        ("windows", 7),
        ("windows", {"doc_stride": 0}),
        ("decode", {"no_answer_threshold": None}),
        ("decode", {"temperature": 0}),
        ("pair", {"before": [0]}),
        ("pair", {"before": 0, "between": [2], "after": [2], "pad_id": 1, "context_type": 0}),
        ("packing", {"rows_per_call": None}),
        ("packing", {"rows_per_call": 0}),
    ],
)
def test_a_value_that_cannot_be_names_the_file(tmp_path, document, key, value):
    document[key] = value
    write(tmp_path, document)
    with pytest.raises(SettingsError, match=r"manifest\.json: "):
        load_manifest(tmp_path)


def test_a_manifest_whose_word_boundaries_are_a_word_says_what_they_may_be(tmp_path, document):
    document["decode"] = {"word_boundaries": "no"}
    write(tmp_path, document)
    with pytest.raises(SettingsError, match=r"manifest\.json: word_boundaries is 'no': give true or false$"):
        load_manifest(tmp_path)


def test_a_manifest_without_its_tokenizers_hash_is_damaged(tmp_path, document):
    del document["tokenizer_sha256"]
    write(tmp_path, document)
    with pytest.raises(SettingsError, match="damaged"):
        load_manifest(tmp_path)


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"manifest\.json: cannot be read: No such file"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("field", ["rows_per_call", "tokens_per_call", "calls_in_flight"])
def test_packing_needs_at_least_one_of_each(field):
    with pytest.raises(SettingsError, match=f"at least 1, .*{field}=0"):
        Packing(**{field: 0})


def test_a_served_tokenizer_must_be_the_one_of_the_manifest(tmp_path, tokenizer):
    (tmp_path / "tokenizer.json").write_text(tokenizer.serialized, encoding="utf-8")
    write(tmp_path, manifest_json(Manifest(tokenizer_sha256=tokenizer.sha256)))
    manifest, loaded = load_served_tokenizer(tmp_path)
    assert (manifest.tokenizer_sha256, loaded.sha256) == (tokenizer.sha256, tokenizer.sha256)
    (tmp_path / "tokenizer.json").write_text(tokenizer.serialized + "\n", encoding="utf-8")
    with pytest.raises(SpanqaError, match=r"tokenizer\.json: not the tokenizer that the model was built with"):
        load_served_tokenizer(tmp_path)


@pytest.mark.parametrize("limit", ["2000000", [], True, -1, 999, 1e400, 2e6])
def test_a_limit_that_is_no_number_of_bytes_is_refused(tmp_path, limit):
    document = json.loads(manifest_json(MANIFEST)) | {"max_context_bytes": limit}
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(SettingsError, match=r"manifest\.json: max_context_bytes is .*: give a whole number of bytes"):
        load_manifest(tmp_path)


def test_an_engine_from_before_torch_is_one_on_a_gpu(tmp_path):
    document = json.loads(manifest_json(GPU_MANIFEST)) | {"format_version": 1}  # which has no seal
    for key in ("device", "dtype"):
        del document["engine"][key]
    write(tmp_path, document)
    engine = load_manifest(tmp_path).engine
    assert (engine, engine.device, engine.is_torch) == (GPU_MANIFEST.engine, "cuda", False)
