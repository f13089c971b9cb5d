"""Taking over the weights of other projects, whichever they are: decided by content, never by name."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

from spanqa.errors import SpanqaError
from spanqa_training.checkpoints.checkpoint import is_checkpoint
from spanqa_training.errors import CheckpointError, ImportWeightsError
from spanqa_training.weights.hugging_face import CONFIG_FILE, import_hugging_face
from spanqa_training.weights.hugging_face_names import encoder_config_from_hugging_face
from spanqa_training.weights.import_types import Imported, ImportOptions
from spanqa_training.weights.megatron import import_megatron, is_distributed, megatron_file, zipped_megatron_files
from spanqa_training.weights.nemo import import_nemo
from spanqa_training.weights.torch_file import is_torch_file, what_it_may_be

__all__ = ["ImportOptions", "Imported", "encoder_config_from_hugging_face", "import_model", "is_importable"]

TAKEN_OVER = (
    "a Hugging Face folder (config.json, weights, tokenizer), Megatron-LM's model_optim_rng.pt or the folder or zip of"
    " it, or a .nemo of a question answering model"
)


def import_model(source: str | Path, options: ImportOptions | None = None) -> Imported:
    """Take over a model of another project.

    Args:
        source: A Hugging Face folder of a family that we know, a Megatron-LM checkpoint (file, folder or zip), or a
            NeMo archive, under any name.
        options: What the user knows better than the source.

    Raises:
        ImportWeightsError: It is none of these, or cannot be taken over.
        TokenizerError: Its tokenizer cannot be used.
    """
    source = Path(source)
    if not source.exists():
        hint = "; of a model of the Hugging Face Hub, the folder it was downloaded to" if _is_name(source) else ""
        raise ImportWeightsError(f"{source}: does not exist: give {TAKEN_OVER}{hint}")
    try:
        importer = _importer(source)
        if importer is not None:
            return importer(source, options or ImportOptions())
        if is_checkpoint(source):
            raise ImportWeightsError(f"{source}: is a checkpoint of spanqa already: use it as it is")
        if source.is_dir():
            raise ImportWeightsError(f"{source}: is a folder of nothing that can be taken over: give {TAKEN_OVER}")
        raise ImportWeightsError(f"{source}: {what_it_may_be(source)}")
    except SpanqaError:
        raise
    except OSError as error:
        raise ImportWeightsError(f"{source}: cannot be read: {error}") from error
    except Exception as error:  # what a file of strangers says may break anything
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ImportWeightsError(
            f"{source}: cannot be taken over, its content contradicts itself ({reason}): fetch or save it again"
        ) from error


def is_importable(path: str | Path) -> bool:
    """Whether a path is of a kind that `import_model` takes over, perhaps damaged; reads no weights."""
    path = Path(path)
    try:
        return path.exists() and _importer(path) is not None
    except (OSError, CheckpointError, ImportWeightsError):
        return False


def _importer(source: Path) -> Callable[[Path, ImportOptions], Imported] | None:
    if is_checkpoint(source):
        return None
    if source.is_dir():
        if (source / CONFIG_FILE).is_file():
            return import_hugging_face
        return import_megatron if megatron_file(source) or is_distributed(source) else None
    if is_distributed(source) or is_torch_file(source) or zipped_megatron_files(source):
        return import_megatron
    return import_nemo if _is_tar(source) else None


def _is_name(source: Path) -> bool:
    """Whether what is missing looks like OWNER/NAME."""
    return len(source.parts) == 2 and not source.is_absolute() and not source.parent.exists()


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except OSError:
        raise
    except Exception:  # tarfile fails in any way on a damaged archive
        return True  # unpacking it says so
