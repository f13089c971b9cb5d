"""Engines beside TensorRT itself: the choice of a trial, files that survive faults, padding and cutting of batches.

What TensorRT and Polygraphy are asked for is held by test_trt_contract.py.
"""

import dataclasses
import errno
import hashlib
import itertools
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from spanqa.windows import Batch
from spanqa_build import engine, engine_run
from spanqa_build.errors import EngineError, GpuError
from spanqa_build.gpu import GpuFacts
from spanqa_build.targets import target_from_name
from spanqa_build.timing_cache import kept_timing_cache, timing_cache_path

V100 = target_from_name("v100")
GPU = GpuFacts(
    name="Tesla V100", compute_capability="7.0", driver="535.104.05", free_bytes=1 << 34, total_bytes=1 << 34
)
LAYERS = json.dumps({"Layers": ["/a/MatMul", {"Name": "_gemm_mha_v2", "TacticName": "sm80_FMHA_f16"}, "/mha_head/Add"]})


class FakeRunner:
    """Answers each token with its id, and with its type, in the memory that it answered in before."""

    def __init__(self, latency_ms=1.0):
        self.latency_ms = latency_ms
        self.shapes = []
        self.memory = np.zeros((2, 64, 512), dtype=np.float32)
        self.busy = threading.Lock()
        inspector = SimpleNamespace(get_engine_information=lambda format: LAYERS)
        self.engine = SimpleNamespace(device_memory_size_v2=7, num_layers=3, create_engine_inspector=lambda: inspector)

    def infer(self, feed_dict):
        assert self.busy.acquire(blocking=False), "two calls at once"
        ids = feed_dict["input_ids"]
        self.shapes.append(ids.shape)
        outputs = self.memory[:, : len(ids), : ids.shape[1]]
        outputs[0], outputs[1] = ids, feed_dict["token_type_ids"]
        self.busy.release()
        return {"start_logits": outputs[0], "end_logits": outputs[1]}

    def last_inference_time(self):
        return self.latency_ms / 1000


@pytest.fixture
def fake_tensorrt(monkeypatch):
    """TensorRT 10.4.0 whose plan is the names of its tactic sources, which also say how fast it is."""
    latencies = {b"": 2.0, b"CUBLAS,CUBLAS_LT": 1.5}

    @contextmanager
    def running(plan, file):
        yield FakeRunner(latencies[plan])

    monkeypatch.setitem(
        sys.modules,
        "tensorrt",
        SimpleNamespace(__version__="10.4.0", LayerInformationFormat=SimpleNamespace(JSON="json")),
    )
    monkeypatch.setattr(engine, "running_engine", running)
    monkeypatch.setattr(
        engine, "plan_from_onnx", lambda onnx, target, length, sources, cache: ",".join(sources).encode()
    )
    return latencies


def build(tmp_path, **changes):
    given = {"gpu": GPU, "timing_caches": tmp_path / "caches", **changes}
    return engine.build_engine(tmp_path / "network.onnx", V100, 128, tmp_path / "model.plan", **given)


def batch_of(n_rows, length):
    ids = np.arange(1, n_rows * length + 1, dtype=np.int32).reshape(n_rows, length)
    return Batch(input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=ids % 2)


@pytest.fixture
def runners(monkeypatch, tmp_path):
    """Engines of 128 and 256 tokens as one network, and the fakes behind them."""
    found = {}

    @contextmanager
    def running(plan, file):
        found[int(plan)] = FakeRunner()
        yield found[int(plan)]

    monkeypatch.setattr(engine_run, "running_engine", running)
    files = {length: tmp_path / f"{length}.plan" for length in (256, 128)}
    for length, file in files.items():
        file.write_text(str(length))
    with engine_run.network_from_engines(files, largest_batch=4) as network:
        yield network, found


@pytest.mark.parametrize(("with_cublas_ms", "kept"), [(1.5, ("CUBLAS", "CUBLAS_LT")), (2.5, ())])
def test_the_faster_set_of_tactic_sources_is_kept_and_both_are_recorded(fake_tensorrt, tmp_path, with_cublas_ms, kept):
    fake_tensorrt[b"CUBLAS,CUBLAS_LT"] = with_cublas_ms
    facts = build(tmp_path)
    assert facts.tactic_sources == kept
    assert [(trial.tactic_sources, trial.latency_ms) for trial in facts.trials] == [
        ((), 2.0),
        (("CUBLAS", "CUBLAS_LT"), with_cublas_ms),
    ]
    assert (tmp_path / "model.plan").read_bytes() == ",".join(kept).encode()


def test_the_facts_are_json_and_name_the_file_by_its_hash(fake_tensorrt, tmp_path):
    facts = json.loads(json.dumps(dataclasses.asdict(build(tmp_path))))
    content = (tmp_path / "model.plan").read_bytes()
    assert (facts["file"], facts["size_bytes"]) == ("model.plan", len(content))
    assert facts["sha256"] == hashlib.sha256(content).hexdigest()
    assert facts["latency_ms"] == {"1": 1.5, "8": 1.5, "16": 1.5}
    assert (facts["tensorrt"], facts["gpu"], facts["compute_capability"]) == ("10.4.0", "Tesla V100", "7.0")


def test_fused_attention_is_found_by_the_names_of_layers_and_kernels(fake_tensorrt, tmp_path):
    assert build(tmp_path).fused_attention == ("_gemm_mha_v2", "sm80_FMHA_f16")


def test_a_wrong_gpu_is_refused_before_anything_is_built(fake_tensorrt, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "plan_from_onnx", lambda *args: pytest.fail("it was built"))
    with pytest.raises(GpuError, match=r"compute capability 8\.0, and target v100 needs 7\.0"):
        build(tmp_path, gpu=dataclasses.replace(GPU, compute_capability="8.0"))


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_engine_and_nothing_beside_it(fake_tensorrt, tmp_path, monkeypatch, function):
    (tmp_path / "model.plan").write_bytes(b"old")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(engine.os, function, full)
    with pytest.raises(EngineError, match=r"model\.plan: the engine cannot be written: No space left on device"):
        build(tmp_path)
    assert (tmp_path / "model.plan").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["model.plan"]


@pytest.mark.parametrize(("n_tokens", "length"), [(1, 128), (128, 128), (129, 256), (256, 256)])
def test_a_batch_goes_to_the_shortest_engine_that_holds_it(runners, n_tokens, length):
    network, found = runners
    batch = batch_of(2, n_tokens)
    start, end = network(batch)
    assert found[length].shapes == [(2, length)]
    np.testing.assert_array_equal(start, batch.input_ids)
    np.testing.assert_array_equal(end, batch.token_type_ids)


def test_a_batch_above_the_largest_is_cut_and_put_together_again(runners):
    network, found = runners
    batch = batch_of(10, 100)
    start, _ = network(batch)
    assert found[128].shapes == [(4, 128), (4, 128), (2, 128)]
    np.testing.assert_array_equal(start, batch.input_ids)
    assert start.dtype == np.float32


def test_logits_are_not_overwritten_by_the_next_call(runners):
    network, _ = runners
    first, _ = network(batch_of(2, 5))
    before = first.copy()
    network(batch_of(4, 7))
    np.testing.assert_array_equal(first, before)


def test_threads_take_turns(runners):
    network, _ = runners
    batches = [batch_of(9, length) for length in range(100, 140)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(network, batches))
    assert all((start == batch.input_ids).all() for batch, (start, _) in zip(batches, answers, strict=True))


def test_a_window_that_no_engine_holds_is_refused(runners):
    with pytest.raises(EngineError, match=r"a window of 257 tokens is longer than every engine \(up to 256\)"):
        runners[0](batch_of(1, 257))


def test_the_latency_is_the_median_of_what_comes_after_the_warm_up(monkeypatch):
    runner = FakeRunner()
    times_s = itertools.chain([9.0] * 10, [0.001, 0.002, 0.5])
    monkeypatch.setattr(runner, "last_inference_time", lambda: next(times_s))
    assert engine_run.latency_ms(runner, 128, 4, 3) == 2.0
    assert set(runner.shapes) == {(4, 128)}


def test_what_polygraphy_prints_stays_off_the_console_and_the_first_error_of_it_is_told(capsys):
    def build():
        with engine_run.one_line_errors("engine X", "build it again"):
            print("[I] building\n\x1b[31m[E] Error Code 2: out of\tmemory\x1b[0m\n[E] and so on")
            raise RuntimeError("see the log\nabove")

    with pytest.raises(EngineError) as caught:
        build()
    assert str(caught.value) == "engine X: Error Code 2: out of memory: build it again"
    assert capsys.readouterr() == ("", "")


def test_a_mistake_of_our_own_is_not_told_as_one_of_tensorrt():
    with pytest.raises(ZeroDivisionError), engine_run.one_line_errors("engine X", "build it again"):
        print(1 / 0)


def test_a_timing_cache_belongs_to_one_gpu_one_version_and_one_set_of_tactic_sources(tmp_path):
    gpus, versions = ["Tesla V100-SXM2-16GB", "Tesla V100-SXM2-32GB"], ["10.4.0", "10.3.0"]
    sources = [(), ("CUBLAS", "CUBLAS_LT"), ("CUBLAS",)]
    names = {timing_cache_path(tmp_path, *parts).name for parts in itertools.product(gpus, versions, sources)}
    assert len(names) == 12
    assert "tesla-v100-sxm2-16gb_tensorrt-10.4.0.timing-cache" in names
    assert "tesla-v100-sxm2-16gb_tensorrt-10.4.0_cublas_cublas-lt.timing-cache" in names


def test_each_set_of_tactic_sources_is_timed_with_a_cache_of_its_own(fake_tensorrt, tmp_path, monkeypatch):
    caches = {}

    def plan(onnx, target, length, sources, cache):
        caches[sources] = cache.name
        return ",".join(sources).encode()

    monkeypatch.setattr(engine, "plan_from_onnx", plan)
    build(tmp_path)
    assert caches == {
        (): "tesla-v100_tensorrt-10.4.0.timing-cache",
        ("CUBLAS", "CUBLAS_LT"): "tesla-v100_tensorrt-10.4.0_cublas_cublas-lt.timing-cache",
    }


def test_a_timing_cache_is_read_and_replaced(tmp_path):
    path = tmp_path / "folder" / "a.timing-cache"
    for content in ("one", "two"):
        with kept_timing_cache(path) as copy:
            assert copy.exists() == (content == "two")
            copy.write_text((copy.read_text() if copy.exists() else "") + content)
    assert path.read_text() == "onetwo"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [EngineError("no kernel"), KeyboardInterrupt()])
def test_a_timing_cache_survives_a_build_that_fails(tmp_path, error):
    path = tmp_path / "a.timing-cache"
    path.write_text("old")

    def build():
        with kept_timing_cache(path) as copy:
            copy.write_text("half")
            raise error

    with pytest.raises(type(error)):
        build()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_timing_cache_that_cannot_be_kept_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match=r"the timing cache cannot be kept: .*: make room, or give another folder"):
        kept_timing_cache(tmp_path / "file" / "a.timing-cache").__enter__()


def test_importing_the_engine_code_imports_neither_tensorrt_nor_polygraphy_nor_torch():
    code = (
        "import sys, spanqa_build.engine; print([n for n in ('tensorrt', 'polygraphy', 'torch') if n in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout == "[]\n", done.stderr
