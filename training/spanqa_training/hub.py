"""A model's name to a folder: below $SPANQA_MODELS, or of the Hugging Face Hub, from its cache or over the network."""

from __future__ import annotations

import os
from pathlib import Path

from spanqa_training.errors import SpecError

MODELS_VARIABLE = "SPANQA_MODELS"
_FILES = ["config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
_WEIGHTS = (["*.safetensors", "*.safetensors.index.json"], ["pytorch_model*.bin", "pytorch_model.bin.index.json"])
_NGC_ONLY = "megatron"


def folder_of_name(name: str, where: str) -> Path:
    """Find a model.

    Args:
        name: A path, a folder or file below $SPANQA_MODELS, or the Hub's name of a model.
        where: The key of the spec that gives the name, for errors.

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
    return _from_hub(name, where)


def _from_hub(name: str, where: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except LocalEntryNotFoundError:
        pass  # not in the cache: over the network
    except HFValidationError as error:
        raise SpecError(f"{where}: {name}: neither a path nor a model's name: check it") from error
    try:
        for weights in _WEIGHTS:
            # safetensors first; a .bin only where there is nothing else.
            folder = Path(snapshot_download(name, allow_patterns=[*_FILES, *weights]))
            if any(next(folder.glob(pattern), None) for pattern in weights):
                return folder
    except Exception as error:  # the client raises many kinds, of its own and of its transport
        raise SpecError(
            f"{where}: {name}: not below ${MODELS_VARIABLE}, not in the Hub's cache, and it cannot be fetched "
            f"({type(error).__name__}): put a folder with its weights into ${MODELS_VARIABLE}/{name}, or give a path"
        ) from error
    raise SpecError(f"{where}: {name}: the Hub holds no weights of it: give a path")
