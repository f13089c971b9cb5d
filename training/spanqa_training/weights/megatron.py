"""Megatron-LM checkpoints of BERT: the file among its folders, or in the zip that NGC gives, taken over."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from spanqa_training.errors import ImportWeightsError
from spanqa_training.weights.import_types import Imported, ImportOptions, imported_from_parts, naming
from spanqa_training.weights.megatron_names import (
    MERGE_SHARDS,
    checkpoint_version,
    encoder_prefix,
    facts_of_megatron,
    parts_from_megatron,
)
from spanqa_training.weights.torch_file import Placeholder, read_torch_file
from spanqa_training.weights.vocabulary import load_vocabulary

MEGATRON_FILE = "model_optim_rng.pt"
TRACKER_FILE = "latest_checkpointed_iteration.txt"
_DEEPEST_LEVEL = 8

JOIN_PARTS = (
    "write it as one model_optim_rng.pt with Megatron-LM's own tools (tools/checkpoint/convert.py with"
    " --target-tensor-parallel-size 1 and --target-pipeline-parallel-size 1, or the training script on one GPU with"
    " --ckpt-convert-format torch and --ckpt-convert-save)"
)


def megatron_file(source: Path) -> Path | None:
    """Find the file of weights: the source itself, or in a folder where Megatron-LM keeps its latest.

    Raises:
        ImportWeightsError: The folder's tracker names no iteration.
    """
    if source.is_file():
        return source
    latest = _latest_folder(source)
    folders = (
        source,
        source / "mp_rank_00",
        latest / "mp_rank_00",
        source / "mp_rank_00_000",
        latest / "mp_rank_00_000",
    )
    return next((folder / MEGATRON_FILE for folder in folders if (folder / MEGATRON_FILE).is_file()), None)


def is_distributed(source: Path) -> bool:
    """Whether a path is a distributed checkpoint of Megatron-Core, in parts that only it can join, or one of its parts.

    Raises:
        ImportWeightsError: The folder's tracker names no iteration.
    """
    if source.is_file():
        return source.suffix == ".distcp" or (source.name == "common.pt" and is_distributed(source.parent))
    return any(
        next(folder.glob("*.distcp"), None) is not None
        or all((folder / name).is_file() for name in ("common.pt", "metadata.json"))
        for folder in (source, _latest_folder(source))
    )


def _latest_folder(source: Path) -> Path:
    iteration = "release"
    tracker = source / TRACKER_FILE
    if tracker.is_file():
        with open(tracker, "rb") as file:
            said = file.read(32).decode("ascii", "replace").strip()
        if said != "release" and not said.isdecimal():
            raise ImportWeightsError(f"{tracker}: holds {said!r}: it must be release or the number of an iteration")
        iteration = said if said == "release" else f"iter_{int(said):07d}"
    return source / iteration


def zipped_megatron_files(path: Path) -> list[str]:
    """Names of Megatron-LM's files in a zip, as NGC gives; none where it is no zip, or its contents are damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name for name in archive.namelist() if name.rpartition("/")[2] == MEGATRON_FILE]
    except Exception:  # zipfile fails in any way on a damaged table of contents
        return []


def import_megatron(source: Path, options: ImportOptions) -> Imported:
    """Take over a BERT of Megatron-LM or Megatron-Core, with its masked-LM head if it has one; the span head is drawn.

    Args:
        source: A model_optim_rng.pt, a folder of one (also of its release or latest iteration), or a zip of one.
        options: What the user says; the tokenizer is otherwise looked for beside the source and the file.

    Raises:
        ImportWeightsError: It is another network, damaged, a shard, or there is no vocabulary for it.
        TokenizerError: The tokenizer cannot be used.
    """
    if is_distributed(source):
        raise ImportWeightsError(f"{source}: is a distributed checkpoint of Megatron-Core: {JOIN_PARTS}")
    path = megatron_file(source)
    if path is None:
        raise ImportWeightsError(f"{source}: holds no {MEGATRON_FILE}: give that file, or the folder of its release")
    _check_alone(path)
    with _unzipped(path) as file:
        content = read_torch_file(file, name=str(path))
    with naming(path):
        state, arguments, version = _opened(content)
        weights = flattened(state)
        encoder_prefix(weights)
    folders = [source, path.parent] if source.is_dir() else [source.parent]
    tokenizer = load_vocabulary(options, folders)
    with naming(path):
        parts = parts_from_megatron(weights, arguments, version=version, tokenizer=tokenizer, options=options)
        facts = facts_of_megatron(arguments, version)
        provenance = {"source": "Megatron-LM file", "name": source.resolve().name, **facts}
        return imported_from_parts(parts, tokenizer, options, provenance=provenance)


def flattened(tree: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Give the weights of nested mappings dotted names; whatever else is in them is left out."""
    weights = {}
    levels: list[tuple[str, Mapping[Any, Any]]] = [("", tree)]
    for _ in range(_DEEPEST_LEVEL):
        below = []
        for prefix, branch in levels:
            for key, value in branch.items():
                if isinstance(value, Tensor):
                    weights[f"{prefix}{key}"] = value
                elif isinstance(value, Mapping):
                    below.append((f"{prefix}{key}.", value))
        levels = below
    return weights


def _check_alone(path: Path) -> None:
    """Refuse one shard of several."""
    shards = sorted(folder.name for folder in path.parent.parent.glob("mp_rank_*") if folder.is_dir())
    others = [name for name in shards if name != path.parent.name]
    if path.parent.name.startswith("mp_rank_") and others:
        raise ImportWeightsError(f"{path}: is one of several shards ({others[0]} is beside it): {MERGE_SHARDS}")


@contextmanager
def _unzipped(path: Path) -> Iterator[Path]:
    names = zipped_megatron_files(path)
    if not names:
        yield path
        return
    if len(names) > 1:
        raise ImportWeightsError(f"{path}: holds several shards ({names[0]}, {names[1]}): {MERGE_SHARDS}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / MEGATRON_FILE
        try:
            with zipfile.ZipFile(path) as archive, archive.open(names[0]) as member, open(file, "wb") as copy:
                shutil.copyfileobj(member, copy)
        except Exception as error:  # zipfile fails in any way on a damaged member
            raise ImportWeightsError(f"{path}: {names[0]} cannot be unpacked: fetch the zip again ({error})") from error
        yield file


def _opened(content: object) -> tuple[Mapping[Any, Any], Mapping[str, Any], float]:
    """The tree of weights, the arguments and the checkpoint version."""
    state = content.get("model", content) if isinstance(content, Mapping) else content
    if not isinstance(content, Mapping) or not isinstance(state, Mapping):
        raise ImportWeightsError(f"holds a {type(state).__name__} instead of weights by name: give {MEGATRON_FILE}")
    arguments = content.get("args")
    if isinstance(arguments, Placeholder):
        arguments = vars(arguments)
    version = checkpoint_version(content.get("checkpoint_version"))
    return state, arguments if isinstance(arguments, Mapping) else {}, version
