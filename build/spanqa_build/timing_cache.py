"""Timing caches: what TensorRT measured on a GPU, kept so that the next build there need not measure it again."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from spanqa_build.errors import EngineError


def timing_cache_path(folder: Path, gpu_name: str, tensorrt: str, tactic_sources: Sequence[str] = ()) -> Path:
    """Give the cache of one GPU, TensorRT and set of tactic sources: measurements of others do not count."""
    names = (gpu_name, f"tensorrt-{tensorrt}", *tactic_sources)
    parts = (re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-") for name in names)
    return folder / f"{'_'.join(parts)}.timing-cache"


@contextmanager
def kept_timing_cache(path: Path) -> Iterator[Path]:
    """Lend a copy of a timing cache, and put it in the cache's place if what is done with it succeeds.

    Args:
        path: The cache; need not exist.

    Yields:
        The copy: TensorRT reads it first and writes it last. Missing where there is no cache yet.

    Raises:
        EngineError: The folder cannot be written; the cache is as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".timing-cache.") as scratch:
            copy = Path(scratch) / path.name
            if path.exists():
                shutil.copyfile(path, copy)
            yield copy
            if copy.exists():
                _flush(copy)
                os.replace(copy, path)
    except OSError as error:
        raise EngineError(
            f"{path}: the timing cache cannot be kept: {error.strerror}: make room, or give another folder"
        ) from error


def _flush(path: Path) -> None:
    """Force a file's content to the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
