"""Files of torch.save, read without running anything of them."""

from __future__ import annotations

import math
import pickle
import pickletools
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import IO, Any

import torch
from torch._utils import IMPORT_MAPPING, NAME_MAPPING
from torch.serialization import MAGIC_NUMBER, safe_globals

from spanqa_training.errors import ImportWeightsError

ZIP_START = b"PK\x03\x04"
_COMPRESSED_STARTS = (ZIP_START, b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
"""Of zip, gzip, bzip2, xz and zstandard."""

_LEGACY_MAGIC = pickle.dumps(MAGIC_NUMBER, protocol=2)[2:-1]
"""What the first pickle of a legacy file says, without its protocol and its end."""

_CODE_MODULES = ("os", "posix", "nt", "sys")
"""Modules that torch's own reader admits nothing of, whatever it is told."""

_LARGEST_PICKLE_BYTES = 1 << 26
"""Of a zip's pickle, which holds names and shapes: that of a model of 1,000 layers is below 10 MB."""

_SAMPLE_BYTES = 1 << 14
_ENCRYPTED_BITS_PER_BYTE = 7.9
"""Entropy of 4 to 16 KiB of encrypted bytes is 7.94 or more, of float32 weights 7.3 (measured)."""


class Placeholder:
    """Stands for anything that a file names and we do not load; its attributes are what the file says of them."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        """Take any arguments, and do nothing with them."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def is_torch_file(path: Path) -> bool:
    """Whether a file is one of torch.save, perhaps damaged: by its beginning and, of a zip, its table of contents."""
    with open(path, "rb") as file:
        head = file.read(64)
    if not head.startswith(ZIP_START):
        return _LEGACY_MAGIC in head
    try:
        return not zipfile.is_zipfile(path) or _pickle_name(path) is not None
    except Exception:  # zipfile fails in any way on a damaged table of contents
        return True


def read_torch_file(path: Path, *, name: str | None = None) -> Any:
    """Read what torch.save wrote, in the zip format or the legacy one before torch 1.6.

    Only torch's restricted reader (`weights_only=True`) ever reads the file. It admits tensors and plain containers;
    whatever else the file names is listed beforehand, without being looked up, and becomes a `Placeholder`.

    Args:
        path: The file.
        name: What errors call it; by default the path.

    Returns:
        What was saved, on the CPU. Tensors of a zip are mapped into memory, not read.

    Raises:
        ImportWeightsError: The file is of another kind, damaged, or tries to run code.
    """
    try:
        if not is_torch_file(path):
            raise ImportWeightsError(what_it_may_be(path))
        names = _names_in_file(path)
        with warnings.catch_warnings(), safe_globals([(Placeholder, name) for name in names]):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except ImportWeightsError as error:
        raise ImportWeightsError(f"{name or path}: {error}") from error
    except Exception as error:  # a damaged file makes the readers fail in any way they can
        # torch wraps its reason into advice to trust the file.
        cause = error.__context__ if isinstance(error, pickle.UnpicklingError) and error.__context__ else error
        reason = str(cause).partition("\n")[0] or type(cause).__name__
        raise ImportWeightsError(
            f"{name or path}: is damaged, incomplete or no plain file of weights: fetch or save it again ({reason})"
        ) from error


def what_it_may_be(path: Path) -> str:
    """Say what a file that nothing here can read looks like, and what to do with it."""
    with open(path, "rb") as file:
        sample = file.read(_SAMPLE_BYTES)
    if not sample:
        return "is empty: fetch or save it again"
    counts = Counter(sample).values()
    bits_per_byte = sum(count / len(sample) * math.log2(len(sample) / count) for count in counts)
    encrypted = len(sample) >= _SAMPLE_BYTES // 4 and bits_per_byte > _ENCRYPTED_BITS_PER_BYTE
    if encrypted and not sample.startswith(_COMPRESSED_STARTS):
        return (
            "looks encrypted by the old toolkit, which cannot be undone here: decrypt it there (export it in the old"
            " container with its key), or give the .nemo that it was trained from"
        )
    return "is no file of weights: give one that torch, Megatron-LM or NeMo wrote, or a Hugging Face folder"


def _pickle_name(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        return next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)


def _names_in_file(path: Path) -> set[str]:
    """Every class and function that the file names, as `module.name`."""
    if zipfile.is_zipfile(path):
        names = _names_in_zip(path)
    else:
        with open(path, "rb") as file:
            # Magic number, protocol version, system information, and then the object.
            names = set().union(*(_names_in_pickle(file) for _ in range(4)))
    code = sorted(name for name in names if name.partition(".")[0] in _CODE_MODULES)
    if code:
        raise ImportWeightsError(
            f"tries to run code when it is read ({code[0]}): nothing of it was run: do not use this file"
        )
    return names


def _names_in_zip(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(_pickle_name(path) or "data.pkl")
        if info.filename.replace("data.pkl", "constants.pkl") in archive.namelist():
            raise ImportWeightsError("is a TorchScript program: give the weights that it was made of")
        if info.file_size > _LARGEST_PICKLE_BYTES:
            raise ImportWeightsError(
                f"holds {info.file_size:,} bytes of names and shapes, and weights have less than"
                f" {_LARGEST_PICKLE_BYTES:,}: save the model's state_dict alone"
            )
        with archive.open(info) as member:
            return _names_in_pickle(member)


def _names_in_pickle(file: IO[bytes]) -> set[str]:
    names = set()
    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "PROTO" and argument > 2:
            raise ImportWeightsError(
                f"was saved with pickle protocol {argument}, and only 2 can be read safely: load it where it"
                " was written, and torch.save it without pickle_protocol"
            )
        if opcode.name == "GLOBAL":
            module, _, name = argument.partition(" ")
            # The reader translates names of Python 2 by these very tables.
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            names.add(f"{module}.{name}")
    return names
