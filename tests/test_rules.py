"""The rules of the house: who may import whom, what parses where, how long things may be, what every command has."""

import ast
import importlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from spanqa.cli import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "spanqa": ROOT / "spanqa",
    "spanqa_training": ROOT / "training" / "spanqa_training",
    "spanqa_build": ROOT / "build" / "spanqa_build",
    "spanqa_client": ROOT / "client" / "spanqa_client",
    "spanqa_server": ROOT / "server" / "spanqa_server",
    "spanqa_retrieval": ROOT / "retrieval" / "spanqa_retrieval",
}
MAY_IMPORT = {
    "spanqa": {"spanqa"},
    # Collections are imported where a command is asked about one.
    "spanqa_client": {
        *("spanqa", "spanqa_client"),
        *(f"spanqa_retrieval.{m}" for m in ("collection", "asking", "commands.asking")),
    },
    "spanqa_retrieval": {"spanqa", "spanqa_client", "spanqa_retrieval"},
    "spanqa_server": {"spanqa", "spanqa_client", "spanqa_server"},
    # The scoring modules are standard library only; an index is recognised without its engine.
    "spanqa_training": {
        "spanqa",
        *(f"spanqa_client.{m}" for m in ("metrics", "thresholds", "intervals", "reports")),
        "spanqa_retrieval.document_texts",
        "spanqa_training",
    },
    # Evaluation is what the accuracy gate is made of; the rest is what `export` and `infer_onnx` share with `infer`.
    "spanqa_build": {
        "spanqa",
        *(f"spanqa_training.{m}" for m in ("model", "inference", "weights.model_sources", "weights.hugging_face")),
        *(f"spanqa_training.checkpoints.{m}" for m in ("checkpoint", "packed_network")),
        *(f"spanqa_training.commands.{m}" for m in ("arguments", "infer")),
        *(f"spanqa_client.{m}" for m in ("metrics", "gold", "intervals", "client", "answer")),
        "spanqa_build",
    },
}
TRAINING_ORDER = (
    *("errors", "console", "encoder", "model"),
    *("data", "optimization", "spec", "checkpoints", "weights", "inference", "run", "adaptation", "commands"),
)
"""Modules and sub-packages of training: each may import itself and those before it."""
MAX_MODULES = 14
"""Of a sub-package of training."""
HEAVY = [
    "torch",
    "pyarrow",
    "onnx",
    "onnxruntime",
    "openvino",
    "tritonclient",
    "grpc",
    "lightning",
    "omegaconf",
    "transformers",
    "tqdm",
]
MODELS = sorted((ROOT / "model_repository").glob("*/1/model.py"))
MAX_MODULE_LINES = 260
MAX_FUNCTION_LINES = 60


def sources(folder):
    """Python files below a folder, caches of tools left out."""
    return sorted(p for p in folder.rglob("*.py") if not any(part.startswith((".", "__py")) for part in p.parts))


SOURCES = [path for folder in PACKAGES.values() for path in sources(folder)] + MODELS


def named(path):
    return str(path.relative_to(ROOT))


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path):
    """Full names of what a file imports anywhere in it: `from a.b import c` gives `a.b.c`."""
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{named(path)}:{node.lineno} imports relatively"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def within(name, allowed):
    return any(name == one or name.startswith(f"{one}.") for one in allowed)


def module_of(path):
    """A source file's module name."""
    for package, folder in PACKAGES.items():
        if path.is_relative_to(folder):
            parts = path.relative_to(folder).with_suffix("").parts
            return ".".join((package, *(part for part in parts if part != "__init__")))
    raise ValueError(path)


def test_the_rules_have_something_to_hold():
    assert all(sources(folder) for folder in PACKAGES.values())
    assert [path.parents[1].name for path in MODELS] == ["encoder", "postprocess", "preprocess", "question_answering"]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_the_siblings_they_may(package):
    wrong = {
        named(path): sorted(strangers)
        for path in sources(PACKAGES[package])
        if (strangers := {n for n in imports(path) if within(n, PACKAGES) and not within(n, MAY_IMPORT[package])})
    }
    assert not wrong


def test_training_imports_go_one_way():
    root, wrong = PACKAGES["spanqa_training"], {}
    rooms = {path.relative_to(root).with_suffix("").parts[0] for path in sources(root)} - {"__init__"}
    assert rooms == set(TRAINING_ORDER)
    for path in sources(root):
        room = path.relative_to(root).with_suffix("").parts[0]
        later = TRAINING_ORDER[TRAINING_ORDER.index(room) + 1 :] if room in TRAINING_ORDER else TRAINING_ORDER
        if strangers := {name for name in imports(path) if within(name, [f"spanqa_training.{one}" for one in later])}:
            wrong[named(path)] = sorted(strangers)
    assert not wrong


def test_the_sub_packages_of_training_are_small_and_its_tests_mirror_them():
    root = PACKAGES["spanqa_training"]
    folders = {path.parent for path in sources(root)} - {root}
    sizes = {folder.name: len([p for p in folder.glob("*.py") if p.name != "__init__.py"]) for folder in folders}
    assert not {name: n_modules for name, n_modules in sizes.items() if n_modules > MAX_MODULES}
    tested = {path.parent.name for path in sources(ROOT / "tests" / "training")} - {"training"}
    assert tested == sizes.keys()


def test_the_core_imports_only_numpy_and_tokenizers_beside_the_standard_library():
    allowed = {"spanqa", "numpy", "tokenizers", *sys.stdlib_module_names}
    wrong = {named(path): {n for n in imports(path) if not within(n, allowed)} for path in sources(PACKAGES["spanqa"])}
    # These need their libraries, which are imported when such a file is opened: the next test holds that.
    for module, libraries in (
        ("parquet.py", {"pyarrow", "pyarrow.parquet"}),
        ("cpu_network.py", {"onnxruntime"}),
    ):
        wrong[named(PACKAGES["spanqa"] / module)] -= libraries
    assert not {path: names for path, names in wrong.items() if names}


def test_every_module_of_the_core_imports_without_heavy_packages():
    modules = [module_of(path) for path in sources(PACKAGES["spanqa"])]
    code = "\n".join(
        [
            "import importlib, sys",
            f"for name in {HEAVY!r}: sys.modules[name] = None",
            f"for name in {modules!r}: importlib.import_module(name)",
        ]
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_the_metrics_need_only_the_standard_library():
    code = "\n".join(
        [
            "import sys",
            "class Refuse:",
            "    def find_spec(self, name, path=None, target=None):",
            "        top = name.partition('.')[0]",
            "        if top not in sys.stdlib_module_names and top not in ('spanqa', 'spanqa_client'):",
            "            raise ModuleNotFoundError(f'{name} is not of the standard library', name=name)",
            "sys.meta_path.insert(0, Refuse())",
            "import spanqa_client.metrics",
            "print(sorted(n for n in sys.modules if n.startswith('spanqa_client.')))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "'spanqa_client.metrics'" in done.stdout


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.parents[1].name)
def test_model_files_import_only_the_core_numpy_and_triton(path):
    allowed = {"spanqa", "numpy", "triton_python_backend_utils", *sys.stdlib_module_names}
    if path.parents[1].name == "encoder":
        allowed.add("onnxruntime")
    assert not {name for name in imports(path) if not within(name, allowed)}


def test_the_model_file_for_torch_imports_beside_that_its_network_alone():
    network = "spanqa_training.inference.fixed_length"
    allowed = {"spanqa", "numpy", "triton_python_backend_utils", network, *sys.stdlib_module_names}
    path = PACKAGES["spanqa_build"] / "templates" / "encoder_torch.py"
    assert not {name for name in imports(path) if not within(name, allowed)}
    assert any(within(name, [network]) for name in imports(path))


def test_the_network_for_torch_imports_no_other_heavy_package():
    others = [name for name in (*HEAVY, "cryptography", "yaml", "sympy") if name not in ("torch", "tqdm")]
    code = "\n".join(
        [
            "import sys, torch, safetensors.torch",  # what these import is theirs
            "there = set(sys.modules)",
            "import spanqa_training.inference.fixed_length",
            "new = {name.partition('.')[0] for name in set(sys.modules) - there}",
            f"sys.exit(repr(sorted(new & set({others!r}))) if new & set({others!r}) else 0)",
        ]
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_everything_parses_as_python_3_10():
    for path in SOURCES:
        ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 10))


def test_no_source_holds_an_assert():
    found = [f"{named(p)}:{n.lineno}" for p in SOURCES for n in ast.walk(tree(p)) if isinstance(n, ast.Assert)]
    assert not found


def test_modules_and_functions_stay_short():
    long_modules = {
        named(path): n_lines
        for path in SOURCES
        if (n_lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_MODULE_LINES
    }
    long_functions = {
        f"{named(path)}:{node.name}": n_lines
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (n_lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    }
    assert (long_modules, long_functions) == ({}, {})


def test_every_module_says_what_it_is_for():
    assert not [named(path) for path in SOURCES if path.stat().st_size and not ast.get_docstring(tree(path))]


@pytest.mark.parametrize("folder", ["build", "client", "training", "server", "retrieval"])
def test_folders_of_packages_are_no_packages(folder):
    """An `__init__.py` there would hide the package below under another name."""
    assert not (ROOT / folder / "__init__.py").exists()


def test_the_wheel_holds_every_package():
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    first = lines.index("packages = [", lines.index("[tool.hatch.build.targets.wheel]"))
    listed = [line.strip().strip('",') for line in lines[first + 1 : lines.index("]", first)]]
    assert sorted(listed) == sorted(named(folder) for folder in PACKAGES.values())
    for folder in PACKAGES.values():
        assert (folder / "__init__.py").is_file()


def test_the_wheel_holds_the_files_that_an_installed_package_looks_for():
    from spanqa_build import questions, repository
    from spanqa_training.commands import download_specs

    def installed(path):
        """Where the wheel puts a file of the source tree: packages lie at its top."""
        return str(path.relative_to(next(folder.parent for folder in PACKAGES.values() if folder in path.parents)))

    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.split("[tool.hatch.build.targets.wheel.force-include]\n")[1].split("\n\n")[0]
    included = dict(re.findall(r'^"(.+)" = "(.+)"$', section, re.MULTILINE))
    assert all((ROOT / source).exists() for source in included)
    templates = [repository._PACKAGED_TEMPLATES / f"{path.parents[1].name}.py" for path in MODELS]
    looked_for = [questions._PACKAGED, download_specs._PACKAGED, *templates]
    assert sorted(included.values()) == sorted(installed(path) for path in looked_for)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_module_with_help(name, capsys, monkeypatch):
    command = COMMANDS[name]
    module = importlib.import_module(command.module)
    assert ast.get_docstring(tree(Path(module.__file__)))
    from spanqa.cli import main

    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: spanqa {name} ")
    assert command.help[1:] in " ".join(shown.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_named_in_the_readme(name):
    assert f"spanqa {name}" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_extra_that_a_command_names_is_defined():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for command in COMMANDS.values():
        assert f"\n{command.extra} = [" in text
