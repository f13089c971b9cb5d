"""The manifest of a model repository: what its stages must agree on, written by the build and read by each of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spanqa import contract
from spanqa.errors import SettingsError, SpanqaError
from spanqa.packing import Bucket, Packing
from spanqa.pair_template import PairTemplate, pair_from_json
from spanqa.spans import DecodeSettings
from spanqa.tokenization import TOKENIZER_FILE, Tokenizer, load_tokenizer
from spanqa.windows import WindowSettings

MANIFEST_FILE = "manifest.json"
FORMAT = "spanqa-repository"
FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 1 knew neither buckets nor artefacts, and had no seal."""
SEAL = "sha256"
MIN_CONTEXT_BYTES = 1000
"""The lowest limit: a paragraph. What is asked to see whether a server answers is far shorter."""
TORCH = "torch"
"""The platform of encoders that torch runs, inside Triton's Python backend."""
UNSEALED = frozenset({SEAL, "max_context_bytes"})
"""What the seal leaves out: itself, and the one limit that is the server's, for people to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A kind of GPU.

    Args:
        name: As the driver calls it.
        compute_capability: Such as "7.0".
    """

    name: str
    compute_capability: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How the encoders run, one for each length of window.

    Args:
        platform: Triton's name of the format where it runs them by itself, tensorrt_plan or onnxruntime_onnx; TORCH
            where a model.py of ours does.
        graph_rows: Batch sizes that a CUDA graph is captured for.
        instances: Instances of each encoder on each GPU.
        gpu: The GPU that the files were compiled for; None where any will do.
        tensorrt: The TensorRT that compiled them, from major.minor.patch on; None where none did.
        rehearsed: What stood in for TensorRT in a rehearsal, whose engines are not to be served; None of real ones.
        device: "cuda", or "cpu" where torch serves without a GPU.
        dtype: What torch computes in: float16, bfloat16 or float32; other platforms have it in their files.
    """

    platform: str
    graph_rows: tuple[int, ...] = ()
    instances: int = 1
    gpu: Gpu | None = None
    tensorrt: str | None = None
    rehearsed: str | None = None
    device: str = "cuda"
    dtype: str = "float16"

    @property
    def is_torch(self) -> bool:
        """Whether a model.py of ours runs the encoders."""
        return self.platform == TORCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """What a file must be.

    Args:
        sha256: Of its content, as hexadecimal digits.
        size_bytes: Its size.
    """

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Settings and provenance of one version of a model repository.

    Args:
        tokenizer_sha256: Of the tokenizer.json beside the manifest.
        pair: The special tokens around a question and a context, as that file says; None of a repository built when all
            were BERT's.
        target: What the repository was built for.
        windows: How contexts are cut.
        decode: The model's decoding defaults.
        packing: How windows are grouped into encoder calls.
        engine: How the encoders run; None for the one that takes every length, on a CPU in ONNX Runtime.
        max_context_bytes: Longest context accepted, in UTF-8 bytes, of a repository built when it was no parameter of
            the configuration; None of later ones.
        encoder: The network: its precision, what the build measured of it (parity, accuracy), and whatever else.
        model: The checkpoint's name, family and provenance.
        versions: Versions of the programs that built it.
        artefacts: Files of the version folders, named MODEL/FILE.
        configs: Files beside the version folders that belong to this version, named MODEL/FILE.
    """

    tokenizer_sha256: str
    pair: PairTemplate | None = None
    target: str = "cpu"
    windows: WindowSettings = field(default_factory=WindowSettings)
    decode: DecodeSettings = field(default_factory=DecodeSettings)
    packing: Packing = field(default_factory=Packing)
    engine: Engine | None = None
    max_context_bytes: int | None = None
    encoder: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    artefacts: dict[str, Artefact] = field(default_factory=dict)
    configs: dict[str, Artefact] = field(default_factory=dict)

    def __post_init__(self) -> None:
        longest = self.packing.ensemble_length
        if longest is not None and longest < self.windows.max_seq_length:
            raise SettingsError(
                f"the longest bucket takes {longest} tokens and windows have up to {self.windows.max_seq_length}: "
                "add a bucket of that length"
            )
        limit = self.max_context_bytes
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < MIN_CONTEXT_BYTES):
            raise SettingsError(
                f"max_context_bytes is {limit!r}: give a whole number of bytes, {MIN_CONTEXT_BYTES} or more"
            )

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the repository's models, those that others call first."""
        stages = (contract.PREPROCESS, *self.packing.encoders, contract.POSTPROCESS)
        return (*stages, contract.ENSEMBLE, contract.QUESTION_ANSWERING)


def manifest_json(manifest: Manifest) -> str:
    """The manifest as the text of its file, sealed: a change of it shows."""
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(manifest)}
    for name in ("max_context_bytes", "pair"):
        if document[name] is None:
            del document[name]
    if manifest.decode.answer_slope is None:
        # As versions wrote it that know a temperature alone.
        del document["decode"]["answer_slope"], document["decode"]["answer_offset"]
    document[SEAL] = _seal(json.loads(json.dumps(document, allow_nan=False)))
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def load_manifest(folder: str | Path) -> Manifest:
    """Read the manifest in a folder.

    Raises:
        SettingsError: If it is missing, damaged, edited, or of another version.
    """
    path = Path(folder) / MANIFEST_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT or document["format_version"] not in READABLE_VERSIONS:
            raise SettingsError(f"not a {FORMAT} of version {FORMAT_VERSION}: build the repository again")
        if document["format_version"] > 1 and document[SEAL] != _seal(document):
            raise SettingsError(
                "was edited after the build (only max_context_bytes may be): build the repository again"
            )
        settings = {key: document[key] for key in document.keys() - {"format", "format_version", SEAL}}
        return Manifest(**{key: _PARTS.get(key, _as_it_is)(value) for key, value in settings.items()})
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}: build the repository again") from error
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{path}: damaged ({error}): build the repository again") from error


def load_served_tokenizer(folder: str | Path) -> tuple[Manifest, Tokenizer]:
    """Read a repository's manifest and the tokenizer beside it, which must be the one it names.

    Args:
        folder: The version folder of question_answering, where the repository keeps its one copy of both.

    Raises:
        SpanqaError: If either is missing or damaged, or they do not belong together.
    """
    manifest = load_manifest(folder)
    tokenizer = load_tokenizer(Path(folder) / TOKENIZER_FILE)
    if tokenizer.sha256 != manifest.tokenizer_sha256:
        raise SpanqaError(
            f"{Path(folder) / TOKENIZER_FILE}: not the tokenizer that the model was built with (SHA-256 "
            f"{tokenizer.sha256[:12]}, expected {manifest.tokenizer_sha256[:12]}): build the repository again"
        )
    return manifest, tokenizer


def _seal(document: Mapping[str, Any]) -> str:
    sealed = {key: value for key, value in document.items() if key not in UNSEALED}
    return hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()


def _as_it_is(value: Any) -> Any:
    return value


def _packing(value: dict[str, Any]) -> Packing:
    return Packing(**{**value, "buckets": tuple(Bucket(**bucket) for bucket in value.get("buckets", ()))})


def _engine(value: dict[str, Any] | None) -> Engine | None:
    if value is None:
        return None
    gpu = Gpu(**value["gpu"]) if value["gpu"] else None
    return Engine(**{**value, "graph_rows": tuple(value["graph_rows"]), "gpu": gpu})


def _artefacts(value: dict[str, Any]) -> dict[str, Artefact]:
    return {name: Artefact(**artefact) for name, artefact in value.items()}


_PARTS: dict[str, Any] = {
    "pair": pair_from_json,
    "windows": lambda value: WindowSettings(**value),
    "decode": lambda value: DecodeSettings(**value),
    "packing": _packing,
    "engine": _engine,
    "artefacts": _artefacts,
    "configs": _artefacts,
}
