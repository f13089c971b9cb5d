"""Run in a process of its own, over one release of TensorRT's bindings: our engine code from end to end, and faults."""

import dataclasses
import importlib.util
import inspect
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import tensorrt_bindings
from fakes import TensorRT
from signatures import signatures

from spanqa.datasets import read_dataset
from spanqa.tokenization import load_tokenizer
from spanqa.windows import WindowMaker, WindowSettings, batch_windows
from spanqa_build.errors import BuildError
from spanqa_build.gpu import GpuFacts
from spanqa_build.targets import target_from_name

# Polygraphy would load it, for seconds, to ask whether an array is one of its tensors.
sys.modules["torch"] = None

GPUS = {
    "10.4.0": ("v100", "Tesla V100-SXM2-16GB", "7.0", "535.104.05"),
    "11.4.0.106": ("a100", "NVIDIA A100-SXM4-40GB", "8.0", "580.95.05"),
}


def said(action):
    """What a fault is reported as; an error that is none of ours by its class."""
    try:
        action()
    except BuildError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def missing(names):
    """Which of the names that our sources use this release lacks: classes, members and keywords."""
    found = []
    for name, keywords in names:
        value = tensorrt_bindings
        try:
            for part in name.split("."):
                value = getattr(value, part)
        except AttributeError:
            found.append(name)
            continue
        known = {parameter for signature, _ in signatures(value) for parameter in signature.parameters}
        found += [f"{name}({keyword}=)" for keyword in keywords if inspect.isroutine(value) and keyword not in known]
    return found


def load(path, mutation):
    """The engine module, with a text of it replaced where a mutation is asked for."""
    source = Path(path).read_text(encoding="utf-8")
    if mutation:
        old, new = mutation
        if old not in source:
            raise ValueError(f"{old!r} is not in {path}")
        source = source.replace(old, new)
    spec = importlib.util.spec_from_loader("spanqa_build.engine", loader=None)
    module = importlib.util.module_from_spec(spec)
    sys.modules["spanqa_build.engine"] = module
    exec(compile(source, path, "exec"), module.__dict__)
    return module


def parity(network, session, pairs, tokenizer):
    """Largest difference between the engines and ONNX Runtime itself on windows of real questions."""
    maker = WindowMaker(load_tokenizer(tokenizer), WindowSettings(max_seq_length=256))
    rows = [(windows, i) for windows in maker.windows_of_many(pairs) for i in range(len(windows))]
    rows.sort(key=lambda row: int(row[0].seq_lengths[row[1]]))
    largest, n_batches = 0.0, 0
    for first in range(0, len(rows), 7):
        batch = batch_windows(rows[first : first + 7])
        feeds = {name: getattr(batch, name) for name in ("input_ids", "attention_mask", "token_type_ids")}
        right = session.run(["start_logits", "end_logits"], feeds)
        built = network(batch)
        largest = max(largest, *(float(abs(a - b).max()) for a, b in zip(right, built, strict=True)))
        n_batches += built[0].shape == batch.input_ids.shape and built[0].dtype == np.float32
    return {"max_difference": largest, "n_windows": len(rows), "n_batches_of_right_shape": n_batches}


def main():
    job = json.loads(sys.argv[1])
    scratch, onnx = Path(job["scratch"]), Path(job["onnx"])
    trt = sys.modules["tensorrt"] = TensorRT(tensorrt_bindings)
    report = {"version": tensorrt_bindings.__version__, "missing": missing(job["names"])}
    engine = load(job["engine_source"], job.get("mutation"))
    from spanqa_build import engine_run

    name, gpu_name, capability, driver = GPUS[tensorrt_bindings.__version__]
    gpu = GpuFacts(name=gpu_name, compute_capability=capability, driver=driver, free_bytes=1 << 33, total_bytes=1 << 34)
    target = dataclasses.replace(target_from_name(name), largest_batch=4, optimal_batch=2, graph_batches=(1, 2))

    def build(length=128, source=onnx, output=None):
        output = output or scratch / f"{length}.plan"
        return engine.build_engine(source, target, length, output, gpu=gpu, timing_caches=scratch / "caches")

    if job.get("mutation"):
        report["mutated"] = said(build)
        print(json.dumps(report))
        return
    facts = [build(128), build(256)]
    report["facts"] = [dataclasses.asdict(one) for one in facts]
    report["built"] = trt.built
    plans = {one.length: scratch / one.file for one in facts}
    report["caches"] = {path.name: path.read_bytes().decode() for path in (scratch / "caches").iterdir()}
    report["timed"] = engine_run.time_engine(plans[128], 128, [1, 4], n_calls=3)
    pairs = [(example.question, example.context) for example in read_dataset(job["questions"])[:30]]
    with engine_run.network_from_engines(plans, largest_batch=4) as network:
        report["parity"] = parity(network, onnxruntime.InferenceSession(str(onnx)), pairs, job["tokenizer"])
        long = batch_windows(
            [(WindowMaker(load_tokenizer(job["tokenizer"]), WindowSettings()).windows("where", "on the mat " * 150), 0)]
        )
        report["too_long"] = said(lambda: network(long))
        trt.faults = {"run"}
        report["cannot_run"] = said(lambda: network(batch_windows([(long_windows(job), 0)])))
    report["used"] = sorted(trt.used)
    report |= faults(trt, engine_run, build, plans[128], scratch)
    print(json.dumps(report))


def long_windows(job):
    return WindowMaker(load_tokenizer(job["tokenizer"]), WindowSettings(max_seq_length=256)).windows("where", "there")


def faults(trt, engine_run, build, plan, scratch):
    before = plan.read_bytes()
    caches = {path: path.read_bytes() for path in (scratch / "caches").iterdir()}
    trt.faults = {"build"}
    found = {"cannot_build": said(build)}
    trt.faults = set()
    empty = scratch / "empty.onnx"
    empty.touch()
    found["empty_onnx"] = said(lambda: build(source=empty))
    found["no_onnx"] = said(lambda: build(source=scratch / "none.onnx"))
    found["kept"] = plan.read_bytes() == before and all(path.read_bytes() == old for path, old in caches.items())
    corrupt = scratch / "corrupt.plan"
    corrupt.write_bytes(b"not " + before)
    found["corrupt_plan"] = said(lambda: engine_run.time_engine(corrupt, 128, [1]))
    found["batch_too_large"] = said(lambda: engine_run.time_engine(plan, 128, [5]))
    found["no_plan"] = said(lambda: engine_run.time_engine(scratch / "none.plan", 128, [1]))
    found["leftovers"] = sorted(path.name for path in scratch.rglob(".*"))
    return found


main()
