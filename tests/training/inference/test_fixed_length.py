"""The network that torch serves: the model's own logits, alone and in any batch, by whatever records its work."""

import copy
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spanqa.errors import InputError
from spanqa.windows import Batch
from spanqa_training.errors import CheckpointError, RunError
from spanqa_training.inference import cuda_graphs
from spanqa_training.inference.cuda_graphs import check_device
from spanqa_training.inference.fixed_length import (
    FixedLengthNetwork,
    NetworkOfLengths,
    batch_sizes,
    network_from_file,
    placed,
)
from spanqa_training.model import EncoderConfig, SpanModel

LENGTH = 24
N_TOKENS = 500


def model_of(family):
    torch.manual_seed(3)
    config = EncoderConfig(
        vocab_size=N_TOKENS,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        intermediate_size=64,
        max_positions=32,
        layer_norm=family,
        initializer_range=0.3,
    )
    return SpanModel(config).eval()


@pytest.fixture(scope="module", params=["post", "pre"])
def model(request):
    return model_of(request.param)


def batch_of(n_rows, length=LENGTH, seed=0):
    """Windows of many lengths, padded."""
    random = np.random.default_rng(seed)
    ids = random.integers(1, N_TOKENS, (n_rows, length), dtype=np.int32)
    lengths = random.integers(3, length + 1, n_rows)
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    types = mask * (np.arange(length) > 2).astype(np.int32)
    return Batch(input_ids=ids * mask, attention_mask=mask, token_type_ids=types)


def rows_of(batch, rows):
    return Batch(
        input_ids=batch.input_ids[rows],
        attention_mask=batch.attention_mask[rows],
        token_type_ids=batch.token_type_ids[rows],
    )


@torch.inference_mode()
def plain(model, batch):
    arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
    return [logits.numpy() for logits in model(*map(torch.from_numpy, arrays))]


def assert_near(got, wanted, mask, atol=1e-5):
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one * mask, other * mask, atol=atol, rtol=0)


class Graphs:
    """Records work as CUDA does: it runs once, and its replays read and write the very same tensors."""

    def __init__(self, sizes):
        self.pending = sorted(sizes, reverse=True)
        self.replayed = []

    def record(self, work):
        size = self.pending.pop(0)
        work()

        def replay():
            self.replayed.append(size)
            work()

        return replay


@pytest.mark.parametrize(
    ("graph_rows", "largest", "sizes"),
    [
        ((1, 2, 4, 8), 16, (1, 2, 4, 8, 16)),
        ((1, 2, 4, 8), 32, (1, 2, 4, 8, 16, 32)),
        ((1, 2, 4), 16, (1, 2, 4, 8, 16)),
        ((1, 2, 4, 8, 16), 64, (1, 2, 4, 8, 16, 32, 64)),
        ((3, 5), 12, (1, 3, 5, 10, 12)),
        ((8, 16), 4, (1, 2, 4)),
        ((), 1, (1,)),
    ],
)
def test_sizes_are_those_wanted_with_no_gap_of_more_than_a_double(graph_rows, largest, sizes):
    assert batch_sizes(graph_rows, largest) == sizes


def test_a_window_has_the_same_logits_alone_and_in_any_batch(model):
    network = FixedLengthNetwork(model, length=LENGTH, sizes=(1, 2, 4, 8))
    batch = batch_of(8)
    wanted = plain(model, batch)
    for rows in (slice(0, 1), slice(2, 5), slice(1, 8), slice(0, 8)):
        assert_near(network(rows_of(batch, rows)), [logits[rows] for logits in wanted], batch.attention_mask[rows])


def test_a_batch_runs_at_the_smallest_size_that_holds_it_and_above_the_largest_in_parts(model):
    graphs = Graphs((1, 2, 4))
    network = FixedLengthNetwork(model, length=LENGTH, sizes=(4, 1, 2), record=graphs.record)
    assert graphs.pending == []  # each was recorded, the largest first
    ran = {}
    for n_rows in (1, 2, 3, 4, 5, 11):
        graphs.replayed.clear()
        batch = batch_of(n_rows, seed=n_rows)
        assert_near(network(batch), plain(model, batch), batch.attention_mask)
        ran[n_rows] = list(graphs.replayed)
    assert ran == {1: [1], 2: [2], 3: [4], 4: [4], 5: [4, 1], 11: [4, 4, 4]}


def test_what_was_asked_before_shows_nowhere(model):
    network = FixedLengthNetwork(model, length=LENGTH, sizes=(4,))
    first = network(batch_of(1, seed=1))
    kept = copy.deepcopy(first)
    network(batch_of(4, seed=2))
    np.testing.assert_array_equal(first, kept)  # the answer is the caller's, not the place it was made at
    np.testing.assert_array_equal(network(batch_of(1, seed=1)), kept)


def test_windows_of_another_length_are_refused(model):
    network = FixedLengthNetwork(model, length=LENGTH, sizes=(1,))
    with pytest.raises(RunError, match="windows of 20 tokens came to the network for 24: pad them"):
        network(batch_of(1, length=20))


@pytest.mark.parametrize(
    ("field", "wrong", "allowed"),
    [
        ("input_ids", -1, "0 to 499"),
        ("input_ids", N_TOKENS, "0 to 499"),
        ("token_type_ids", -1, "0 to 1"),
        ("token_type_ids", 2, "0 to 1"),
    ],
)
def test_ids_that_the_network_has_not_are_refused_before_anything_is_run(model, field, wrong, allowed):
    graphs = Graphs((1, 4))
    network = FixedLengthNetwork(model, length=LENGTH, sizes=(1, 4), record=graphs.record)
    batch = batch_of(3)
    getattr(batch, field)[2, LENGTH - 1] = wrong
    with pytest.raises(InputError, match=f"^{field} holds {wrong}, and the network takes {allowed}: send what the"):
        network(batch)
    assert graphs.replayed == []


def test_the_first_and_the_last_id_are_taken(model):
    network = FixedLengthNetwork(model, length=LENGTH, sizes=(1,))
    batch = batch_of(1)
    batch.input_ids[0, :2] = 0, N_TOKENS - 1
    batch.token_type_ids[0, :2] = 0, 1
    assert_near(network(batch), plain(model, batch), batch.attention_mask)


def test_networks_of_several_lengths_answer_as_one(model):
    network = NetworkOfLengths(FixedLengthNetwork(model, length=length, sizes=(1, 4)) for length in (32, 12, 20))
    for length in (5, 12, 13, 32):
        batch = batch_of(5, length=length)
        assert_near(network(batch), plain(model, batch), batch.attention_mask)
    with pytest.raises(RunError, match="a window of 33 tokens is longer than the longest network"):
        network(batch_of(1, length=33))


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float16, 0.05), (torch.bfloat16, 0.4)])
def test_half_precision_is_near_and_its_head_and_logits_are_float32(model, dtype, atol):
    half = placed(copy.deepcopy(model), torch.device("cpu"), dtype)
    assert half.layers[0].expand.weight.dtype == dtype
    assert half.head.weight.dtype == torch.float32
    assert torch.equal(half.head.weight, model.head.weight)
    batch = batch_of(6)
    network = FixedLengthNetwork(half, length=LENGTH, sizes=(8,))
    assert_near(network(batch), plain(model, batch), batch.attention_mask, atol=atol)


def loaded(path, model, **changes):
    settings = {"device": "cpu", "dtype": "float32", "length": LENGTH, "sizes": (1, 2)}
    return network_from_file(path, changes.pop("architecture", asdict(model.config)), **{**settings, **changes})


def test_a_file_gives_the_models_own_logits(model, tmp_path):
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    batch = batch_of(2)
    network = loaded(tmp_path / "model.safetensors", model)
    assert_near(network(batch), plain(model, batch), batch.attention_mask)


def test_loading_a_file_loads_nothing_of_torchs_compiler(tmp_path):
    """Two seconds of every process, for fresh weights that are then replaced."""
    model = model_of("post")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    code = "\n".join(
        [
            "import sys, torch",
            "from pathlib import Path",
            "from spanqa_training.inference.fixed_length import network_from_file",
            f"settings = dict(device='cpu', dtype='float32', length={LENGTH}, sizes=(1,))",
            f"network_from_file(Path({str(tmp_path / 'model.safetensors')!r}), {asdict(model.config)!r}, **settings)",
            "sys.exit('torch._dynamo' in sys.modules or 'sympy' in sys.modules)",
        ]
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "cannot be read as the manifest describes it: .*No such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-8]), "holds no weights"),
        (lambda path: path.write_bytes(b"\x80\x04K\x01."), "holds no weights"),  # a pickle: nothing runs
    ],
)
def test_a_file_that_is_missing_or_damaged_is_one_sentence(model, tmp_path, damage, message):
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    damage(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        loaded(path, model)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"num_layers": 3}, "another architecture"), ({"heads": 4}, "unexpected keyword argument 'heads'")],
)
def test_another_architecture_is_refused(model, tmp_path, change, message):
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        loaded(tmp_path / "model.safetensors", model, architecture={**asdict(model.config), **change})


def test_a_gpu_that_torch_does_not_see_is_one_sentence(model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(RunError, match=r"torch \S+ sees no GPU: check NVIDIA's driver") as caught:
        loaded(tmp_path / "model.safetensors", model, device="cuda:0")
    assert "\n" not in str(caught.value)


def test_a_gpu_beyond_those_there_and_one_without_kernels_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(RunError, match="GPU 1 is asked for and torch sees 1"):
        check_device(torch.device("cuda", 1))

    def ones(*_args, **_kwargs):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")

    monkeypatch.setattr(torch, "ones", ones)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Tesla V100")
    with pytest.raises(RunError, match=r"cannot compute on Tesla V100 \(7\.0\): CUDA error: no kernel image") as caught:
        check_device(torch.device("cuda", 0))
    assert "\n" not in str(caught.value)


def test_work_is_warmed_up_and_captured_on_one_stream_and_the_graphs_share_memory(monkeypatch):
    """The calls that CUDA needs, in their order: nothing but a GPU can say that they do what they should."""
    said = []

    class Stream:
        def __init__(self, name="side"):
            self.name = name

        def wait_stream(self, other):
            said.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self):
            said.append("replay")

        def pool(self):
            return "pool"

    class Context:
        def __init__(self, *args, **kwargs):
            self.what = (*args, *kwargs.values())

        def __enter__(self):
            said.append(f"in {[getattr(one, 'name', one) for one in self.what if not isinstance(one, Graph)]}")

        def __exit__(self, *_):
            said.append("out")

    for name, fake in {
        "Stream": lambda _device: Stream(),
        "CUDAGraph": Graph,
        "current_stream": lambda: Stream("current"),
        "device": lambda _device: Context("device"),
        "stream": Context,
        "graph": Context,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    graphs = cuda_graphs.CudaGraphs(torch.device("cuda", 0))
    replay = graphs.record(lambda: said.append("work"))
    first = [
        *("in ['device']", "side waits for current", "in ['side']", "work", "work", "work", "out"),
        *("current waits for side", "in [None, 'side']", "work", "out", "out"),
    ]
    assert said == first
    said.clear()
    graphs.record(lambda: said.append("more"))
    assert "in ['pool', 'side']" in said
    said.clear()
    replay()
    assert said == ["replay"]


def test_work_that_cannot_be_captured_is_one_sentence(monkeypatch):
    def full(_device):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has ...")

    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "device", full)
    with pytest.raises(RunError, match=r"no CUDA graph on cuda:0: CUDA out of memory\. Tried to .*: free GPU memory"):
        cuda_graphs.CudaGraphs(torch.device("cuda", 0)).record(lambda: None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "atol"), [("float32", 1e-4), ("float16", 0.05)])
def test_graphs_on_a_gpu_give_the_models_logits_alone_and_in_any_batch(model, tmp_path, dtype, atol):
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    network = loaded(tmp_path / "model.safetensors", model, device="cuda:0", dtype=dtype, sizes=(1, 2, 4, 8))
    for n_rows in (8, 1, 3, 8, 2, 19):
        batch = batch_of(n_rows, seed=n_rows)
        assert_near(network(batch), plain(model, batch), batch.attention_mask, atol=atol)
