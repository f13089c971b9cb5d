"""The manifest of a model repository: what its stages must agree on, written by the build and read by each of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from spanqa import contract
from spanqa.errors import SettingsError, SpanqaError
from spanqa.spans import DecodeSettings
from spanqa.tokenization import TOKENIZER_FILE, Tokenizer, load_tokenizer
from spanqa.windows import WindowSettings

MANIFEST_FILE = "manifest.json"
FORMAT = "spanqa-repository"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How windows are grouped into calls of the encoder; belongs to the hardware.

    Args:
        rows_per_call: Most windows in one call; at most the encoder's max_batch_size.
        tokens_per_call: Most padded tokens in one call.
        calls_in_flight: Most calls that one question batch has open at a time.
    """

    rows_per_call: int = 16
    tokens_per_call: int = 8192
    calls_in_flight: int = 2

    def __post_init__(self) -> None:
        if min(self.rows_per_call, self.tokens_per_call, self.calls_in_flight) < 1:
            raise SettingsError(f"packing: every limit must be at least 1, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Settings and provenance of one model repository.

    Args:
        tokenizer_sha256: Of the tokenizer.json beside the manifest.
        windows: How contexts are cut.
        decode: The model's decoding defaults.
        packing: How windows are grouped into encoder calls.
        max_context_bytes: Longest context accepted, in UTF-8 bytes.
        encoder: The network: its file, precision, SHA-256, and what else the build recorded.
        model: The checkpoint's name and provenance.
    """

    tokenizer_sha256: str
    windows: WindowSettings = field(default_factory=WindowSettings)
    decode: DecodeSettings = field(default_factory=DecodeSettings)
    packing: Packing = field(default_factory=Packing)
    max_context_bytes: int = contract.DEFAULT_MAX_CONTEXT_BYTES
    encoder: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)


def manifest_json(manifest: Manifest) -> str:
    """The manifest as the text of its file."""
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(manifest)}
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def load_manifest(folder: str | Path) -> Manifest:
    """Read the manifest in a folder.

    Raises:
        SettingsError: If it is missing, damaged, or of another version.
    """
    path = Path(folder) / MANIFEST_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document.pop("format") != FORMAT or document.pop("format_version") != FORMAT_VERSION:
            raise SettingsError(f"not a {FORMAT} of version {FORMAT_VERSION}: build the repository again")
        parts: dict[str, Any] = {"windows": WindowSettings, "decode": DecodeSettings, "packing": Packing}
        return Manifest(**{key: parts[key](**value) if key in parts else value for key, value in document.items()})
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
