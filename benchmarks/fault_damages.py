"""What can be wrong with the files of one version of a model repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from table_model import seal_again

from spanqa import contract

WARM_UP = """
model_warmup {
  name: "of another length"
  batch_size: 1
  inputs { key: "input_ids" value { data_type: TYPE_INT32 dims: 7 input_data_file: "absent" } }
}
"""

Damage = Callable[[Path, int], None]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()  # versions share files by name
    path.write_bytes(content)


def _shorten(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


def _replace(path: Path, content: str) -> None:
    path.unlink()
    path.write_text(content, "utf-8")


def _warm_up(folder: Path, version: int) -> None:
    config = folder / contract.ENCODER / "config.pbtxt"
    _replace(config, config.read_text("utf-8") + WARM_UP)
    seal_again(folder, version)


def _code(folder: Path, version: int, content: str) -> None:
    _replace(folder / contract.ENCODER / str(version) / "model.py", content)
    seal_again(folder, version)


DAMAGES: dict[str, Damage] = {
    "a flipped bit": lambda folder, version: _flip(folder / contract.ENCODER / str(version) / "network.onnx"),
    "half a network": lambda folder, version: _shorten(folder / contract.ENCODER / str(version) / "network.onnx"),
    "no network": lambda folder, version: (folder / contract.ENCODER / str(version) / "network.onnx").unlink(),
    "no manifest": lambda folder, version: (
        folder / contract.QUESTION_ANSWERING / str(version) / "manifest.json"
    ).unlink(),
    "half a manifest": lambda folder, version: _shorten(
        folder / contract.QUESTION_ANSWERING / str(version) / "manifest.json"
    ),
    "no tokenizer": lambda folder, version: (
        folder / contract.QUESTION_ANSWERING / str(version) / "tokenizer.json"
    ).unlink(),
    "no model.py": lambda folder, version: (folder / contract.ENCODER / str(version) / "model.py").unlink(),
    "a model.py that is no Python": lambda folder, version: _code(folder, version, "class TritonPythonModel(:\n"),
    "a model.py that fails": lambda folder, version: _code(folder, version, "raise RuntimeError('no weights')\n"),
    "a model.py that ends": lambda folder, version: _code(folder, version, "import os\nos._exit(3)\n"),
    "a configuration that is none": lambda folder, _: _replace(
        folder / contract.ENCODER / "config.pbtxt", "max_batch_size: many"
    ),
    "a failing warm-up": _warm_up,
}
