"""The shipped repository: its configurations say what the contract says and are those that the build makes."""

import hashlib

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from spanqa import contract
from spanqa.manifest import Manifest, load_manifest, load_served_tokenizer
from spanqa.packing import Packing
from spanqa_build.check import check_repository
from spanqa_build.configs import config_texts
from spanqa_build.errors import RepositoryError

PB = model_config_pb2
TYPES = {"BYTES": PB.TYPE_STRING, "INT32": PB.TYPE_INT32, "FP32": PB.TYPE_FP32, "BOOL": PB.TYPE_BOOL}
ROWS = {-1, 1}  # what a first dimension may be where a model has no batch dimension of its own


def parsed(text):
    return text_format.Parse(text, PB.ModelConfig())


@pytest.fixture
def shipped(root):
    """The model repository; each file that a server needs must be there."""
    repository = root / "model_repository"
    main = repository / contract.QUESTION_ANSWERING / "1"
    needed = [repository / name / "config.pbtxt" for name in contract.MODELS]
    needed += [repository / name / "1" / "model.py" for name in contract.MODELS if name != contract.ENSEMBLE]
    needed += [main / "manifest.json", main / "tokenizer.json", repository / contract.ENSEMBLE / "1"]
    missing = [str(path.relative_to(root)) for path in needed if not path.exists()]
    if missing:
        pytest.fail(f"the shipped repository lacks {', '.join(missing)}: `spanqa build` writes them")
    return repository


def assert_is(declared, tensor, *, batched):
    """A tensor of a configuration is the contract's, with its rows as a dimension where nothing else counts them."""
    dims = tuple(declared.dims)
    assert declared.name == tensor.name
    assert declared.data_type == TYPES[tensor.dtype]
    if batched or tensor in contract.STAGE_TENSORS:
        assert dims == tensor.dims
    else:
        assert dims[0] in ROWS
        assert dims[1:] == tensor.dims


def assert_declares(config, inputs, outputs):
    batched = config.max_batch_size > 0
    for declared, tensor in zip(config.input, inputs, strict=True):
        assert_is(declared, tensor, batched=batched)
        assert declared.optional is tensor.optional
    for declared, tensor in zip(config.output, outputs, strict=True):
        assert_is(declared, tensor, batched=batched)


def assert_configs_keep_the_contract(configs, manifest):
    assert set(configs) == set(contract.MODELS)
    for name, config in configs.items():
        assert config.name == name
    main, encoder = configs[contract.QUESTION_ANSWERING], configs[contract.ENCODER]
    assert_declares(main, contract.INPUTS, contract.OUTPUTS)
    assert_declares(configs[contract.ENSEMBLE], contract.INPUTS, contract.OUTPUTS)
    assert_declares(encoder, contract.ENCODER_INPUTS, contract.ENCODER_OUTPUTS)
    options = [tensor for tensor in contract.INPUTS if tensor.optional]
    assert_declares(
        configs[contract.PREPROCESS],
        [contract.QUESTION, contract.CONTEXT],
        [*contract.ENCODER_INPUTS, *contract.STAGE_TENSORS],
    )
    assert_declares(
        configs[contract.POSTPROCESS],
        [contract.CONTEXT, *options, *contract.STAGE_TENSORS, *contract.ENCODER_OUTPUTS],
        contract.OUTPUTS,
    )
    assert encoder.max_batch_size >= manifest.packing.rows_per_call
    assert main.max_batch_size > 1
    assert not main.HasField("dynamic_batching")  # of a batch one text cut off would fail all
    parameters = {key: value.string_value for key, value in main.parameters.items()}
    assert float(parameters["no_answer_threshold"]) == manifest.decode.no_answer_threshold
    assert int(parameters["max_answer_tokens"]) == manifest.decode.max_answer_tokens
    for config in configs.values():
        assert not config.response_cache.enable  # it turns errors into empty answers
    assert not main.model_warmup  # the encoder is not ready while it loads


def assert_ensemble_is_wired(configs):
    """Every step takes tensors that are there by then, by the names of its own model, and all outputs are made."""
    ensemble = configs[contract.ENSEMBLE]
    steps = list(ensemble.ensemble_scheduling.step)
    assert [step.model_name for step in steps] == [contract.PREPROCESS, contract.ENCODER, contract.POSTPROCESS]
    there = {declared.name for declared in ensemble.input}
    for step in steps:
        model = configs[step.model_name]
        assert set(step.input_map) == {declared.name for declared in model.input}
        assert set(step.output_map) == {declared.name for declared in model.output}
        assert set(step.input_map.values()) <= there
        there |= set(step.output_map.values())
    assert {declared.name for declared in ensemble.output} <= there


@pytest.mark.parametrize(
    "packing", [Packing(), Packing(rows_per_call=1, tokens_per_call=512), Packing(rows_per_call=64)]
)
def test_configs_made_from_a_manifest_keep_the_contract(packing):
    manifest = Manifest(tokenizer_sha256="0", packing=packing)
    configs = {name: parsed(text) for name, text in config_texts(manifest).items()}
    assert_configs_keep_the_contract(configs, manifest)
    assert_ensemble_is_wired(configs)


def test_the_shipped_configs_keep_the_contract(shipped):
    configs = {path.parent.name: parsed(path.read_text(encoding="utf-8")) for path in shipped.glob("*/config.pbtxt")}
    assert_configs_keep_the_contract(configs, load_manifest(shipped / contract.QUESTION_ANSWERING / "1"))
    assert_ensemble_is_wired(configs)


@pytest.mark.parametrize("name", contract.MODELS)
def test_each_shipped_config_is_what_the_build_makes(shipped, name):
    manifest = load_manifest(shipped / contract.QUESTION_ANSWERING / "1")
    text = (shipped / name / "config.pbtxt").read_text(encoding="utf-8")
    assert parsed(text) == parsed(config_texts(manifest)[name])


def test_the_shipped_tokenizer_is_the_manifests_and_the_only_copy(shipped):
    manifest, tokenizer = load_served_tokenizer(shipped / contract.QUESTION_ANSWERING / "1")
    assert tokenizer.sha256 == manifest.tokenizer_sha256
    assert len(list(shipped.rglob("tokenizer.json"))) == len(list(shipped.rglob("manifest.json"))) == 1


def test_the_shipped_network_is_the_one_that_the_manifest_names(shipped):
    manifest = load_manifest(shipped / contract.QUESTION_ANSWERING / "1")
    network = shipped / contract.ENCODER / "1" / "network.onnx"
    if not network.is_file():
        pytest.fail("the shipped repository lacks encoder/1/network.onnx: `spanqa build` writes it")
    digest = hashlib.sha256(network.read_bytes()).hexdigest()
    assert digest in manifest.encoder.values(), f"the manifest's encoder entry {manifest.encoder} names another network"


def test_the_shipped_repository_is_what_its_manifest_says(shipped):
    try:
        check_repository(shipped)
    except RepositoryError as error:
        pytest.fail(f"{error}; after a change of a model.py: spanqa_build.versions.seal_version writes its checksums")


def test_no_model_folder_is_there_that_the_contract_does_not_know(root):
    folders = {path.name for path in (root / "model_repository").iterdir() if path.is_dir()}
    assert folders == set(contract.MODELS)
