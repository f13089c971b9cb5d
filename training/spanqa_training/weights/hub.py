"""A model's name to a folder: below $SPANQA_MODELS, or of the Hugging Face Hub, from its cache or over the network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from spanqa_training.errors import SpecError

MODELS_VARIABLE = "SPANQA_MODELS"
_VOCABULARIES = ["tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "spm.model"]
_FILES = ["config.json", "tokenizer_config.json", "special_tokens_map.json", "merges.txt", *_VOCABULARIES]
_WEIGHTS = (["*.safetensors", "*.safetensors.index.json"], ["pytorch_model*.bin", "pytorch_model.bin.index.json"])
_VOCABULARY = (_VOCABULARIES,)
_NGC_ONLY = "megatron"


def folder_of_name(name: str, where: str, *, weights: bool = True) -> Path:
    """Find a model.

    Args:
        name: A path, a folder or file below $SPANQA_MODELS, or the Hub's name of a model.
        where: The key of the spec that gives the name, for errors.
        weights: Whether weights are needed; else a vocabulary is enough.

    Raises:
        SpecError: It is not found, with what to do.
    """
    if os.path.exists(name):
        return Path(name)
    models = os.environ.get(MODELS_VARIABLE)
    if models:
        for candidate in (Path(models) / name, Path(models) / f"{name}.tlt", Path(models) / f"{name}.nemo"):
            if candidate.exists():
                return candidate
    if _NGC_ONLY in name:
        raise SpecError(
            f"{where}: {name}: the Hugging Face Hub has no weights of it: put NVIDIA's model_optim_rng.pt and its "
            f"vocab.txt into ${MODELS_VARIABLE}/{name}, or give model.language_model.lm_checkpoint and "
            "model.tokenizer.vocab_file"
        )
    return _from_hub(name, where, _WEIGHTS if weights else _VOCABULARY)


def _from_hub(name: str, where: str, needed: Sequence[Sequence[str]]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        # Whoever asked for a configuration alone left a folder without weights.
        if any(_holds_any(folder, patterns) for patterns in needed):
            return folder
    except LocalEntryNotFoundError:
        pass  # not in the cache: over the network
    except HFValidationError as error:
        raise SpecError(f"{where}: {name}: neither a path nor a model's name: check it") from error
    try:
        for patterns in needed:
            # safetensors first; a .bin only where there is nothing else.
            folder = Path(snapshot_download(name, allow_patterns=[*_FILES, *patterns]))
            if _holds_any(folder, patterns):
                return folder
    except Exception as error:  # the client raises many kinds, of its own and of its transport
        raise SpecError(
            f"{where}: {name}: not below ${MODELS_VARIABLE}, not in the Hub's cache, and it cannot be fetched "
            f"({type(error).__name__}): put a folder with its weights into ${MODELS_VARIABLE}/{name}, or give a path"
        ) from error
    what = "weights" if needed is _WEIGHTS else "vocabulary"
    raise SpecError(f"{where}: {name}: neither the Hub nor its cache holds {what} of it: give a path")


def _holds_any(folder: Path, patterns: Sequence[str]) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in patterns)
