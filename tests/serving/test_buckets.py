"""With encoders by length the models answer as with one, and start only with what the build wrote."""

from dataclasses import replace

import numpy as np
import pytest

from spanqa import contract
from spanqa.errors import SpanqaError
from spanqa.manifest import Artefact, Engine, load_manifest, manifest_json
from spanqa.startup import sha256_of

TEXTS = [
    "the cat sat on the mat",
    "the old bridge stands near the red tower and the river . " * 5,
    "two people live there in the old city and the king built the station",
    "a train",
]


def arrays_of(response):
    assert not response.has_error(), response.error().message()
    return response.arrays()


def assert_same(one, other):
    for name, array in arrays_of(one).items():
        np.testing.assert_array_equal(array, arrays_of(other)[name], err_msg=name)


@pytest.fixture
def requests(request_of):
    return lambda: [request_of(("what stands near the river?", text), TOP_N=[5]) for text in TEXTS]


@pytest.fixture
def unbucketed(main_entry, requests):
    """The answers of one encoder for every length."""
    return main_entry()(*requests())


def test_buckets_answer_as_one_encoder_does(unbucketed, in_buckets, main_entry, requests, pb_utils):
    pb_utils.encoder.calls.clear()
    pb_utils.encoder.asked.clear()
    for one, other in zip(main_entry()(*requests()), unbucketed, strict=True):
        assert_same(one, other)
    lengths = {bucket.model: bucket.length for bucket in in_buckets}
    for name, (n_rows, length) in zip(pb_utils.encoder.asked, pb_utils.encoder.calls, strict=True):
        assert length == lengths[name]
        assert n_rows <= 3
    assert set(pb_utils.encoder.asked) == set(lengths)


def test_the_ensemble_pads_to_the_longest_bucket_and_takes_as_many_rows(in_buckets, model, request_of):
    preprocess = model(contract.PREPROCESS)
    (response,) = preprocess.execute([request_of(("who?", TEXTS[0]))])
    assert arrays_of(response)["input_ids"].shape == (1, 32)
    (response,) = preprocess.execute([request_of(("who?", TEXTS[1]))])
    assert "takes at most 3: ask the model question_answering" in response.error().message()


def test_the_ensembles_stages_answer_as_the_main_entry_with_buckets(
    in_buckets, model, main_entry, request_of, after_encoder
):
    request = request_of(("who sat?", TEXTS[0]), TOP_N=[5])
    (expected,) = main_entry()(request)
    (first,) = model(contract.PREPROCESS).execute([request])
    arrays_of(first)
    (answered,) = model(contract.POSTPROCESS).execute([after_encoder(request, first)])
    assert_same(answered, expected)


@pytest.fixture
def served(repository):
    """The repository with the checksums of its files, and one encoder that Triton would run."""
    folder = repository / contract.QUESTION_ANSWERING / "1"
    plan = repository / contract.ENCODER / "1" / "model.plan"
    plan.parent.mkdir(parents=True)
    plan.write_bytes(b"engine")
    artefacts = {
        f"{path.parents[1].name}/{path.name}": Artefact(sha256=sha256_of(path), size_bytes=path.stat().st_size)
        for path in (plan, folder / "tokenizer.json")
    }
    write_manifest(folder, artefacts=artefacts, engine=Engine(platform="tensorrt_plan"))
    return repository


def write_manifest(folder, **changes):
    manifest = replace(load_manifest(folder), **changes)
    (folder / "manifest.json").write_text(manifest_json(manifest), encoding="utf-8")


def test_what_the_build_wrote_starts(served, main_entry, requests):
    for response in main_entry()(*requests()):
        arrays_of(response)


def replaced(old, new):
    return lambda path: path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("question_answering/1/tokenizer.json", replaced("river", "rivet"), "not the tokenizer that the model was"),
        ("question_answering/1/manifest.json", replaced("0.0", "1.5"), "was edited after the build"),
        ("question_answering/1/manifest.json", lambda path: path.unlink(), "cannot be read: No such file"),
        ("encoder/1/model.plan", lambda path: path.write_bytes(b"engima"), "was altered"),
        ("encoder/1/model.plan", lambda path: path.write_bytes(b""), "has 0 bytes, the build wrote 6"),
        ("encoder/1/model.plan", lambda path: path.unlink(), "cannot be read: No such file"),
    ],
)
def test_a_repository_that_is_not_the_builds_does_not_start(served, model, file, damage, message):
    damage(served / file)
    with pytest.raises(SpanqaError, match=message) as caught:
        model(contract.QUESTION_ANSWERING)
    assert str(served / file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_engines_of_a_tensorrt_that_is_not_here_do_not_start(served, model):
    write_manifest(
        served / contract.QUESTION_ANSWERING / "1", engine=Engine(platform="tensorrt_plan", tensorrt="10.4.0")
    )
    with pytest.raises(SpanqaError, match=r"built by TensorRT 10\.4\.0, this machine has another or none"):
        model(contract.QUESTION_ANSWERING)


def test_a_network_that_was_altered_does_not_start(repository, model):
    network = repository / contract.ENCODER / "1" / "network.onnx"
    network.parent.mkdir(parents=True)
    network.write_bytes(b"as built")
    artefact = Artefact(sha256=sha256_of(network), size_bytes=8)
    write_manifest(repository / contract.QUESTION_ANSWERING / "1", artefacts={"encoder/network.onnx": artefact})
    network.write_bytes(b"as Built")
    with pytest.raises(SpanqaError, match=r"network\.onnx: was altered .*: build the repository again"):
        model(contract.ENCODER)
