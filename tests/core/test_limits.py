"""Limits are the operator's: read from the configuration, refused in a sentence, no part of what the build seals."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanqa import contract
from spanqa.errors import SettingsError, SpanqaError
from spanqa.limits import NAMES, Limits, config_artefact, limits_from_config
from spanqa.manifest import Manifest
from spanqa.packing import Bucket, Packing
from spanqa.startup import check_files
from spanqa_build.configs import config_texts, limits_from_text

MANIFEST = Manifest(
    tokenizer_sha256="0", packing=Packing(buckets=(Bucket(length=384, model="encoder_384", max_rows=4),))
)  # fmt: skip
OLD = Manifest(tokenizer_sha256="0", max_context_bytes=5000)
CHOSEN = Limits(
    max_context_bytes=1000,
    max_windows=1,
    max_queued_requests=2,
    max_queue_age_s=3,
    max_long_requests=4,
    tokenizer_cache_bytes=0,
)
TEXT = config_texts(MANIFEST)[contract.QUESTION_ANSWERING]


def config(**parameters):
    return json.dumps({"name": "x", "parameters": {name: {"string_value": v} for name, v in parameters.items()}})


def test_limits_are_read_from_the_parameters_of_their_names():
    texts = {name: str(value) for name, value in CHOSEN.parameters().items()}
    assert limits_from_config(config(**texts, no_answer_threshold="-1.5", mine="x"), MANIFEST) == CHOSEN


def test_what_is_not_there_has_its_default():
    assert limits_from_config("{}", MANIFEST) == limits_from_config(config(), MANIFEST) == Limits()
    assert limits_from_config(config(max_windows=" 7 "), MANIFEST) == Limits(max_windows=7)


def test_a_repository_from_before_has_the_limit_of_its_manifest_until_a_parameter_says_another():
    assert limits_from_config(config(), OLD) == Limits(max_context_bytes=5000)
    assert limits_from_config(config(max_context_bytes="6000"), OLD) == Limits(max_context_bytes=6000)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["", "2e6", "-1", "1.5", "many", "١٢", "1_000", "9" * 30, "0x10"])
def test_what_is_no_whole_number_is_refused_in_one_sentence(name, value):
    with pytest.raises(SettingsError) as caught:
        limits_from_config(config(**{name: value}), MANIFEST)
    least = {"max_context_bytes": "1,000", "tokenizer_cache_bytes": "0"}.get(name, "1")
    assert str(caught.value) == f"config.pbtxt: {name} is {value!r}: give a whole number, {least} or more"


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_context_bytes", 999), *((name, 0) for name in NAMES if name not in ("tokenizer_cache_bytes",))],
)
def test_what_is_too_low_is_refused(name, value):
    with pytest.raises(
        SettingsError, match=rf"^config\.pbtxt: {name} is {value}: give a whole number, 1(,000)? or more$"
    ):
        limits_from_config(config(**{name: str(value)}), MANIFEST)


@pytest.mark.parametrize("value", [True, 1.5, None, "8"])
def test_limits_are_whole_numbers(value):
    with pytest.raises(SettingsError, match=r"max_windows is .*: give a whole number, 1 or more"):
        Limits(max_windows=value)


def test_a_configuration_comes_back_as_the_limits_that_it_was_made_of():
    for limits in (Limits(), CHOSEN):
        text = config_texts(MANIFEST, limits)[contract.QUESTION_ANSWERING]
        assert limits_from_text(text, MANIFEST) == limits


def artefact(folder, text):
    path = folder / "config.pbtxt"
    path.write_text(text, encoding="utf-8")
    return config_artefact(path)


def value_spans():
    """The places of the limits' values in the text, quotes included."""
    spans = []
    for name in NAMES:
        key = TEXT.index(f'key: "{name}"')
        begin = TEXT.index('string_value: "', key) + len('string_value: "')
        spans.append((begin, TEXT.index('"', begin)))
    return spans


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("configs")


def test_limits_of_other_values_are_no_change(folder):
    sealed = artefact(folder, TEXT)
    assert artefact(folder, config_texts(MANIFEST, CHOSEN)[contract.QUESTION_ANSWERING]) == sealed
    for begin, end in VALUES:
        for value in ("", "1", "9" * 40, "none"):
            assert artefact(folder, TEXT[:begin] + value + TEXT[end:]) == sealed


VALUES = value_spans()
OUTSIDE = [at for at in range(len(TEXT)) if not any(begin <= at <= end for begin, end in VALUES)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(OUTSIDE), st.sampled_from(["", "x", "7"]), st.booleans())
def test_any_other_change_shows(folder, at, put, is_instead):
    changed = TEXT[:at] + put + TEXT[at + is_instead :]
    assert (artefact(folder, changed) == artefact(folder, TEXT)) == (changed == TEXT)


@pytest.mark.parametrize("name", ["no_answer_threshold", "max_answer_tokens", "buckets"])
def test_parameters_that_are_no_limits_are_the_builds(folder, name):
    key = TEXT.index(f'key: "{name}"')
    begin = TEXT.index('string_value: "', key) + len('string_value: "')
    assert artefact(folder, TEXT[:begin] + "7" + TEXT[begin:]) != artefact(folder, TEXT)


def test_a_limit_more_or_less_is_a_change(folder):
    sealed = artefact(folder, TEXT)
    more = 'parameters {\n  key: "max_windows"\n  value {\n    string_value: "7"\n  }\n}\n'
    assert artefact(folder, TEXT + more) != sealed
    assert artefact(folder, TEXT.replace('"max_windows"', '"max_windowz"')) != sealed


def test_a_configuration_from_before_the_limits_is_held_as_it_was(folder):
    text = 'name: "question_answering"\nbackend: "python"\n'
    assert artefact(folder, text).size_bytes == len(text)


@pytest.fixture
def repository(tmp_path):
    """A repository of one configuration, and its manifest."""
    path = tmp_path / contract.QUESTION_ANSWERING / "config.pbtxt"
    (path.parent / "1").mkdir(parents=True)
    path.write_text(TEXT, encoding="utf-8")
    return path, Manifest(tokenizer_sha256="0", configs={"question_answering/config.pbtxt": config_artefact(path)})


def test_a_server_starts_with_limits_that_people_set_and_with_no_other_change(repository):
    path, manifest = repository
    check_files(path.parents[1], 1, manifest, whole=())
    path.write_text(config_texts(MANIFEST, CHOSEN)[contract.QUESTION_ANSWERING], encoding="utf-8")
    check_files(path.parents[1], 1, manifest, whole=())
    path.write_text(TEXT.replace("max_batch_size: 32", "max_batch_size: 64"), encoding="utf-8")
    message = r"config\.pbtxt: was altered, in more than the values of its limits \(max_context_bytes, .*\): build the"
    with pytest.raises(SpanqaError, match=message):
        check_files(path.parents[1], 1, manifest, whole=())
    path.unlink()
    with pytest.raises(SpanqaError, match=r"config\.pbtxt: cannot be read: No such file"):
        check_files(path.parents[1], 1, manifest, whole=())
