"""What only a GPU would show of a repository's configurations is refused without one, each fault in one sentence."""

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from spanqa import contract
from spanqa.manifest import Engine, Manifest
from spanqa.packing import Bucket, Packing
from spanqa.windows import Batch, WindowSettings
from spanqa_build import versions
from spanqa_build.configs import config_texts
from spanqa_build.errors import RepositoryError
from spanqa_build.gpu_config_check import check_gpu_configs
from spanqa_build.targets import all_targets
from spanqa_build.warmup import warmup_files

BUCKETS = tuple(Bucket(length=length, model=f"encoder_{length}", max_rows=8) for length in (16, 32))
TENSORRT = Engine(platform="tensorrt_plan", graph_rows=(1, 4), instances=2)
ONNXRUNTIME = Engine(platform="onnxruntime_onnx")
TORCH = Engine(platform="torch", graph_rows=(1, 4), instances=2)
TORCH_CPU = Engine(platform="torch", graph_rows=(1, 4), device="cpu", dtype="float32")
FACTS = {"engines": [{"length": bucket.length, "largest_batch": 8} for bucket in BUCKETS]}


def manifest_of(engine=TENSORRT, buckets=BUCKETS, facts=FACTS):
    packing = Packing(buckets=buckets)
    windows = WindowSettings(max_seq_length=buckets[-1].length, doc_stride=8, max_query_length=8)
    return Manifest(tokenizer_sha256="0", packing=packing, windows=windows, engine=engine, encoder=dict(facts))


def written(folder, manifest):
    """The configurations and warm-up files that the build writes."""
    rows = {}
    for bucket in manifest.packing.buckets:
        ids = np.ones((1, bucket.length), dtype=np.int32)
        rows[bucket.model] = Batch(input_ids=ids, attention_mask=ids, token_type_ids=ids)
    texts = {f"{name}/config.pbtxt": text.encode() for name, text in config_texts(manifest).items()}
    for name, content in {**texts, **warmup_files(rows)}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(params=[TENSORRT, ONNXRUNTIME, TORCH, TORCH_CPU], ids=["tensorrt", "onnxruntime", "torch", "torch_cpu"])
def engine(request):
    return request.param


def planted(folder, model, change):
    """Change one configuration as a fault of the build would."""
    path = folder / model / "config.pbtxt"
    config = text_format.Parse(path.read_text(), pb.ModelConfig())
    change(config)
    path.write_text(text_format.MessageToString(config))
    return path


def test_what_the_build_writes_passes(tmp_path, engine):
    manifest = manifest_of(engine)
    check_gpu_configs(written(tmp_path, manifest), manifest)


@pytest.mark.parametrize("name", [target.name for target in all_targets().values() if target.is_gpu])
def test_what_the_build_writes_for_each_target_passes(tmp_path, name):
    target = all_targets()[name]
    buckets = tuple(Bucket(length=n, model=f"encoder_{n}", max_rows=target.largest_batch) for n in target.buckets)
    facts = {"engines": [{"length": n, "largest_batch": target.largest_batch} for n in target.buckets]}
    engine = Engine(platform="tensorrt_plan", graph_rows=target.graph_batches, instances=target.instances)
    manifest = manifest_of(engine, buckets, facts)
    check_gpu_configs(written(tmp_path, manifest), manifest)


@pytest.mark.parametrize("engine", [None, Engine(platform="of our own")])
def test_an_encoder_without_an_engine_of_ours_is_not_checked(tmp_path, engine):
    check_gpu_configs(tmp_path, Manifest(tokenizer_sha256="0", engine=engine))


def refused(folder, manifest, path, message):
    with pytest.raises(RepositoryError, match=message) as caught:
        check_gpu_configs(folder, manifest)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path}: ")
    assert sentence.endswith(": build the repository again")
    assert "\n" not in sentence


def graph(config):
    return config.optimization.cuda.graph_spec[1]


def sample(config):
    return config.model_warmup[0]


def group(config):
    return config.instance_group[0]


def set_dims(tensor, *dims):
    tensor[:] = dims


FAULTS = {
    "a graph above the batches": (
        lambda c: setattr(graph(c), "batch_size", 9),
        "a CUDA graph is for 9 rows, and Triton needs 1 to 8",
    ),
    "a graph of no rows": (lambda c: setattr(graph(c), "batch_size", 0), "a CUDA graph is for 0 rows"),
    "a graph of another bucket": (
        lambda c: set_dims(graph(c).input["input_ids"].dim, 32),
        r"4 rows has input_ids of \[32\], and Triton needs \[16\], as the bucket's",
    ),
    "a graph with the batch in its dims": (
        lambda c: set_dims(graph(c).input["input_ids"].dim, 4, 16),
        r"has input_ids of \[4, 16\]",
    ),
    "a graph without an input": (
        lambda c: graph(c).input.pop("token_type_ids"),
        "4 rows names attention_mask, input_ids, and Triton needs .*: see token_type_ids",
    ),
    "a graph from a smaller batch on": (
        lambda c: setattr(graph(c).graph_lower_bound, "batch_size", 2),
        "no graph_lower_bound",
    ),
    "graphs that are switched off": (
        lambda c: setattr(c.optimization.cuda, "graphs", False),
        "graphs is False with 2 graph_spec",
    ),
    "a profile that there is not": (
        lambda c: set_dims(group(c).profile, "1"),
        r"run profiles \['1'\], and Triton needs profile '0', the only",
    ),
    "a profile that is no number": (lambda c: set_dims(group(c).profile, "short"), r"run profiles \['short'\]"),
    "no profile": (lambda c: set_dims(group(c).profile), r"run profiles \[\], and Triton needs profile '0'"),
    "a second profile": (lambda c: group(c).profile.append("1"), r"run profiles \['0', '1'\]"),
    "instances on the CPU": (
        lambda c: setattr(group(c), "kind", pb.ModelInstanceGroup.KIND_CPU),
        "instances are KIND_CPU, and Triton needs KIND_GPU",
    ),
    "instances left to Triton": (lambda c: c.ClearField("instance_group"), "instance_group is missing"),
    "a batch above the calls": (lambda c: setattr(c, "max_batch_size", 16), "max_batch_size is 16, and Triton needs 8"),
    "another length": (lambda c: set_dims(c.input[1].dims, 32), r"the inputs are .*attention_mask', .*, \[32\]"),
    "ids of another type": (lambda c: setattr(c.input[0], "data_type", pb.TYPE_INT64), "inputs are .*TYPE_INT64"),
    "an output of another name": (lambda c: setattr(c.output[0], "name", "logits"), "outputs are .*'logits'"),
    "another platform": (lambda c: setattr(c, "platform", "onnxruntime_onnx"), "encoder_16 on onnxruntime_onnx"),
    "the name of another model": (lambda c: setattr(c, "name", "encoder_32"), "is of encoder_32 on tensorrt_plan"),
    "a warm-up file of another name": (
        lambda c: setattr(sample(c).inputs["input_ids"], "input_data_file", "ids"),
        "warm-up 'rows_1' reads input_ids from warmup/ids, which is missing",
    ),
    "a warm-up without a file": (
        lambda c: setattr(sample(c).inputs["input_ids"], "zero_data", True),
        "reads input_ids from warmup/, which is missing",
    ),
    "a warm-up input that the model has not": (
        lambda c: sample(c).inputs["mask"].CopyFrom(sample(c).inputs.pop("attention_mask")),
        "'rows_1' names input_ids, mask, token_type_ids, and Triton needs .*: see attention_mask",
    ),
    "a warm-up of another length": (
        lambda c: set_dims(sample(c).inputs["input_ids"].dims, 8),
        r"'rows_1' has input_ids of \[8\], and Triton needs \[16\]",
    ),
    "a warm-up of another type": (
        lambda c: setattr(sample(c).inputs["input_ids"], "data_type", pb.TYPE_INT64),
        "gives input_ids as TYPE_INT64",
    ),
    "a warm-up above the batches": (lambda c: setattr(sample(c), "batch_size", 9), "'rows_1' has 9 rows"),
    "no CUDA graph": (
        lambda c: c.optimization.ClearField("cuda"),
        r"CUDA graphs are for \[\] rows, and Triton needs \[1, 4\], as the manifest",
    ),
    "a CUDA graph less": (lambda c: c.optimization.cuda.graph_spec.pop(), r"graphs are for \[1\] rows, .* \[1, 4\]"),
    "a CUDA graph twice": (lambda c: setattr(graph(c), "batch_size", 1), r"graphs are for \[1, 1\] rows"),
    "a warm-up for one of two instances": (
        lambda c: setattr(sample(c), "count", 1),
        "'rows_1' has count 1, and Triton needs 2, one an instance",
    ),
    "no warm-up of the largest batch": (
        lambda c: setattr(c.model_warmup[1], "batch_size", 4),
        "no warm-up has 8 rows, and Triton needs the smallest and the largest batch",
    ),
    "no warm-up of one row": (lambda c: c.model_warmup.pop(0), "no warm-up has 1 rows"),
    "another number of instances": (
        lambda c: setattr(group(c), "count", 3),
        r"instance counts are \[3\], and Triton needs \[2\], as the manifest",
    ),
    "a second group of instances": (
        lambda c: c.instance_group.add().CopyFrom(group(c)),
        r"instance counts are \[2, 2\]",
    ),
    "one GPU of all": (lambda c: set_dims(group(c).gpus, 1), r"instances are on GPUs \[1\], .* none named"),
    "no dynamic batching": (lambda c: c.ClearField("dynamic_batching"), "dynamic_batching is missing"),
    "sequences": (lambda c: c.sequence_batching.SetInParent(), "dynamic_batching is missing"),
    "all versions": (
        lambda c: c.version_policy.all.SetInParent(),
        r"version_policy is all \{ \}, and Triton needs the latest version alone",
    ),
    "two versions": (lambda c: setattr(c.version_policy.latest, "num_versions", 2), "is latest { num_versions: 2 }"),
    "versions left to Triton": (lambda c: c.ClearField("version_policy"), "version_policy is missing"),
    "another backend": (lambda c: setattr(c, "backend", "python"), "backend is 'python', and Triton needs 'tensorrt'"),
    "a file of another platform": (
        lambda c: setattr(c, "default_model_filename", "model.onnx"),
        "default_model_filename is 'model.onnx', and Triton needs 'model.plan', or nothing",
    ),
    "no warm-up": (lambda c: c.ClearField("model_warmup"), "model_warmup is missing"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_a_gpu_alone_would_show_is_refused(tmp_path, fault):
    change, message = FAULTS[fault]
    manifest = manifest_of()
    path = planted(written(tmp_path, manifest), "encoder_16", change)
    refused(tmp_path, manifest, path, message)


TORCH_FAULTS = {
    "another length": (lambda c: set_dims(c.output[1].dims, 16), r"the outputs are .*\[16\]"),
    "a batch above the calls": (lambda c: setattr(c, "max_batch_size", 16), "max_batch_size is 16, and Triton needs 8"),
    "too few instances": (lambda c: setattr(group(c), "count", 9), r"instance counts are \[9\]"),
    "instances left to Triton": (lambda c: c.ClearField("instance_group"), "instance_group is missing"),
    "a platform of Triton's": (lambda c: setattr(c, "platform", "tensorrt_plan"), "encoder_32 on tensorrt_plan"),
    "no backend": (lambda c: c.ClearField("backend"), "backend is '', and Triton needs 'python'"),
    "a file of another platform": (lambda c: setattr(c, "default_model_filename", "model.plan"), "needs 'model.py'"),
    "CUDA graphs by Triton": (lambda c: setattr(c.optimization.cuda, "graphs", True), "CUDA graphs are asked of torch"),
    "inputs in the GPU's memory": (
        lambda c: setattr(c.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"], "string_value", "no"),
        "FORCE_CPU_ONLY_INPUT_TENSORS is 'no'",
    ),
}


@pytest.mark.parametrize("engine", [TORCH, TORCH_CPU], ids=["cuda", "cpu"])
@pytest.mark.parametrize("fault", TORCH_FAULTS)
def test_a_fault_of_an_encoder_in_torch_is_refused(tmp_path, engine, fault):
    change, message = TORCH_FAULTS[fault]
    manifest = manifest_of(engine, facts={})
    path = planted(written(tmp_path, manifest), "encoder_32", change)
    refused(tmp_path, manifest, path, message)


@pytest.mark.parametrize(
    ("engine", "kind", "needed"), [(TORCH, "KIND_CPU", "KIND_GPU"), (TORCH_CPU, "KIND_GPU", "KIND_CPU")]
)
def test_an_encoder_in_torch_is_where_its_network_is(tmp_path, engine, kind, needed):
    manifest = manifest_of(engine, facts={})
    path = planted(
        written(tmp_path, manifest),
        "encoder_16",
        lambda c: setattr(group(c), "kind", pb.ModelInstanceGroup.Kind.Value(kind)),
    )
    refused(tmp_path, manifest, path, f"instances are {kind}, and Triton needs {needed}, as the network is for a")


@pytest.mark.parametrize("model", [contract.ENSEMBLE, contract.QUESTION_ANSWERING])
def test_a_stage_of_another_version_is_refused(tmp_path, engine, model):
    manifest = manifest_of(engine)
    path = planted(written(tmp_path, manifest), model, lambda c: set_dims(c.version_policy.specific.versions, 1))
    refused(tmp_path, manifest, path, "version_policy is specific { versions: 1 }")


@pytest.mark.parametrize("n_bytes", [0, 60, 68, 128])
def test_a_warm_up_file_of_another_size_is_refused(tmp_path, engine, n_bytes):
    manifest = manifest_of(engine)
    (written(tmp_path, manifest) / "encoder_16" / "warmup" / "attention_mask").write_bytes(bytes(n_bytes))
    message = f"from warmup/attention_mask, which has {n_bytes} bytes, and Triton needs one that has 64 bytes"
    refused(tmp_path, manifest, tmp_path / "encoder_16" / "config.pbtxt", message)


def test_calls_larger_than_the_engines_profile_are_refused(tmp_path):
    facts = {"engines": [{"length": 16, "largest_batch": 4}, {"length": 32, "largest_batch": 8}]}
    manifest = manifest_of(facts=facts)
    path = written(tmp_path, manifest) / "encoder_16" / "config.pbtxt"
    refused(tmp_path, manifest, path, "max_batch_size is 8, and Triton needs 4")


def test_onnx_runtime_gets_outputs_as_its_network_declares_them_and_no_others(tmp_path):
    manifest = manifest_of(ONNXRUNTIME)
    folder = written(tmp_path, manifest)
    path = planted(folder, "encoder_32", lambda c: set_dims(c.output[1].dims, 32))
    refused(folder, manifest, path, r"the outputs are .*\[32\].*, and Triton needs .*'end_logits', 'TYPE_FP32', \[-1\]")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: group(c).profile.append("0"), r"run profiles \['0'\], and Triton needs none"),
        (lambda c: setattr(c.optimization.cuda, "graphs", True), "CUDA graphs are asked of onnxruntime_onnx"),
    ],
)
def test_onnx_runtime_has_neither_profiles_nor_graphs(tmp_path, change, message):
    manifest = manifest_of(ONNXRUNTIME)
    path = planted(written(tmp_path, manifest), "encoder_32", change)
    refused(tmp_path, manifest, path, message)


@pytest.mark.parametrize("model", [contract.PREPROCESS, contract.POSTPROCESS, contract.QUESTION_ANSWERING])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: setattr(c.parameters["FORCE_CPU_ONLY_INPUT_TENSORS"], "string_value", "no"),
            "FORCE_CPU_ONLY_INPUT_TENSORS is 'no', and Triton needs yes, or nothing: numpy",
        ),
        (lambda c: setattr(group(c), "kind", pb.ModelInstanceGroup.KIND_GPU), "instances are KIND_GPU"),
        (lambda c: c.ClearField("instance_group"), "instance_group is missing, for which Triton puts KIND_GPU"),
    ],
)
def test_a_python_model_that_would_meet_the_gpus_memory_is_refused(tmp_path, model, change, message):
    manifest = manifest_of()
    path = planted(written(tmp_path, manifest), model, change)
    refused(tmp_path, manifest, path, message)


def test_a_configuration_that_cannot_be_read_is_refused(tmp_path):
    manifest = manifest_of()
    path = written(tmp_path, manifest) / "encoder_32" / "config.pbtxt"
    path.write_text("max_batch_size: many")
    refused(tmp_path, manifest, path, "is no configuration of Triton's: .*many")
    path.unlink()
    refused(tmp_path, manifest, path, "cannot be read: No such file")


def test_a_fault_of_the_build_itself_never_gets_into_a_repository(tmp_path, monkeypatch):
    def faulty(manifest, *limits, **options):
        texts = config_texts(manifest, *limits, **options)
        return {**texts, "encoder_16": texts["encoder_16"].replace("batch_size: 4", "batch_size: 12")}

    monkeypatch.setattr(versions, "config_texts", faulty)
    manifest = manifest_of()
    folder = written(tmp_path, manifest)
    with pytest.raises(RepositoryError, match="a CUDA graph is for 12 rows"):
        versions.seal_version(folder, 1, manifest)
