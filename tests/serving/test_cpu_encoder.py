"""The encoder on a CPU, on a real network: rows run without their padding, and a broken request fails alone."""

import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from spanqa import contract


def assert_error(response, pb_utils, code, message):
    assert response.has_error()
    assert response.error().code() == getattr(pb_utils.TritonError, code)
    assert re.search(message, response.error().message()), response.error().message()
    assert "Traceback" not in response.error().message()
    assert "\n" not in response.error().message()


@pytest.fixture
def network(repository):
    """A real ONNX network whose logits depend on the whole row, so that padding would change them."""
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["ids"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Add", ["ids", "mean"], ["sum"]),
        helper.make_node("Add", ["sum", "types"], ["start_logits"]),
        helper.make_node("Sub", ["mask", "sum"], ["end_logits"]),
    ]
    values = [
        helper.make_tensor_value_info(tensor.name, kind, ["rows", "length"])
        for tensors, kind in (
            (contract.ENCODER_INPUTS, TensorProto.INT32),
            (contract.ENCODER_OUTPUTS, TensorProto.FLOAT),
        )
        for tensor in tensors
    ]
    graph = helper.make_graph(nodes, "tiny", values[:3], values[3:])
    folder = repository / contract.ENCODER / "1"
    folder.mkdir(parents=True)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, folder / "network.onnx")


def test_the_cpu_encoder_runs_each_row_without_its_padding(network, model, pb_utils):
    rng = np.random.default_rng(7)
    lengths = [12, 5, 1, 9, 12, 3]
    mask = (np.arange(12) < np.array(lengths)[:, None]).astype(np.int32)
    ids = rng.integers(1, 500, size=mask.shape).astype(np.int32) * mask
    types = (mask * (np.arange(12) > 2)).astype(np.int32)
    arrays = dict(zip([tensor.name for tensor in contract.ENCODER_INPUTS], (ids, mask, types), strict=True))
    encoder = model(contract.ENCODER)

    def run(rows):
        inputs = [pb_utils.Tensor(name, array[rows]) for name, array in arrays.items()]
        (response,) = encoder.execute([pb_utils.InferenceRequest(inputs)])
        assert not response.has_error()
        return response.arrays()

    batch = run(slice(None))
    for row, length in enumerate(lengths):
        mean = ids[row, :length].mean(dtype=np.float32)
        np.testing.assert_allclose(batch["start_logits"][row, :length], ids[row, :length] + mean + types[row, :length])
        np.testing.assert_allclose(batch["end_logits"][row, :length], 1 - ids[row, :length] - mean)
        assert not batch["start_logits"][row, length:].any()
        alone = run(slice(row, row + 1))
        for name in ("start_logits", "end_logits"):
            np.testing.assert_array_equal(alone[name][0], batch[name][row])


def test_a_broken_request_to_the_encoder_leaves_its_neighbours_alone(network, model, pb_utils):
    good = [pb_utils.Tensor(tensor.name, np.ones((2, 4), dtype=np.int32)) for tensor in contract.ENCODER_INPUTS]
    broken, answered = model(contract.ENCODER).execute(
        [pb_utils.InferenceRequest(good[:2]), pb_utils.InferenceRequest(good)]
    )
    assert_error(broken, pb_utils, "INTERNAL", r"^an unexpected error \(fault")
    assert answered.arrays()["start_logits"].shape == (2, 4)
