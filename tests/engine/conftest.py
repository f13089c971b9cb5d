"""A tiny checkpoint with the real tokenizer, small enough to export in seconds, and a GPU's repository of it."""

import fcntl
import hashlib
import json
from contextlib import contextmanager

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from spanqa.datasets import read_dataset
from spanqa.manifest import Engine, Gpu
from spanqa.packing import Bucket, Packing
from spanqa.windows import WindowMaker, WindowSettings
from spanqa_build import float16_export, onnx_gpu
from spanqa_build.float16_export import float32_graph
from spanqa_build.repository import GpuNetworks, manifest_from_checkpoint, write_repository
from spanqa_build.warmup import warmup_from_examples
from spanqa_training.checkpoints.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from spanqa_training.model import EncoderConfig, SpanModel

BUCKETS = tuple(Bucket(length=length, model=f"encoder_{length}", max_rows=8) for length in (128, 256))
V100 = Gpu(name="Tesla V100-SXM2-32GB", compute_capability="7.0")
TENSORRT = Engine(platform="tensorrt_plan", graph_rows=(1, 4, 16), instances=2, gpu=V100, tensorrt="10.4.0")


@pytest.fixture(scope="session")
def tiny_model_folder(root, tmp_path_factory):
    torch.manual_seed(0)
    tokenizer_file = root / "training" / "checkpoints" / "spanqa-minilm" / "tokenizer.json"
    config = EncoderConfig(
        vocab_size=30522, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64, max_positions=256
    )
    checkpoint = Checkpoint(
        encoder=config,
        tokenizer_json=tokenizer_file.read_text(encoding="utf-8"),
        windows=WindowSettings(max_seq_length=256, doc_stride=128),
        no_answer_threshold=0.25,
        provenance={"source": "random"},
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_checkpoint(checkpoint, SpanModel(config), folder)
    return folder


@pytest.fixture(scope="session")
def graph_of(run_folder):
    """Gives a model's graph in float32; torch, which takes long, exports an architecture once in a run of the tests.

    Tables and feed-forward blocks may be of any size: the graph says nothing of them. test_precision.py holds it
    against an export of the model itself.
    """
    folder = run_folder / "graphs"

    def of(model):
        config = model.config
        key = (config.layer_norm, config.activation, config.num_layers, config.num_heads, config.hidden_size)
        path = folder / f"{'-'.join(map(str, key))}-{config.layer_norm_eps}.onnx"
        with alone(folder):
            if not path.exists():
                export_with_any_weights(config, path)
        return with_weights(onnx.load(path), json.loads(path.with_suffix(".json").read_text()), model)

    return of


@contextmanager
def alone(folder):
    """Keeps the other processes of the tests out of a folder."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def export_with_any_weights(config, path):
    """Export a model none of whose weights are alike, and note which weight each constant is, and whether turned."""
    torch.manual_seed(7)
    model = SpanModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    graph, places = float32_graph(model), {}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    for name, weight in model.state_dict().items():
        for is_turned, array in ((False, weight.numpy()), (True, weight.numpy().T)):
            places |= {c: (name, is_turned) for c, value in constants.items() if np.array_equal(value, array)}
    assert sorted({name for name, _ in places.values()}) == sorted(model.state_dict())
    path.with_suffix(".json").write_text(json.dumps(places))
    onnx.save(graph, path)


def with_weights(graph, places, model):
    weights = {name: weight.float().numpy() for name, weight in model.state_dict().items()}
    for tensor in graph.graph.initializer:
        if tensor.name in places:
            name, is_turned = places[tensor.name]
            array = weights[name].T if is_turned else weights[name]
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    return graph


@pytest.fixture(scope="module")
def exported_once(graph_of):
    """Whatever is exported in float16 comes from `graph_of`."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (float16_export, onnx_gpu):
            patch.setattr(module, "float32_graph", graph_of)
        yield


@pytest.fixture(scope="session")
def thirty_questions(root, tmp_path_factory):
    from spanqa.datasets import read_dataset
    from spanqa_training.commands.negatives import write_squad

    path = tmp_path_factory.mktemp("questions") / "thirty.json"
    write_squad(read_dataset(root / "data" / "heldout200.json")[:30], path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tiny_model_folder):
    return read_checkpoint(tiny_model_folder)


@pytest.fixture(scope="module")
def maker(checkpoint):
    return WindowMaker(checkpoint.tokenizer(), checkpoint.windows)


@pytest.fixture(scope="module")
def write_gpu(checkpoint, maker, thirty_questions, tmp_path_factory):
    """Writes a version of a GPU's repository, its engines stood in for by text."""
    warmup = warmup_from_examples(maker, read_dataset(thirty_questions), BUCKETS)

    def write(folder, engine=TENSORRT, text="plan", buckets=BUCKETS):
        scratch = tmp_path_factory.mktemp("engines")
        paths = {}
        for bucket in buckets:
            paths[bucket.model] = scratch / bucket.model
            paths[bucket.model].write_text(f"{text} {bucket.length}")
        networks = GpuNetworks(
            target="v100",
            engine=engine,
            packing=Packing(buckets=buckets, calls_in_flight=4),
            paths=paths,
            warmup={bucket.model: warmup[bucket.model] for bucket in buckets},
            precision="fp16",
            facts={"parity": {"answers_changed": 0}},
        )
        manifest = manifest_from_checkpoint(checkpoint, networks, name="tiny")
        return write_repository(folder, manifest, checkpoint, networks)

    return write


@pytest.fixture
def gpu_repository(write_gpu, tmp_path):
    assert write_gpu(tmp_path / "repo") == 1
    return tmp_path / "repo"


@pytest.fixture(scope="session")
def contents():
    """Gives the digest of every file of a folder."""

    def of(folder):
        return {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return of
