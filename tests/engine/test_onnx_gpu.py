"""TensorRT's rival: a fused float16 graph for ONNX Runtime's CUDA provider."""

from collections import Counter
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from spanqa.windows import WindowMaker, batch_windows
from spanqa_build.cpu import fused_from_onnx
from spanqa_build.cpu_speed import sampled_batches
from spanqa_build.errors import ParityError, PrecisionError
from spanqa_build.onnx_export import onnx_from_model
from spanqa_build.onnx_gpu import CUDA, cuda_network, fused_float16_from_model
from spanqa_build.parity import run_onnx, run_torch, session_from_onnx
from spanqa_training.checkpoints.checkpoint import load_checkpoint
from spanqa_training.model import EncoderConfig, SpanModel


@pytest.fixture(scope="module")
def batches(root, tiny_model_folder):
    from spanqa.datasets import read_dataset

    checkpoint, _ = load_checkpoint(tiny_model_folder)
    pairs = [(example.question, example.context) for example in read_dataset(root / "data" / "heldout200.json")[:20]]
    maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
    windows = maker.windows_of_many(pairs)
    padded = batch_windows([(one, 0) for one in windows[:4]], length=256)
    assert len(set(padded.attention_mask.sum(axis=1).tolist())) > 1
    return [*sampled_batches(windows, n_windows=8), padded]


def model_of(layer_norm):
    torch.manual_seed(1)
    return SpanModel(
        EncoderConfig(
            vocab_size=30522,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            intermediate_size=64,
            max_positions=256,
            layer_norm=layer_norm,
        )
    ).eval()


@pytest.fixture(scope="module")
def fused(batches, exported_once, tmp_path_factory):
    """Gives the file of each family's fused float16 network, made once."""
    folder = tmp_path_factory.mktemp("fused")

    def file_of(layer_norm):
        path = folder / f"{layer_norm}.onnx"
        if not path.exists():
            fused_float16_from_model(model_of(layer_norm), path, batches)
        return path

    return file_of


@pytest.mark.parametrize("layer_norm", ["post", "pre"])
def test_the_graph_for_cuda_computes_what_torch_does_before_it_is_rounded(layer_norm, batches, tmp_path):
    model = model_of(layer_norm)
    onnx_from_model(model, tmp_path / "plain.onnx")
    fused_from_onnx(tmp_path / "plain.onnx", tmp_path / "fused.onnx", model.config, for_cuda=True)
    session = session_from_onnx(tmp_path / "fused.onnx")
    for batch in batches:
        for got, wanted in zip(run_onnx(session, batch), run_torch(model, batch), strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("layer_norm", ["post", "pre"])
def test_attention_gets_the_length_of_each_window_as_the_fused_kernels_need(layer_norm, fused):
    graph = onnx.load(fused(layer_norm)).graph
    (counts,) = {node.input[3] for node in graph.node if node.op_type == "Attention"}
    (source,) = (node for node in graph.node if counts in node.output)
    axes = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in graph.initializer if tensor.dims == [1]}
    assert source.op_type == "ReduceSum"
    summed = [node for node in graph.node if source.input[0] in node.output]
    assert [node.op_type for node in summed] in ([], ["Cast"])
    assert (summed[0] if summed else source).input[0] == "attention_mask"
    attributes = {one.name: helper.get_attribute_value(one) for one in source.attribute}
    assert (axes.get(source.input[1]) if len(source.input) > 1 else list(attributes["axes"])) == [1]
    assert attributes["keepdims"] == 0


@pytest.mark.parametrize("layer_norm", ["post", "pre"])
def test_every_layer_is_fused_and_float16_between_int32_ids_and_float32_logits(layer_norm, fused):
    network = onnx.load(fused(layer_norm))
    operators = Counter(node.op_type for node in network.graph.node)
    assert operators["Attention"] == 2
    assert operators["SkipLayerNormalization"] >= 3
    large = [tensor for tensor in network.graph.initializer if np.prod(tensor.dims) > 1000]
    assert large
    assert {tensor.data_type for tensor in large} == {TensorProto.FLOAT16}
    assert {value.type.tensor_type.elem_type for value in network.graph.input} == {TensorProto.INT32}
    assert {value.type.tensor_type.elem_type for value in network.graph.output} == {TensorProto.FLOAT}


def test_activations_beyond_float16_are_refused_with_the_other_engine(batches, exported_once, tmp_path):
    model = model_of("pre")
    with torch.no_grad():
        model.layers[0].contract.bias[3] = 50_000.0
    with pytest.raises(PrecisionError, match=r"come near float16's range, .*: use --engine tensorrt"):
        fused_float16_from_model(model, tmp_path / "model.onnx", batches)
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_cuda_provider_one_sentence_says_what_to_install(tmp_path):
    with pytest.raises(ParityError, match=f"has no {CUDA}: .* pip install onnxruntime-gpu"):
        cuda_network(tmp_path / "model.onnx")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_cuda_provider_that_falls_back_to_the_cpu_is_refused(fused, monkeypatch):
    path = fused("post")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, providers: session(path, providers=["CPUExecutionProvider"])
    )
    with pytest.raises(ParityError, match=f"cannot start its {CUDA}: install the CUDA and cuDNN") as caught:
        cuda_network(path)
    assert "\n" not in str(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_runs_it_near_torch(batches, fused):
    model = model_of("post")
    network = cuda_network(fused("post"))
    for batch in batches:
        for got, wanted in zip(network(batch), partial(run_torch, model)(batch), strict=True):
            np.testing.assert_allclose(got, wanted, atol=0.05, rtol=0)
