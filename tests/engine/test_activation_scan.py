"""What float16 cannot hold is found on windows, and kept in float32 or refused: no wrong answer passes silently."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import onnx
import pytest
import torch

from spanqa.windows import Batch
from spanqa_build.activation_scan import LIMIT, scan_activations
from spanqa_build.errors import PrecisionError
from spanqa_build.float16_export import float16_network_from_graph, float16_network_from_windows
from spanqa_build.network_file import write_network
from spanqa_build.parity import run_onnx, run_torch, session_from_onnx
from spanqa_build.precision import float16_tensors, rounded_twin
from spanqa_training.model import EncoderConfig, SpanModel

FAMILIES = ("pre", "post")
MAX_DIFFERENCE = 0.05
"""Of logits that reach 2 where the planted values leave little of float32's own precision."""


def small_model(family):
    torch.manual_seed(3)
    model = SpanModel(
        EncoderConfig(
            vocab_size=60,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            intermediate_size=48,
            max_positions=40,
            initializer_range=0.2,
            layer_norm=family,
        )
    )
    return model.eval()


def batch():
    rng = np.random.default_rng(5)
    mask = np.ones((3, 30), dtype=np.int32)
    mask[1, 20:] = 0
    ids, types = rng.integers(1, 60, mask.shape), rng.integers(0, 2, mask.shape)
    return Batch(
        input_ids=ids.astype(np.int32) * mask,
        attention_mask=mask,
        token_type_ids=types.astype(np.int32) * mask,
    )


TALL = torch.tensor([1.0, -1.0])
"""Two channels grow, with opposite signs: the mean stays, and a norm's scale can bring the others back."""


def grow_residual(model):
    """The residual sum of the feed-forward block passes 65,504; no weight does."""
    layer = model.layers[0]
    layer.contract.bias[:2] = 40_000 * TALL
    if model.config.layer_norm == "pre":
        layer.attention.output.bias[:2] = 40_000 * TALL
        layer.feed_forward_norm.weight[2:] = 10_000
        model.final_norm.weight[2:] = 20_000
    else:
        layer.attention_norm.bias[:2] = 40_000 * TALL
        layer.expand.weight[:, :2] = 0
        layer.feed_forward_norm.weight[2:] = 20_000


def grow_embeddings(model):
    """Word and position add up beyond float16."""
    embeddings = model.embeddings
    embeddings.word.weight[:, :2] = embeddings.position.weight[:, :2] = 40_000 * TALL
    pre = [model.layers[0].attention_norm, model.layers[0].feed_forward_norm, model.final_norm]
    for norm in pre if model.config.layer_norm == "pre" else [embeddings.norm]:
        norm.weight[2:] = 20_000


def grow_feed_forward(model):
    """The wide states of the feed-forward block pass 65,504."""
    model.layers[0].expand.weight *= 50_000


def grow_scores(model):
    """Each product of a query and a key of the first head is 65,536 and a little."""
    attention = model.layers[0].attention
    for product in (attention.query, attention.key):
        product.weight[0] = 0
        product.bias[0] = 256


def grow_layer_norm(model):
    """A norm's result, float32 itself, passes 65,504 and is read by a float16 product."""
    layer = model.layers[0]
    norm = layer.feed_forward_norm if model.config.layer_norm == "pre" else layer.attention_norm
    norm.weight *= 50_000


PLACES = {
    "residual": (grow_residual, "Add"),
    "embeddings": (grow_embeddings, "embeddings.Add"),
    "feed_forward": (grow_feed_forward, "layers.0.expand.Add"),
    "scores": (grow_scores, "layers.0.attention.MatMul"),
    "layer_norm": (grow_layer_norm, "LayerNormalization"),
}


def difference(path, model, folder):
    """Largest difference of the logits with every float16 result rounded; infinite where they are not finite."""
    write_network(rounded_twin(onnx.load(path)), folder / "twin.onnx")
    built = run_onnx(session_from_onnx(folder / "twin.onnx", intra_op_threads=1), batch())
    kept = batch().attention_mask.astype(bool)
    pairs = zip(built, run_torch(model, batch()), strict=True)
    largest = max(float(abs(a - b)[kept].max()) for a, b in pairs)
    return largest if np.isfinite(largest) else np.inf


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("place", PLACES)
def test_a_planted_overflow_is_found_and_mended(place, family, graph_of, tmp_path):
    plant, tensor = PLACES[place]
    model = small_model(family)
    with torch.no_grad():
        plant(model)
    graph = graph_of(model)
    scan = scan_activations(graph, [batch()])
    assert any(name.startswith(tensor) or name.endswith(tensor) for name in scan.float32_tensors)
    assert max(scan.largest.values()) > 65_504
    broken = float16_network_from_graph(graph, tmp_path / "broken.onnx")
    assert difference(broken.path, model, tmp_path) > 10 * MAX_DIFFERENCE
    mended = float16_network_from_graph(graph, tmp_path / "mended.onnx", float32_tensors=scan.float32_tensors)
    assert set(mended.float32_tensors) == set(scan.float32_tensors)
    assert difference(mended.path, model, tmp_path) < MAX_DIFFERENCE
    assert not set(float16_tensors(graph, scan.float32_tensors)) & set(scan.float32_tensors)


def test_a_weight_beyond_float16_is_refused_and_the_old_network_stays(exported_once, tmp_path):
    model = small_model("pre")
    path = tmp_path / "network.onnx"
    float16_network_from_windows(model, path, [batch()])
    before = path.read_bytes()
    with torch.no_grad():
        # What the weight multiplies is small, so that no activation shows it.
        model.layers[0].feed_forward_norm.weight[4] = 1e-3
        model.layers[0].expand.weight[7, 4] = 100_000
    with pytest.raises(
        PrecisionError,
        match=r"^the weight layers\.0\.expand\.constant reaches 100000 and float16 holds 65504 at most: serve",
    ):
        float16_network_from_windows(model, path, [batch()])
    assert path.read_bytes() == before


def test_a_network_that_is_not_finite_is_refused(exported_once, tmp_path):
    model = small_model("post")
    with torch.no_grad():
        model.layers[0].contract.weight[3, 3] = float("nan")
    with pytest.raises(PrecisionError, match="not finite even in float32"):
        float16_network_from_windows(model, tmp_path / "network.onnx", [batch()])
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def sound_graph(graph_of):
    return graph_of(small_model("pre"))


def test_a_scan_names_every_float16_tensor_and_leaves_the_graph_as_it_is(sound_graph):
    before = sound_graph.SerializeToString()
    scan = scan_activations(sound_graph, [batch(), batch()])
    assert sound_graph.SerializeToString() == before
    assert tuple(scan.largest) == float16_tensors(sound_graph)
    assert {"layers.0.Add", "layers.0.attention.MatMul", "layers.0.attention_norm.LayerNormalization"} <= {
        *scan.largest
    }
    assert (scan.n_windows, scan.limit, scan.float32_tensors) == (6, LIMIT, ())


def test_the_largest_magnitudes_are_those_of_torch(sound_graph):
    model = small_model("pre")
    seen = {}
    model.layers[0].expand.register_forward_hook(lambda _, __, out: seen.update(wide=float(out.abs().max())))
    model.layers[0].register_forward_hook(lambda _, __, out: seen.update(residual=float(out.abs().max())))
    run_torch(model, batch())
    largest = scan_activations(sound_graph, [batch()]).largest
    assert largest["layers.0.expand.Add"] == pytest.approx(seen["wide"], rel=1e-5)
    assert any(value == pytest.approx(seen["residual"], rel=1e-5) for value in largest.values())


def test_the_largest_of_several_batches_counts(sound_graph):
    rows = [
        Batch(**{name: getattr(batch(), name)[n : n + 1] for name in ("input_ids", "attention_mask", "token_type_ids")})
        for n in range(3)
    ]
    together = scan_activations(sound_graph, rows).largest
    apart = [scan_activations(sound_graph, [row]).largest for row in rows]
    for name, value in together.items():
        assert value == pytest.approx(max(found[name] for found in apart))


def test_a_report_says_what_is_kept_and_why(sound_graph):
    scan = scan_activations(sound_graph, [batch()], limit=2.0)
    assert 0 < len(scan.float32_tensors) < len(scan.largest)
    table = scan.table(n_rows=1)
    assert all(name in table for name in scan.float32_tensors)
    assert f"{len(scan.float32_tensors)} of {len(scan.largest)} tensors pass 2 on 3 windows" in table
    assert json.loads(json.dumps(asdict(scan)))["largest"] == dict(scan.largest)


def test_a_scan_without_windows_is_refused(sound_graph):
    with pytest.raises(PrecisionError, match="no windows to scan"):
        scan_activations(sound_graph, [])
