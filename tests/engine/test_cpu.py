"""The CPU's networks: fused without changing a logit, and int8 close to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
import torch

from spanqa.tokenization import load_tokenizer
from spanqa.windows import Batch, WindowMaker, WindowSettings, batch_windows
from spanqa_build.cpu import cpu_networks_from_model, fused_from_onnx, int8_from_fused
from spanqa_build.errors import OptimizationError, ParityError
from spanqa_build.int8 import ACTIVATION_LEVELS, WEIGHT_LEVELS
from spanqa_build.onnx_export import onnx_from_model
from spanqa_build.parity import compare, question_logits, run_onnx, run_torch, session_from_onnx
from spanqa_training.checkpoints.checkpoint import Checkpoint, save_checkpoint
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
FAMILIES = {"bert": {"layer_norm": "post"}, "megatron-bert": {"layer_norm": "pre", "layer_norm_eps": 1e-5}}


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread():
    """Small products only: threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=FAMILIES)
def built(request, tmp_path_factory):
    """A small random checkpoint stored as float16, and its networks."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    torch.manual_seed(4)
    encoder = EncoderConfig(
        vocab_size=40,
        hidden_size=64,
        num_layers=3,
        num_heads=4,
        intermediate_size=96,
        max_positions=64,
        initializer_range=0.15,
        **FAMILIES[request.param],
    )
    checkpoint = Checkpoint(
        encoder=encoder,
        tokenizer_json=load_tokenizer(folder / "vocab.txt").serialized,
        windows=WindowSettings(max_seq_length=48, doc_stride=16, max_query_length=12),
    )
    model = SpanModel(encoder).half().float().eval()
    save_checkpoint(checkpoint, model, folder / "checkpoint", dtype="float16")
    return checkpoint, model, cpu_networks_from_model(model, folder / "networks")


def session(path, threads=1):
    return session_from_onnx(path, intra_op_threads=threads)


def test_the_float32_network_gives_the_checkpoints_logits_and_answers(built):
    checkpoint, model, networks = built
    parity = compare(
        partial(run_torch, model), partial(run_onnx, session(networks.float32)), checkpoint, PAIRS, rows_per_call=4
    )
    assert parity.n_questions == 3
    assert parity.n_windows > 5
    assert parity.spans_changed == parity.answers_changed == 0
    parity.require(max_difference=1e-4)


def test_the_int8_network_is_near_and_not_the_same(built):
    checkpoint, model, networks = built
    parity = compare(partial(run_torch, model), partial(run_onnx, session(networks.int8)), checkpoint, PAIRS)
    scale = np.std(question_logits(partial(run_torch, model), windows_of(checkpoint)[0])[0])
    assert 1e-5 < parity.max_difference < 0.5 * scale
    assert parity.window_quantiles == tuple(sorted(parity.window_quantiles))
    with pytest.raises(ParityError, match=r"logits differ by up to .* \(allowed: 1e-05\)"):
        parity.require(max_difference=1e-5, answers_changed=3)


def windows_of(checkpoint):
    return WindowMaker(checkpoint.tokenizer(), checkpoint.windows).windows_of_many(PAIRS)


def all_rows(checkpoint):
    return [(windows, index) for windows in windows_of(checkpoint) for index in range(len(windows))]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_window_has_the_same_logits_alone_and_in_any_batch(built, precision):
    """Neighbours and padding, within the batch and to a longer bucket, change nothing beyond 1e-4."""
    checkpoint, _, networks = built
    network = session(getattr(networks, precision))
    rows = all_rows(checkpoint)
    for order, length in ((rows, None), (rows[::-1], 64)):
        together = run_onnx(network, batch_windows(order, length=length))
        for place, row in enumerate(order):
            for padded, alone in zip(together, run_onnx(network, batch_windows([row])), strict=True):
                np.testing.assert_allclose(padded[place, : alone.shape[1]], alone[0], atol=1e-4, rtol=0)


def test_a_window_has_bitwise_the_same_int8_logits_in_any_order_and_on_any_threads(built):
    checkpoint, _, networks = built
    rows = all_rows(checkpoint)
    expected = [run_onnx(session(networks.int8), batch_windows([row])) for row in rows]
    for threads in (1, 2):
        network = session(networks.int8, threads)
        for row, logits in list(zip(rows, expected, strict=True))[::-1]:
            for got, wanted in zip(run_onnx(network, batch_windows([row])), logits, strict=True):
                assert np.array_equal(got, wanted)


def test_any_mask_means_what_it_means_to_the_checkpoint(built):
    """Not only padding at the right: the fused operators read the mask itself."""
    _, model, networks = built
    ids = np.arange(1, 31, dtype=np.int32).reshape(2, 15)
    mask = np.ones_like(ids)
    mask[0, 3:6] = 0
    mask[1, ::4] = 0
    batch = Batch(input_ids=ids, attention_mask=mask, token_type_ids=np.zeros_like(ids))
    kept = mask.astype(bool)
    for got, wanted in zip(run_onnx(session(networks.float32), batch), run_torch(model, batch), strict=True):
        np.testing.assert_allclose(got[kept], wanted[kept], atol=1e-4, rtol=0)


def operators(path):
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_every_layer_is_fused_and_every_product_but_the_head_quantized(built):
    checkpoint, _, networks = built
    layers = checkpoint.encoder.num_layers
    fused, quantized = operators(networks.float32), operators(networks.int8)
    assert fused["Attention"] == quantized["MultiHeadAttention"] == layers
    assert fused["BiasGelu"] == layers
    assert fused["LayerNormalization"] == 2 * layers + 1
    assert fused["Softmax"] == fused["Erf"] == fused["SkipLayerNormalization"] == 0
    assert quantized["MatMulIntegerToFloat"] == 4 * layers
    assert quantized["MatMul"] == 1


def test_embeddings_are_stored_as_float16_only_where_nothing_is_lost(built, tmp_path):
    checkpoint, _, networks = built

    def word_table(path):
        tables = [t for t in onnx.load(path).graph.initializer if list(t.dims) == [40, 64]]
        assert len(tables) == 1
        return onnx.numpy_helper.to_array(tables[0])

    assert word_table(networks.float32).dtype == word_table(networks.int8).dtype == np.float16
    torch.manual_seed(9)
    other = SpanModel(checkpoint.encoder).eval()
    onnx_from_model(other, tmp_path / "plain.onnx")
    fused_from_onnx(tmp_path / "plain.onnx", tmp_path / "fused.onnx", other.config)
    assert np.array_equal(word_table(tmp_path / "fused.onnx"), other.embeddings.word.weight.detach().numpy())


def test_no_processor_overflows_the_sum_of_two_products(built):
    """Processors without VNNI add two products in 16 bits."""
    _, _, networks = built
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(networks.int8).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8
    ]
    assert len(weights) == 4 * 3
    largest = max(abs(weight.astype(int)).max() for weight in weights)
    assert largest == WEIGHT_LEVELS
    assert 2 * largest * ACTIVATION_LEVELS < 2**15


def test_int8_weights_replace_the_float32_ones(built):
    _, _, networks = built
    graph = onnx.load(networks.int8).graph
    large = {t.name: t.data_type for t in graph.initializer if len(t.dims) == 2 and t.dims[1] >= 64}
    assert large.pop("embeddings.position.weight") == onnx.TensorProto.FLOAT
    assert set(large.values()) == {onnx.TensorProto.INT8, onnx.TensorProto.FLOAT16}


def test_a_graph_whose_layers_are_not_all_recognised_is_refused(tmp_path):
    torch.manual_seed(0)
    model = SpanModel(EncoderConfig(vocab_size=9, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=32))
    onnx_from_model(model, tmp_path / "plain.onnx")
    with pytest.raises(OptimizationError, match="2 Attention nodes where 3 layers make 3"):
        fused_from_onnx(tmp_path / "plain.onnx", tmp_path / "fused.onnx", replace(model.config, num_layers=3))
    assert not (tmp_path / "fused.onnx").exists()


def test_the_tanh_activation_is_fused_too(built, tmp_path):
    checkpoint, _, _ = built
    torch.manual_seed(3)
    model = SpanModel(replace(checkpoint.encoder, activation="gelu_tanh")).eval()
    onnx_from_model(model, tmp_path / "plain.onnx")
    fused_from_onnx(tmp_path / "plain.onnx", tmp_path / "fused.onnx", model.config)
    parity = compare(partial(run_torch, model), partial(run_onnx, session(tmp_path / "fused.onnx")), checkpoint, PAIRS)
    parity.require(max_difference=1e-4)


def test_an_unfused_graph_is_not_quantized(built, tmp_path):
    _, model, _ = built
    onnx_from_model(model, tmp_path / "plain.onnx")
    with pytest.raises(OptimizationError, match=r"matrix products were quantized .* give a graph by fused_from_onnx"):
        int8_from_fused(tmp_path / "plain.onnx", tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


def test_a_file_that_is_no_network_is_one_sentence(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no network")
    with pytest.raises(ParityError, match=r"x\.onnx: ONNX Runtime .* cannot load it"):
        session_from_onnx(tmp_path / "x.onnx")
