"""The engine code against the real Python bindings of TensorRT 10.4 and 11, over a stub of the libraries below them.

The bindings are installed by `make test`, side by side and out of the way; each release runs in a process of its own.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from spanqa_build import engine, engine_run

STUB = Path(__file__).parent / "trt_stub"
RELEASES = {"10.4.0": "trt10", "11.4.0.106": "trt11"}
LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin")
SOURCES = [Path(engine.__file__), Path(engine_run.__file__)]


def bindings_of(release):
    folder = Path(sys.prefix) / RELEASES[release]
    if not (folder / "tensorrt_bindings").is_dir():
        pytest.skip(f"TensorRT's bindings {release} are not in {folder}: run make test, which installs them")
    return folder


@pytest.fixture(scope="session")
def stub_libraries(tmp_path_factory):
    """The stub under the names that each release asks for, and a CUDA runtime on the host's memory."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to make the stub libraries with")
    folder = tmp_path_factory.mktemp("stub")
    names = {f"{name}.so.{major}": "nvinfer.c" for name in LIBRARIES for major in ("10", "11")}
    for name, source in {**names, "libcudart.so.12": "cudart.c"}.items():
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(STUB / source)]
        subprocess.run(command, check=True, timeout=60)
    return folder


@pytest.fixture(scope="session")
def network_file(tmp_path_factory):
    """A network with the contract's inputs and outputs whose logits differ with every token, mask and type."""
    tensor = helper.make_tensor_value_info
    ints = [tensor(name, TensorProto.INT32, ["b", "n"]) for name in ("input_ids", "attention_mask", "token_type_ids")]
    floats = [tensor(name, TensorProto.FLOAT, ["b", "n"]) for name in ("start_logits", "end_logits")]
    nodes = [helper.make_node("Cast", [one.name], [f"{one.name}_f"], to=TensorProto.FLOAT) for one in ints]
    nodes += [
        helper.make_node("Sin", ["input_ids_f"], ["sines"]),
        helper.make_node("Mul", ["sines", "attention_mask_f"], ["start_logits"]),
        helper.make_node("Add", ["start_logits", "token_type_ids_f"], ["end_logits"]),
    ]
    graph = helper.make_graph(nodes, "contract", ints, floats)
    path = tmp_path_factory.mktemp("network") / "network.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture(scope="session")
def run_child(root, stub_libraries, network_file, tmp_path_factory):
    def run(release, **changes):
        job = {
            "scratch": str(tmp_path_factory.mktemp("engines")),
            "onnx": str(network_file),
            "questions": str(root / "data" / "heldout200.json"),
            "tokenizer": str(root / "training" / "checkpoints" / "spanqa-minilm" / "tokenizer.json"),
            "engine_source": engine.__file__,
            "names": names_used(SOURCES),
            **changes,
        }
        paths = [bindings_of(release), STUB, *(root / folder for folder in ("", "build", "training", "client"))]
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(stub_libraries),
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
        }
        command = [sys.executable, str(STUB / "child.py"), json.dumps(job)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session", params=RELEASES)
def report(request, run_child):
    return run_child(request.param)


def names_used(paths):
    """What the sources use of TensorRT, each with the keywords it is called with.

    `trt.A.B` as it stands; `x.B` as `trt.A.B` where x is declared as `trt.A`.
    """
    found = {}
    for path in paths:
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                kinds = dict(_declared(function))
                for node in ast.walk(function):
                    call = node if isinstance(node, ast.Call) else None
                    name = _name(call.func if call else node, kinds)
                    if name:
                        found.setdefault(name, set()).update(k.arg for k in (call.keywords if call else ()) if k.arg)
    return sorted((name, sorted(keywords)) for name, keywords in found.items())


def _declared(function):
    for node in ast.walk(function):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            kind = ast.unparse(node.annotation)
            if kind.startswith("trt."):
                yield (node.arg if isinstance(node, ast.arg) else ast.unparse(node.target)), kind.removeprefix("trt.")


def _name(node, kinds):
    if not isinstance(node, ast.Attribute):
        return None
    first, _, rest = ast.unparse(node).partition(".")
    if first == "trt":
        return rest
    return f"{kinds[first]}.{rest}" if first in kinds else None


def test_the_names_that_our_sources_use_are_found_in_them():
    assert dict(names_used(SOURCES)).keys() == {
        "EngineInspector",
        "EngineInspector.get_engine_information",
        "ICudaEngine",
        "ICudaEngine.create_engine_inspector",
        "ICudaEngine.device_memory_size_v2",
        "ICudaEngine.num_layers",
        "LayerInformationFormat",
        "LayerInformationFormat.JSON",
        "MemoryPoolType",
        "MemoryPoolType.WORKSPACE",
        "ProfilingVerbosity",
        "ProfilingVerbosity.DETAILED",
        "TacticSource",
    }
    assert ("EngineInspector.get_engine_information", ["format"]) in names_used(SOURCES)


def test_every_name_that_our_sources_use_exists_in_this_release(report):
    assert report["missing"] == []


def test_polygraphy_reached_tensorrt_through_calls_that_exist_in_this_release(report):
    """A call that does not exist, or does not take what it was given, would have failed the build."""
    assert set(report["used"]) >= {
        "Builder",
        "Builder.build_serialized_network",
        "Builder.create_network",
        "IBuilderConfig.add_optimization_profile",
        "IBuilderConfig.builder_optimization_level",
        "IBuilderConfig.profiling_verbosity",
        "IBuilderConfig.set_memory_pool_limit",
        "IBuilderConfig.set_timing_cache",
        "ICudaEngine.create_execution_context",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.set_input_shape",
        "IOptimizationProfile.set_shape",
        "ITimingCache.combine",
        "OnnxParser.parse_from_file",
        "Runtime.deserialize_cuda_engine",
    }


def test_an_engine_is_strongly_typed_of_one_length_and_batches_from_one(report):
    for built in report["built"]:
        assert (built["strongly_typed"], built["optimization_level"], built["verbosity"]) == (True, 5, "DETAILED")
        (profile,) = built["profiles"]
        assert set(profile) == {"input_ids", "attention_mask", "token_type_ids"}
        for fewest, optimal, most in profile.values():
            assert (fewest[0], optimal[0], most[0]) == (1, 2, 4)
            assert fewest[1] == optimal[1] == most[1] in (128, 256)


def test_the_workspace_is_limited_as_the_target_says(report):
    limit_mib = {"10.4.0": 4096, "11.4.0.106": 8192}[report["version"]]
    assert {built["WORKSPACE"] for built in report["built"]} == {limit_mib << 20}


def test_cublas_is_tried_off_and_on_for_volta_and_left_alone_elsewhere(report):
    tried = [trial["tactic_sources"] for trial in report["facts"][0]["trials"]]
    assert tried == ([[], ["CUBLAS", "CUBLAS_LT"]] if report["version"] == "10.4.0" else [[]])
    assert [built["tactic_sources"] for built in report["built"]] == 2 * tried


def test_the_fastest_trial_is_kept(report):
    for facts in report["facts"]:
        best = min(facts["trials"], key=lambda trial: trial["latency_ms"])
        assert facts["tactic_sources"] == best["tactic_sources"]


def test_the_facts_say_what_was_built(report):
    short, long = report["facts"]
    assert (short["file"], short["length"], long["length"]) == ("128.plan", 128, 256)
    assert short["tensorrt"] == report["version"]
    assert short["device_memory_bytes"] == 12345
    assert short["fused_attention"] == ["_gemm_mha_v2_0x0123abcd"]
    assert set(short["latency_ms"]) == {"1", "2", "4"}
    assert all(value > 0 for value in short["latency_ms"].values())
    assert short["sha256"] != long["sha256"]


def test_each_set_of_tactics_has_a_timing_cache_that_grows_from_build_to_build(report):
    caches, n_built = report["caches"], len(report["built"])
    known = ("tesla-v100-sxm2-16gb_tensorrt-10.4.0", "nvidia-a100-sxm4-40gb_tensorrt-11.4.0.106")
    assert all(name.startswith(known) for name in caches)
    assert len(caches) == len(report["facts"][0]["trials"])
    assert set(caches.values()) == {"measured" * (n_built // len(caches))}
    # The sets take turns, one length after the other.
    assert [built["cache_read"] for built in report["built"]] == [8 * (n // len(caches)) for n in range(n_built)]


def test_the_engines_as_a_network_answer_real_windows_as_onnx_runtime_does(report):
    parity = report["parity"]
    assert parity["n_windows"] >= 30
    assert parity["n_batches_of_right_shape"] == -(-parity["n_windows"] // 7)
    assert parity["max_difference"] < 1e-6


def test_an_engine_can_be_timed_for_any_batch_it_takes(report):
    assert set(report["timed"]) == {"1", "4"}
    assert all(value > 0 for value in report["timed"].values())


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("cannot_build", "cannot build the engine for 128 tokens: Error Code 10: Internal Error (Could not find any"),
        ("empty_onnx", "empty.onnx: TensorRT cannot build the engine for 128 tokens: ModelImporter.cpp: Failed"),
        ("no_onnx", "none.onnx: TensorRT cannot build the engine for 128 tokens: [Errno 2] No such file"),
        ("corrupt_plan", "corrupt.plan: TensorRT cannot load the engine: Error Code 1: Serialization (magicTag"),
        ("no_plan", "none.plan: cannot be read: No such file or directory: build it"),
        ("batch_too_large", "the engine cannot run: For input: input_ids, failed to set shape to: (5, 128)"),
        ("cannot_run", "the engine cannot run: `execute_async_v3()` failed"),
        ("too_long", "tokens is longer than every engine (up to 256): build one for it, or lower max_seq_length"),
    ],
)
def test_a_fault_is_one_line_that_says_what_tensorrt_said(report, fault, words):
    assert words in report[fault]
    assert "\n" not in report[fault]


def test_a_failed_build_leaves_the_old_engine_and_the_old_cache_and_nothing_beside_them(report):
    assert report["kept"] is True
    assert report["leftovers"] == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("trt.MemoryPoolType.WORKSPACE", "trt.MemoryPoolType.WORK_SPACE", "WORK_SPACE"),
        ("engine.num_layers", "engine.n_layers", "ICudaEngine has no n_layers"),
        ("(format=trt", "(fmt=trt", "fits none of"),
        ("builder_optimization_level=", "builder_optimisation_level=", "builder_optimisation_level"),
    ],
)
def test_a_misspelt_name_or_parameter_fails(run_child, old, new, words, tmp_path):
    mutated = tmp_path / "engine.py"
    mutated.write_text(SOURCES[0].read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    report = run_child("10.4.0", mutation=(old, new), names=names_used([mutated]))
    assert words in report["mutated"]
    by_name = "optimization" not in old  # what Polygraphy is given is held by running it
    assert bool(report["missing"]) == by_name
