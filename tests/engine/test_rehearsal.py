"""A GPU build rehearsed without a GPU: a real TensorRT takes what we write, and refuses planted faults."""

import dataclasses
import json
import os
import subprocess
import sys

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from spanqa.cli import main
from spanqa.errors import SpanqaError
from spanqa.manifest import load_manifest
from spanqa.startup import check_machine
from spanqa_build import gpu_build
from spanqa_build.comparison import Limits
from spanqa_build.errors import EngineError, GpuError, PrecisionError
from spanqa_build.float16_export import float16_network_from_graph
from spanqa_build.meant_precisions import MeantPrecisions
from spanqa_build.rehearsal import engines, rehearsal
from spanqa_build.rehearsal.engines import Parsed, rehearsed_engines, rtx_version
from spanqa_build.rehearsal.layers import Layer, check_precisions, count_layers, precision_problems
from spanqa_build.targets import all_targets, target_from_name
from spanqa_build.trt_operators import operator_problems
from spanqa_training.model import EncoderConfig, SpanModel

N_LAYERS = 2
MAX_POSITIONS = 384


@pytest.fixture(scope="module")
def graphs(graph_of):
    """Networks of both families in float32, of few parameters and of as many positions as the largest bucket."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_layers": N_LAYERS, "num_heads": 4, "intermediate_size": 48}
    configs = {
        family: EncoderConfig(**sizes, max_positions=MAX_POSITIONS, layer_norm=family) for family in ("pre", "post")
    }
    return {family: graph_of(SpanModel(config)) for family, config in configs.items()}


@pytest.fixture(scope="module")
def float16(graphs, tmp_path_factory):
    """The float16 network of each family and form of layer norm."""
    folder = tmp_path_factory.mktemp("networks")
    return {
        (family, form): float16_network_from_graph(graph, folder / f"{family}_{form}.onnx", layer_norm=form)
        for family, graph in graphs.items()
        for form in ("operator", "primitives")
    }


@pytest.fixture
def network(float16):
    """A sound network to plant faults in."""
    return onnx.load(float16["post", "operator"].path)


def rehearse(facts, target, folder, lengths=None):
    outputs = {length: folder / f"{length}.plan" for length in lengths or target.buckets}
    parsed, *built = rehearsed_engines(facts.path, target, outputs)
    return parsed, built, outputs


def node_named(network, ending):
    return next(node for node in network.graph.node if node.name.endswith(ending))


@pytest.mark.parametrize(
    ("name", "family"), [("v100", "pre"), ("v100", "post"), ("t4", "post"), ("a100", "pre"), ("h100", "post")]
)
def test_the_real_builder_builds_every_bucket_of_every_target_in_the_precisions_that_were_meant(
    float16, tmp_path, name, family
):
    target = target_from_name(name)
    facts = float16[family, target.layer_norm]
    parsed, built, outputs = rehearse(facts, target, tmp_path)
    check_precisions(parsed.layers, facts.meant)
    counts = count_layers(parsed.layers)
    assert counts["matrix product"] == {"float16": 8 * N_LAYERS, "float32": 1}
    assert counts["softmax"] == {"float32": N_LAYERS}
    n_norms = 2 * N_LAYERS + 1
    assert counts["layer norm"] == {"float32": n_norms * (9 if target.layer_norm == "primitives" else 1)}
    assert set(counts["cast"]) == {"float16 to float32", "float32 to float16"}
    assert [engine.length for engine in built] == list(target.buckets)
    assert all(outputs[engine.length].stat().st_size == engine.size_bytes > 1000 for engine in built)
    assert all(100 << 20 < engine.peak_bytes < 1 << 30 for engine in built), "not that of this process"


def test_every_target_for_gpus_is_rehearsed_above():
    gpus = {name for name, target in all_targets().items() if target.is_gpu}
    (marks,) = test_the_real_builder_builds_every_bucket_of_every_target_in_the_precisions_that_were_meant.pytestmark
    assert {name for name, _ in marks.args[1]} == gpus


def two_types_into_one_addition(network):
    add = node_named(network, "contract.Add")
    cast = helper.make_node("Cast", [add.input[0]], ["planted"], "planted", to=TensorProto.FLOAT)
    add.input[0] = "planted"
    network.graph.node.insert(list(network.graph.node).index(add), cast)


def half_into_a_norm_of_float32(network):
    norm = node_named(network, "attention_norm.LayerNormalization")
    norm.input[0] = norm.input[0].removesuffix("_float32")


def an_operator_that_there_is_not(network):
    node_named(network, "Erf").op_type = "Erfc"


def an_operator_of_others(network):
    erf = node_named(network, "Erf")
    erf.op_type, erf.domain = "FastGelu", "com.microsoft"
    network.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def an_opset_too_new(network):
    network.opset_import[0].version = 99


PLANTS = {
    two_types_into_one_addition: "SUM must have same input types. But they are of types Float and Half",
    half_into_a_norm_of_float32: "must have identical types. `input` type is Half and `scale` type is Float",
    an_operator_that_there_is_not: "and operator: Erfc (checkFallbackPluginImporter): INVALID_NODE",
    an_operator_of_others: "and operator: FastGelu (checkFallbackPluginImporter): INVALID_NODE",
    an_opset_too_new: None,
}
"""Faults in a network and what TensorRT says of each; it takes any opset whose nodes it knows, and says nothing."""
FILES = {
    "cut": (lambda content: content[: len(content) // 2], "Failed to parse the ONNX model"),
    "overwritten": (lambda content: content[:2000] + b"\xff" * 100 + content[2100:], "Failed to parse the ONNX model"),
    "empty": (lambda _: b"", "Inputs available in the TensorRT network are: set()"),
}
"""Damage of a file, and what TensorRT says of it."""
CHILD = """
import json, sys, tempfile
from pathlib import Path
from spanqa_build.engine import plan_from_onnx
from spanqa_build.errors import EngineError
from spanqa_build.rehearsal.worker import put_in_place
from spanqa_build.targets import target_from_name

put_in_place()
said = {}
for name, path, length in json.loads(sys.argv[1]):
    try:
        with tempfile.TemporaryDirectory() as scratch:
            plan_from_onnx(Path(path), target_from_name("t4"), length, (), Path(scratch) / "cache")
        said[name] = None
    except EngineError as error:
        said[name] = str(error)
print(json.dumps(said))
"""
"""Has the real builder try many networks in one process."""


@pytest.fixture(scope="module")
def said(float16, tmp_path_factory):
    """What the real TensorRT says of each planted fault; None where it builds an engine all the same."""
    folder = tmp_path_factory.mktemp("planted")
    source = float16["post", "operator"].path
    jobs = [("sound", str(source), 384), ("outside", str(source), MAX_POSITIONS + 1)]
    for plant in PLANTS:
        planted = onnx.load(source)
        plant(planted)
        onnx.save(planted, folder / f"{plant.__name__}.onnx")
        jobs.append((plant.__name__, str(folder / f"{plant.__name__}.onnx"), 128))
    for name, (damage, _) in FILES.items():
        (folder / f"{name}.onnx").write_bytes(damage(source.read_bytes()))
        jobs.append((name, str(folder / f"{name}.onnx"), 128))
    command = [sys.executable, "-c", CHILD, json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=engines.worker_environment())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_sound_network_is_taken(said):
    assert said["sound"] is None


@pytest.mark.parametrize("plant", [plant for plant, words in PLANTS.items() if words], ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_refused_by_tensorrt_in_one_line(said, plant):
    assert PLANTS[plant] in said[plant.__name__]
    assert said[plant.__name__].count("\n") == 0


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_by_tensorrt_in_one_line(said, name):
    assert FILES[name][1] in said[name]
    assert said[name].count("\n") == 0


def test_a_profile_outside_the_positions_is_refused_by_tensorrt(said):
    assert "TensorRT cannot build the engine for 385 tokens" in said["outside"]
    assert "broadcast dimensions must be conformable" in said["outside"]


def test_an_opset_too_new_is_taken_by_tensorrt_and_refused_by_the_table(said, network):
    assert said["an_opset_too_new"] is None
    an_opset_too_new(network)
    assert operator_problems(network) == ["it uses opset 99 of ai.onnx: export with ai.onnx 9 to 20"]


def test_a_product_in_float32_and_a_norm_in_float16_fail_though_tensorrt_takes_them(float16, network, tmp_path):
    facts = float16["post", "operator"]
    product = node_named(network, "expand.MatMul")
    norm = node_named(network, "attention_norm.LayerNormalization")
    inserted = []
    for node, kind in ((product, TensorProto.FLOAT), (norm, TensorProto.FLOAT16)):
        for place, name in enumerate(node.input):
            inserted.append((node, helper.make_node("Cast", [name], [f"{node.name}.{place}"], to=kind)))
            node.input[place] = f"{node.name}.{place}"
        back = TensorProto.FLOAT16 if kind == TensorProto.FLOAT else TensorProto.FLOAT
        result = node.output[0]
        node.output[0] = f"{result}.planted"
        at = list(network.graph.node).index(node) + 1
        network.graph.node.insert(at, helper.make_node("Cast", [f"{result}.planted"], [result], to=back))
    for node, cast in inserted:
        network.graph.node.insert(list(network.graph.node).index(node), cast)
    onnx.save(network, tmp_path / "planted.onnx")
    planted = dataclasses.replace(facts, path=tmp_path / "planted.onnx")
    parsed, built, _ = rehearse(planted, target_from_name("t4"), tmp_path, [128])
    assert len(built) == 1
    problems = precision_problems(parsed.layers, facts.meant)
    assert problems == [
        f"the layer norm {norm.name} is in float16, not float32",
        f"the matrix product {product.name} is in float32, not float16",
    ]
    with pytest.raises(PrecisionError, match=r"in float16, not float32 \(and 1 more\)$"):
        check_precisions(parsed.layers, facts.meant)


def test_what_is_in_no_meant_precision_or_missing_or_unheard_of_is_a_problem():
    meant = MeantPrecisions(
        float16_products=("a", "c"), float32_products=("head",), softmaxes=("b",), norms=("x.LayerNormalization",)
    )
    layers = [
        Layer(kind="MATRIX_MULTIPLY", node="a", reads=("float16", "float32"), gives=("float32",)),
        Layer(kind="SOFTMAX", node="b", reads=("float16",), gives=("float16",)),
        Layer(kind="ELEMENTWISE", node="x.LayerNormalization.mean", reads=("float16",), gives=("float16",)),
        Layer(kind="ELEMENTWISE", node="x", reads=("int64", "int64"), gives=("int64",)),
        Layer(kind="MATRIX_MULTIPLY", node="c", reads=("bf16", "bf16"), gives=("bf16",)),
        Layer(kind="MATRIX_MULTIPLY", node="d", reads=("float16", "float16"), gives=("float16",)),
        Layer(kind="EINSUM", node="e", reads=("float32",), gives=("float32",)),
        Layer(kind="CAST", node="x.LayerNormalization_float16", reads=("float32",), gives=("float16",)),
    ]
    assert precision_problems(layers, meant) == [
        "e is of kind EINSUM, of which none was written",
        "the matrix product a is in float16 to float32, not float16",
        "the softmax b is in float16, not float32",
        "the layer norm x.LayerNormalization.mean is in float16, not float32",
        "the matrix product c is in bf16, not float16",
        "the matrix product d is none that was written",
        "the matrix product head is missing from its network",
    ]


@pytest.fixture
def lenient(monkeypatch):
    """A network with random weights has near ties everywhere, which any rounding decides."""
    limits = Limits(max_difference=0.5, answers_changed=0.5, f1_loss=50)
    for name in ("FLOAT16", "FLOAT16_ROUNDED"):
        monkeypatch.setattr(gpu_build, name, limits)


@pytest.fixture
def command(tiny_model_folder, thirty_questions, lenient, exported_once):
    return ["build", "-m", str(tiny_model_folder), "--data", str(thirty_questions), "--target", "a100", "--rehearse"]


def test_the_command_writes_a_complete_repository_that_nobody_serves(command, tmp_path, capsys):
    folder = tmp_path / "repository"
    assert main([*command, "--json", "-o", str(folder)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [step["name"] for step in told["steps"]] == [
        *("torch", "export", "parity", "operators", "parse", "encoder_128", "encoder_192", "encoder_256", "repository")
    ]
    assert told["layers"]["matrix product"] == {"float16": 16, "float32": 1}
    assert told["peak_bytes"] > 0
    assert any("NVIDIA A100" in clause for clause in told["unproven"])
    assert "--target a100 --engine tensorrt" in told["remaining"][1]
    assert told["remaining"][1].endswith("-o REPOSITORY"), "no real build goes into a rehearsed repository"
    manifest = load_manifest(folder / "question_answering" / "1")
    assert manifest.engine.rehearsed == f"TensorRT for RTX {rtx_version()}"
    assert (folder / "encoder_256" / "1" / "model.plan").stat().st_size == told["engines"][-1]["size_bytes"]
    assert main(["build", "--check", str(folder)]) == 0
    assert "rehearsed with TensorRT for RTX" in capsys.readouterr().out
    with pytest.raises(
        SpanqaError, match=r"a rehearsal's, by TensorRT for RTX .*, and not to be served: build the rep"
    ):
        check_machine(manifest)
    assert main(["serve", "--repository", str(folder)]) == 2
    *_, error = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("spanqa: error: the engines are a rehearsal's")


def test_no_rehearsed_version_is_put_beside_a_real_one_nor_the_reverse(command, root, tmp_path, capsys):
    real = tmp_path / "real" / "question_answering" / "1"
    real.mkdir(parents=True)
    source = root / "model_repository" / "question_answering" / "1" / "manifest.json"
    (real / "manifest.json").write_bytes(source.read_bytes())
    assert main([*command, "-o", str(tmp_path / "real")]) == 2
    assert "holds a real repository, beside which no rehearsed version is put" in capsys.readouterr().err


def test_what_tensorrt_refuses_is_one_line_and_exit_2(command, tmp_path, monkeypatch, capsys):
    def planted(path, target, outputs):
        network = onnx.load(path)
        two_types_into_one_addition(network)
        onnx.save(network, path)
        return rehearsed_engines(path, target, outputs)

    monkeypatch.setattr(rehearsal, "rehearsed_engines", planted)
    assert main([*command, "-o", str(tmp_path / "repository")]) == 2
    shown = capsys.readouterr()
    assert "SUM must have same input types" in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out.splitlines()[-1].startswith("operators")
    assert not (tmp_path / "repository").exists()


def test_auto_looks_for_no_gpu_where_none_is_needed(command, capsys):
    assert main([*command, "--target", "auto"]) == 2
    assert "--target auto looks for a GPU, which is not needed here: name v100, t4" in capsys.readouterr().err


@pytest.mark.parametrize("what", [["--check", "DIR"], ["--rollback", "DIR"]])
def test_options_of_a_build_beside_a_repository_are_refused(what, capsys):
    assert main(["build", *what, "-m", "nowhere", "--target", "t4", "--engine", "torch"]) == 2
    assert f"{what[0]} takes a repository as it is: leave --model, --engine, --target out" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--target", "cpu"], ["--target", "v100", "--engine", "onnxruntime"]])
def test_a_rehearsal_is_of_tensorrt_for_gpus(command, options, capsys):
    assert main([*command, *options]) == 2
    assert "--rehearse is of TensorRT's engines: give --target v100, t4, a100, h100" in capsys.readouterr().err


def test_without_the_package_the_extra_is_named_before_any_work(command, monkeypatch, capsys):
    monkeypatch.setattr(engines.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(rehearsal, "questions_to_check", lambda _path: pytest.fail("work was begun"))
    assert main(command) == 2
    assert "pip install 'spanqa[rehearsal]'" in capsys.readouterr().err
    with pytest.raises(GpuError, match=r"tensorrt-rtx-cu12-bindings and .*-libs and polygraphy are not installed"):
        rtx_version()


def test_a_process_of_tensorrt_that_dies_is_told_in_one_line(float16, tmp_path, monkeypatch):
    (tmp_path / f"{engines.BINDINGS}.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(
        EngineError, match=r"the process of TensorRT for RTX ended with -9: without a word: free memory"
    ):
        list(rehearsed_engines(float16["post", "operator"].path, target_from_name("t4"), {}))


def test_a_rehearsal_that_is_left_early_leaves_no_process_and_no_file_elsewhere(float16, tmp_path, monkeypatch):
    started, scratch = [], tmp_path / "scratch"
    once = subprocess.Popen

    def popen(*args, **options):
        started.append(once(*args, **options))
        return started[-1]

    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(engines.subprocess, "Popen", popen)
    answers = rehearsed_engines(float16["post", "operator"].path, target_from_name("t4"), {128: tmp_path / "plan"})
    assert isinstance(next(answers), Parsed)
    answers.close()
    assert started[0].poll() is not None
    assert not (tmp_path / "plan").exists()
    assert not list(scratch.rglob("*timing-cache*"))


def test_a_terminated_rehearsal_leaves_nothing(tiny_model_folder, thirty_questions, tmp_path):
    """SIGTERM, as a queue or a container sends it, once work has begun."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    options = ["-m", str(tiny_model_folder), "--data", str(thirty_questions), "--target", "t4", "--rehearse"]
    command = [sys.executable, "-m", "spanqa.cli", "build", *options]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("torch")
        process.terminate()
        assert process.wait(60) == 143
    assert not list(tmp_path.rglob("*.onnx"))


def test_modules_of_the_current_folder_are_not_taken_for_tensorrts(float16, tmp_path, monkeypatch):
    (tmp_path / "polygraphy.py").write_text("raise SystemExit('planted')\n")
    monkeypatch.chdir(tmp_path)
    (parsed,) = rehearsed_engines(float16["post", "operator"].path, target_from_name("t4"), {})
    assert parsed.layers


def test_what_is_printed_beside_the_answers_is_not_taken_for_one(float16, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import atexit\natexit.register(print, 'bye')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (parsed,) = rehearsed_engines(float16["post", "operator"].path, target_from_name("t4"), {})
    assert parsed.layers
    (tmp_path / "sitecustomize.py").write_text("print('hello')\n")
    with pytest.raises(EngineError, match="said 'hello': install spanqa again"):
        list(rehearsed_engines(float16["post", "operator"].path, target_from_name("t4"), {}))
