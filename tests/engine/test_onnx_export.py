"""An exported network keeps the wire contract and computes what the checkpoint computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from spanqa.windows import Batch
from spanqa_build.errors import ExportError
from spanqa_build.onnx_export import MAX_IR_VERSION, OPSET, check_network, onnx_from_model, save_network
from spanqa_build.parity import run_onnx, run_torch, session_from_onnx
from spanqa_training.model import EncoderConfig, SpanModel


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread():
    """Small products only: threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small_model(**changes):
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48}
    torch.manual_seed(2)
    model = SpanModel(EncoderConfig(**(sizes | {"max_positions": 80, "initializer_range": 0.2} | changes)))
    return model.eval()


def random_batch(lengths):
    shape = (len(lengths), max(lengths))
    rng = np.random.default_rng(sum(lengths))
    mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int32)
    return Batch(
        input_ids=(rng.integers(1, 60, shape) * mask).astype(np.int32),
        attention_mask=mask,
        token_type_ids=(rng.integers(0, 2, shape) * mask).astype(np.int32),
    )


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
@pytest.mark.parametrize("layer_norm", ["pre", "post"])
def test_any_batch_and_length_gives_the_checkpoints_logits(tmp_path, layer_norm, activation):
    model = small_model(layer_norm=layer_norm, activation=activation)
    onnx_from_model(model, tmp_path / "network.onnx")
    session = session_from_onnx(tmp_path / "network.onnx", intra_op_threads=1)
    for lengths in ((9, 9), (1,), (80,), (30, 4, 17, 80, 2)):
        batch = random_batch(lengths)
        kept = batch.attention_mask.astype(bool)
        for built, right in zip(run_onnx(session, batch), run_torch(model, batch), strict=True):
            assert built.dtype == np.float32
            np.testing.assert_allclose(built[kept], right[kept], atol=1e-4, rtol=0)


def test_the_graph_is_what_the_oldest_runtime_reads(tmp_path):
    onnx_from_model(small_model(), tmp_path / "network.onnx")
    network = onnx.load(tmp_path / "network.onnx")
    assert [(opset.domain, opset.version) for opset in network.opset_import] == [("", OPSET)]
    assert network.ir_version <= MAX_IR_VERSION
    assert "LayerNormalization" in {node.op_type for node in network.graph.node}


def test_exporting_leaves_the_model_as_it_is(tmp_path):
    model = small_model().train()
    model.attention = "sdpa"
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    onnx_from_model(model, tmp_path / "network.onnx")
    assert model.training
    assert model.attention == "sdpa"
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in before.items())


def test_a_half_precision_model_is_exported_in_float32(tmp_path):
    model = small_model()
    onnx_from_model(model.half(), tmp_path / "network.onnx")
    session = session_from_onnx(tmp_path / "network.onnx", intra_op_threads=1)
    batch = random_batch((20,))
    np.testing.assert_allclose(run_onnx(session, batch)[0], run_torch(model.float(), batch)[0], atol=1e-4, rtol=0)


@pytest.fixture
def network(tmp_path):
    onnx_from_model(small_model(num_layers=1), tmp_path / "network.onnx")
    return onnx.load(tmp_path / "network.onnx")


def rename_output(network):
    network.graph.output[0].name = network.graph.node[-1].output[0]


def widen_input(network):
    network.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def fix_length(network):
    network.graph.input[1].type.tensor_type.shape.dim[1].dim_value = 9


def too_new(network):
    network.ir_version = MAX_IR_VERSION + 1


def in_double(network):
    network.graph.initializer.append(helper.make_tensor("scale", TensorProto.DOUBLE, [1], [2.0]))


def without_opset(network):
    del network.opset_import[:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_output, "graph's outputs .* and the contract asks for"),
        (widen_input, "graph's inputs .* and the contract asks for"),
        (fix_length, "graph's inputs .* and the contract asks for"),
        (too_new, "has IR version 11 and ONNX Runtime 1.19.2 reads 10 at most"),
        (in_double, "scale and 0 other constants are float64"),
        (without_opset, "is not valid ONNX"),
    ],
)
def test_a_graph_that_breaks_the_contract_is_refused(network, change, message):
    check_network(network)
    change(network)
    with pytest.raises(ExportError, match=message):
        check_network(network)


def test_a_file_where_the_folder_should_be_is_one_sentence(network, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match=r"file.*: the network cannot be written"):
        save_network(network, tmp_path / "file" / "network.onnx")


def test_a_network_is_written_whole_or_not_at_all(network, tmp_path):
    (tmp_path / "occupied").mkdir()
    with pytest.raises(ExportError, match="occupied: the network cannot be written"):
        save_network(network, tmp_path / "occupied")
    save_network(network, tmp_path / "new" / "folder.onnx")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["folder.onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.onnx", "new", "occupied"]
