"""Networks are timed on the same windows, and the faster one is the faster one."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from spanqa.windows import WindowMaker
from spanqa_build.cpu_candidates import Candidate
from spanqa_build.cpu_speed import sampled_batches, windows_per_s
from spanqa_training.checkpoints.checkpoint import read_checkpoint


@pytest.fixture
def windows(root, tiny_model_folder):
    from spanqa.datasets import read_dataset

    checkpoint = read_checkpoint(tiny_model_folder)
    pairs = [(example.question, example.context) for example in read_dataset(root / "data" / "heldout200.json")[:50]]
    return WindowMaker(checkpoint.tokenizer(), checkpoint.windows).windows_of_many(pairs)


def network(path, n_products):
    """A network with the contract's interface that multiplies matrices as often as it is told."""
    size = 128
    table = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32) / size
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["x", "last"], ["column"]),
        helper.make_node("Mul", ["column", "row"], ["h0"]),
        *(helper.make_node("MatMul", [f"h{n}", "table"], [f"h{n + 1}"]) for n in range(n_products)),
        helper.make_node("ReduceMean", [f"h{n_products}", "last"], ["start_logits"], keepdims=0),
        helper.make_node("Neg", ["start_logits"], ["end_logits"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "length"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "length"])
        for name in ("start_logits", "end_logits")
    ]
    constants = {"last": np.array([2]), "row": table[:1, :], "table": table}
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def candidate(path, n_products):
    return Candidate(name=path.stem, path=network(path, n_products), engine="onnxruntime", precision="float32")


def test_windows_are_taken_evenly_and_unpadded(windows):
    batches = sampled_batches(windows, n_windows=20)
    assert len(batches) == 20
    assert all(batch.input_ids.shape[0] == 1 and batch.attention_mask.all() for batch in batches)
    assert len({batch.input_ids.shape[1] for batch in batches}) > 5


def test_a_network_with_thirty_times_the_work_is_slower(windows, tmp_path):
    speeds = windows_per_s(
        {"little": candidate(tmp_path / "little.onnx", 2), "much": candidate(tmp_path / "much.onnx", 60)},
        sampled_batches(windows, n_windows=8),
    )
    assert speeds["little"] > 2 * speeds["much"] > 0
