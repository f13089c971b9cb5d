"""A GPU's repository has an encoder a bucket, with its profile, graphs and warm-up, and the models that call them."""

import json

import numpy as np
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from spanqa import contract
from spanqa.manifest import Engine, Gpu, load_served_tokenizer
from spanqa.packing import Bucket
from spanqa_build.check import check_repository

BUCKETS = tuple(Bucket(length=length, model=f"encoder_{length}", max_rows=8) for length in (128, 256))
V100 = Gpu(name="Tesla V100-SXM2-32GB", compute_capability="7.0")
TENSORRT = Engine(platform="tensorrt_plan", graph_rows=(1, 4, 16), instances=2, gpu=V100, tensorrt="10.4.0")
ONNXRUNTIME = Engine(platform="onnxruntime_onnx")


def config_of(folder, name):
    return text_format.Parse((folder / name / "config.pbtxt").read_text(), pb.ModelConfig())


def test_a_gpus_repository_has_an_encoder_a_bucket(gpu_repository):
    assert {path.name for path in gpu_repository.iterdir()} == {
        *(name for name in contract.MODELS if name != contract.ENCODER),
        "encoder_128",
        "encoder_256",
    }
    manifest, _ = load_served_tokenizer(gpu_repository / contract.QUESTION_ANSWERING / "1")
    assert (manifest.target, manifest.packing.buckets, manifest.engine) == ("v100", BUCKETS, TENSORRT)
    assert manifest.encoder == {"precision": "fp16", "parity": {"answers_changed": 0}}
    assert manifest.versions.keys() >= {"spanqa", "torch", "onnxruntime"}
    assert (gpu_repository / "encoder_128" / "1" / "model.plan").read_text() == "plan 128"
    main = config_of(gpu_repository, contract.QUESTION_ANSWERING)
    table = json.loads(main.parameters["buckets"].string_value)
    assert [Bucket(**row) for row in table] == list(BUCKETS)
    ensemble = config_of(gpu_repository, contract.ENSEMBLE)
    assert [step.model_name for step in ensemble.ensemble_scheduling.step][1] == "encoder_256"


def test_a_tensorrt_encoder_declares_its_profile_graphs_and_warmup(gpu_repository):
    config = config_of(gpu_repository, "encoder_128")
    assert (config.platform, config.backend, config.max_batch_size) == ("tensorrt_plan", "", 8)
    assert [list(tensor.dims) for tensor in (*config.input, *config.output)] == [[128]] * 5
    (group,) = config.instance_group
    assert (group.kind, group.count, list(group.profile)) == (pb.ModelInstanceGroup.KIND_GPU, 2, ["0"])
    assert config.optimization.cuda.graphs
    graphs = config.optimization.cuda.graph_spec
    assert [graph.batch_size for graph in graphs] == [1, 4]  # 16 rows never come
    names = {tensor.name for tensor in contract.ENCODER_INPUTS}
    for graph in graphs:
        assert {name: list(shape.dim) for name, shape in graph.input.items()} == {name: [128] for name in names}
        assert not graph.HasField("graph_lower_bound")
    assert [sample.batch_size for sample in config.model_warmup] == [1, 8]
    for sample in config.model_warmup:
        assert set(sample.inputs) == names
        for name, tensor in sample.inputs.items():
            assert (tensor.data_type, list(tensor.dims), tensor.input_data_file) == (pb.TYPE_INT32, [128], name)


def test_an_encoder_is_warmed_up_with_a_real_window(gpu_repository, maker):
    folder = gpu_repository / "encoder_128" / "warmup"
    ids, mask, types = (np.fromfile(folder / tensor.name, dtype="<i4") for tensor in contract.ENCODER_INPUTS)
    assert ids.shape == mask.shape == types.shape == (128,)
    n_tokens = int(mask.sum())
    assert mask[:n_tokens].all()
    assert 64 < n_tokens <= 128  # a long one, not padding
    assert ids[0] == maker.tokenizer.cls_id
    assert ids[n_tokens - 1] == maker.tokenizer.sep_id
    assert types[n_tokens - 1] == 1


def test_the_rival_has_the_same_buckets_without_profiles_and_graphs(write_gpu, tmp_path):
    write_gpu(tmp_path / "repo", ONNXRUNTIME)
    assert (tmp_path / "repo" / "encoder_256" / "1" / "model.onnx").read_text() == "plan 256"
    config = config_of(tmp_path / "repo", "encoder_256")
    assert (config.platform, config.max_batch_size) == ("onnxruntime_onnx", 8)
    assert config.instance_group[0].kind == pb.ModelInstanceGroup.KIND_GPU
    assert not config.instance_group[0].profile
    assert not config.optimization.cuda.graphs
    assert len(config.model_warmup) == 2
    check_repository(tmp_path / "repo")


def test_every_model_serves_its_newest_version_and_the_ensemble_calls_its_own(gpu_repository, write_gpu):
    write_gpu(gpu_repository)
    for path in gpu_repository.glob("*/config.pbtxt"):
        assert config_of(gpu_repository, path.parent.name).version_policy.latest.num_versions == 1
    steps = config_of(gpu_repository, contract.ENSEMBLE).ensemble_scheduling.step
    assert [step.model_version for step in steps] == [2, 2, 2]
