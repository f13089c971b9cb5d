"""Networks of every family: fused, int8 and float16, near the checkpoint and with BERT's three inputs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache, partial

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from spanqa import contract
from spanqa.tokenization import load_tokenizer
from spanqa.windows import Batch, WindowMaker, WindowSettings, batch_windows
from spanqa_build.activation_scan import scan_activations
from spanqa_build.attention_bias import set_aside
from spanqa_build.cpu import cpu_networks_from_model, fused_from_onnx
from spanqa_build.errors import OptimizationError
from spanqa_build.float16_export import float16_network_from_graph, float32_graph
from spanqa_build.gpu_memory import activation_bytes, n_parameters
from spanqa_build.network_file import write_network
from spanqa_build.parity import compare, run_onnx, run_torch, session_from_onnx
from spanqa_build.precision import rounded_twin
from spanqa_build.rehearsal.engines import rehearsed_engines
from spanqa_build.rehearsal.layers import check_precisions, count_layers
from spanqa_build.targets import target_from_name
from spanqa_build.torch_scan import scan_modules
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.inference.fixed_length import FixedLengthNetwork
from spanqa_training.model import EncoderConfig, SpanModel

WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "tower", "was", "built", "by", "a", "mason", "of", "crete", "in"),
    *("year", "long", "ago", "who", "when", "and", "why", "?", ",", "."),
)
CONTEXT = "The tower, long ago, was built by a mason of Crete in the year of the long tower, and why? " * 4
PAIRS = [
    ("Who built the tower?", CONTEXT),
    ("When was the tower built?", "The tower was built long ago."),
    ("Why a mason?", CONTEXT[40:200]),
]
N_LAYERS = 2
UNTYPED = {"type_vocab_size": 0}
FAMILIES = {
    "roberta": {"type_vocab_size": 1, "position_offset": 2, "layer_norm_eps": 1e-5},
    "distilbert": UNTYPED,
    "electra": {"embedding_size": 24},
    "albert": {"embedding_size": 24, "shared_layers": True, "activation": "gelu_tanh"},
    "mpnet": UNTYPED
    | {"position_offset": 2, "position_scheme": "biased", "relative_buckets": 32, "relative_distance": 128},
    "deberta-v2": UNTYPED
    | {"position_scheme": "disentangled", "relative_buckets": 8, "relative_distance": 64, "layer_norm_eps": 1e-7},
}
GRAPHS = ("electra", "mpnet", "deberta-v2")
"""Families whose graphs are unlike BERT's; the others' differ from it by a table at most."""


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread():
    """Small products only: threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("\n".join(WORDS), encoding="utf-8")
    return load_tokenizer(path)


def encoder_of(family, **changes):
    sizes = {"vocab_size": 40, "hidden_size": 64, "num_layers": N_LAYERS, "num_heads": 4, "intermediate_size": 96}
    more = {"max_positions": 64, "initializer_range": 0.15, "family": family}
    return EncoderConfig(**(sizes | more | FAMILIES[family] | changes))


def model_of(config):
    torch.manual_seed(4)
    model = SpanModel(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # all zero before, so that an exporter would merge them
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


def checkpoint_of(config, vocabulary):
    windows = WindowSettings(max_seq_length=48, doc_stride=16, max_query_length=12)
    return Checkpoint(encoder=config, tokenizer_json=vocabulary.serialized, windows=windows)


@pytest.fixture(scope="module", params=FAMILIES)
def built(request, vocabulary, tmp_path_factory):
    """A family, a small random checkpoint of it, and its networks for a CPU."""
    config = encoder_of(request.param)
    model = model_of(config)
    networks = cpu_networks_from_model(model, tmp_path_factory.mktemp("networks"))
    return request.param, checkpoint_of(config, vocabulary), model, networks


def rows_of(checkpoint):
    every = WindowMaker(checkpoint.tokenizer(), checkpoint.windows).windows_of_many(PAIRS)
    return [(windows, index) for windows in every for index in range(len(windows))]


def operators(path):
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_plain_and_fused_networks_give_the_checkpoints_answers(built):
    _, checkpoint, model, networks = built
    for path in (networks.plain, networks.float32):
        network = partial(run_onnx, session_from_onnx(path))
        parity = compare(partial(run_torch, model), network, checkpoint, PAIRS, rows_per_call=4)
        assert parity.n_windows > 5
        assert parity.spans_changed == parity.answers_changed == 0
        parity.require(max_difference=1e-4)


def test_the_int8_network_is_near_and_a_window_has_bitwise_the_same_logits_in_any_batch(built):
    _, checkpoint, model, networks = built
    network = partial(run_onnx, session_from_onnx(networks.int8))
    parity = compare(partial(run_torch, model), network, checkpoint, PAIRS)
    assert 1e-5 < parity.max_difference < 0.3
    rows = rows_of(checkpoint)
    together = network(batch_windows(rows, length=60))
    for place, row in enumerate(rows):
        for padded, alone in zip(together, network(batch_windows([row])), strict=True):
            np.testing.assert_allclose(padded[place, : alone.shape[1]], alone[0], atol=1e-4, rtol=0)


def test_every_layer_is_fused_as_far_as_there_are_operators_and_every_product_quantized(built):
    family, checkpoint, _, networks = built
    fused, quantized = operators(networks.float32), operators(networks.int8)
    has_operator = family != "deberta-v2"
    assert fused["Attention"] == quantized["MultiHeadAttention"] == N_LAYERS * has_operator
    assert fused["Softmax"] == N_LAYERS * (not has_operator)
    assert fused["BiasGelu"] + fused["FastGelu"] == N_LAYERS
    assert fused["LayerNormalization"] == 2 * N_LAYERS + 1
    is_narrow = checkpoint.encoder.embedding_size is not None
    assert quantized["MatMulIntegerToFloat"] == (4 if has_operator else 6) * N_LAYERS + is_narrow


def test_all_three_inputs_are_there_and_token_types_count_only_where_a_family_has_them(built):
    family, _, model, networks = built
    ids = np.arange(4, 34, dtype=np.int32).reshape(2, 15)
    ones = np.ones_like(ids)
    first, second = (Batch(input_ids=ids, attention_mask=ones, token_type_ids=types) for types in (ones * 0, ones))
    for path in (networks.plain, networks.float32, networks.int8):
        session = session_from_onnx(path)
        assert [value.name for value in session.get_inputs()] == [tensor.name for tensor in contract.ENCODER_INPUTS]
        assert "token_type_ids" in {name for node in onnx.load(path).graph.node for name in node.input}
        alike = all(
            np.array_equal(*pair) for pair in zip(run_onnx(session, first), run_onnx(session, second), strict=True)
        )
        assert alike == (family not in ("electra", "albert"))
    # A GPU's network takes what windows have, and refuses ids that would break CUDA.
    network = FixedLengthNetwork(model, length=15, sizes=(2,))
    for got, wanted in zip(network(second), run_torch(model, second), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=0)


def test_layers_that_share_their_weights_store_them_once(tmp_path):
    stored = []
    for n_layers in (1, 3):
        networks = cpu_networks_from_model(
            model_of(encoder_of("albert", num_layers=n_layers)), tmp_path / str(n_layers)
        )
        stored.append([bytes_of_weights(path) for path in (networks.float32, networks.int8)])
    for few, many in zip(*stored, strict=True):
        assert few <= many < 1.05 * few


def bytes_of_weights(path):
    return sum(len(tensor.raw_data) for tensor in onnx.load(path).graph.initializer)


def test_a_graph_of_another_family_is_told(tmp_path, built):
    family, _, model, networks = built
    if family == "roberta":
        with pytest.raises(OptimizationError, match="0 biases of attention where all layers have one"):
            set_aside(onnx.load(networks.plain))
        config = replace(model.config, num_layers=N_LAYERS + 1)
        with pytest.raises(OptimizationError, match=f"{N_LAYERS} Attention nodes where {N_LAYERS + 1} layers"):
            fused_from_onnx(networks.plain, tmp_path / "fused.onnx", config)


@pytest.fixture(scope="module")
def graph_of_family():
    """Gives a family's graph in float32, which takes torch seconds, exported once."""
    return cache(lambda family: float32_graph(model_of(encoder_of(family))))


@pytest.mark.parametrize("family", GRAPHS)
def test_float16_is_near_in_products_and_rounded_and_read_by_the_real_parser(
    family, graph_of_family, vocabulary, tmp_path
):
    """The graph is held against TensorRT 10.4's table as it is written, and parsed and built by TensorRT for RTX."""
    config = encoder_of(family)
    graph, model, checkpoint = graph_of_family(family), model_of(config), checkpoint_of(config, vocabulary)
    assert scan_activations(graph, [batch_windows([row]) for row in rows_of(checkpoint)]).float32_tensors == ()
    facts = float16_network_from_graph(graph, tmp_path / "network.onnx")
    write_network(rounded_twin(onnx.load(facts.path)), tmp_path / "twin.onnx")
    for path in (facts.path, tmp_path / "twin.onnx"):
        network = partial(run_onnx, session_from_onnx(path))
        parity = compare(partial(run_torch, model), network, checkpoint, PAIRS)
        assert 0 < parity.max_difference < 0.05
    parsed, engine = rehearsed_engines(facts.path, target_from_name("t4"), {48: tmp_path / "48.plan"})
    check_precisions(parsed.layers, facts.meant)
    assert count_layers(parsed.layers)["softmax"] == {"float32": N_LAYERS}
    assert engine.size_bytes


def test_large_activations_of_another_family_stay_in_float32(graph_of_family, vocabulary, tmp_path):
    """Feed-forward states beyond float16's range are found by both scans, and kept."""
    factor, config = 4e5, encoder_of("mpnet")
    model, graph = model_of(config), onnx.ModelProto()
    graph.CopyFrom(graph_of_family("mpnet"))
    with torch.no_grad():
        model.layers[1].expand.weight *= factor
        model.layers[1].contract.weight /= factor
    for tensor in graph.graph.initializer:
        scale = {"layers.1.expand.constant": factor, "layers.1.contract.constant": 1 / factor}.get(tensor.name)
        if scale:
            values = (numpy_helper.to_array(tensor) * scale).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    batch = batch_windows(rows_of(checkpoint_of(config, vocabulary))[:2])
    kept = scan_activations(graph, [batch]).float32_tensors
    assert kept
    assert all(name.startswith("layers.1") for name in kept)
    assert any("layers.1.expand" in name for name in scan_modules(model, [batch]).float32_tensors)
    facts = float16_network_from_graph(graph, tmp_path / "network.onnx", float32_tensors=kept)
    is_token = batch.attention_mask.astype(bool)
    got, wanted = run_onnx(session_from_onnx(facts.path), batch), run_torch(model, batch)
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one[is_token], other[is_token], atol=0.05, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_counted_from_the_architecture_alone(family):
    config = encoder_of(family)
    assert n_parameters(config) == sum(parameter.numel() for parameter in SpanModel(config).parameters())
    plain = replace(
        config, position_scheme="absolute", relative_buckets=None, relative_distance=None, family="distilbert"
    )
    more = activation_bytes(config, 4, 384) - activation_bytes(plain, 4, 384)
    assert more >= 0 if config.position_scheme == "absolute" else more > 0
