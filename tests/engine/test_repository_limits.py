"""Limits that people set survive builds and going back; one that is none is refused, and mended by a build."""

import json
import re
from dataclasses import replace

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from spanqa import contract
from spanqa.limits import NAMES, Limits, config_artefact
from spanqa.manifest import load_manifest, manifest_json
from spanqa_build.check import check_repository
from spanqa_build.configs import limits_from_text
from spanqa_build.errors import RepositoryError
from spanqa_build.rollback import rollback_repository

LIMITS = {"max_context_bytes": 50_000, "max_windows": 99, "max_queue_age_s": 7, "tokenizer_cache_bytes": 0}


def limits_of(folder):
    config = (folder / contract.QUESTION_ANSWERING / "config.pbtxt").read_text()
    return limits_from_text(config, load_manifest(folder / contract.QUESTION_ANSWERING / "1"))


def with_parameters(path, values):
    """Write parameters into a configuration, as somebody with an editor does."""
    text = path.read_text()
    for name, value in values.items():
        text, n_found = re.subn(rf'(key: "{name}"\s*value \{{\s*string_value: )"\d+"', rf'\1"{value}"', text)
        assert n_found == 1
    path.write_text(text)


def test_limits_that_people_set_are_no_damage_and_survive_builds_and_going_back(gpu_repository, write_gpu):
    with_parameters(gpu_repository / contract.QUESTION_ANSWERING / "config.pbtxt", LIMITS)
    check_repository(gpu_repository)
    for change in (lambda: write_gpu(gpu_repository), lambda: rollback_repository(gpu_repository)):
        change()
        check_repository(gpu_repository)
        assert limits_of(gpu_repository) == Limits(**LIMITS)
        preprocess = (gpu_repository / contract.PREPROCESS / "config.pbtxt").read_text()
        assert 'string_value: "50000"' in preprocess


def test_a_limit_that_is_none_is_refused_by_the_check_and_mended_by_a_build(gpu_repository, write_gpu, capsys):
    with_parameters(gpu_repository / contract.QUESTION_ANSWERING / "config.pbtxt", {"max_context_bytes": 10})
    with pytest.raises(RepositoryError, match=r"question_answering: config\.pbtxt: max_context_bytes is 10: give a"):
        check_repository(gpu_repository)
    write_gpu(gpu_repository)
    assert "config.pbtxt: its limits cannot be kept (" in capsys.readouterr().err
    check_repository(gpu_repository)
    assert limits_of(gpu_repository) == Limits()


def test_the_limit_of_a_repository_from_before_it_was_a_parameter_survives_a_build(gpu_repository, write_gpu):
    main_entry = gpu_repository / contract.QUESTION_ANSWERING
    config = text_format.Parse((main_entry / "config.pbtxt").read_text(), pb.ModelConfig())
    for name in NAMES:
        del config.parameters[name]
    (main_entry / "config.pbtxt").write_text(text_format.MessageToString(config))
    path = main_entry / "1" / "manifest.json"
    own = replace(
        load_manifest(path.parent),
        max_context_bytes=2_000_000,
        configs=load_manifest(path.parent).configs
        | {"question_answering/config.pbtxt": config_artefact(main_entry / "config.pbtxt")},
    )
    path.write_text(json.dumps(json.loads(manifest_json(own)) | {"max_context_bytes": 50_000}))
    assert check_repository(gpu_repository).manifest.max_context_bytes == 50_000
    write_gpu(gpu_repository)
    check_repository(gpu_repository)
    assert limits_of(gpu_repository) == Limits(max_context_bytes=50_000)
