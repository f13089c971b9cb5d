"""An index in a folder where nothing may be written: tantivy takes locks to open one, so it gets a folder of links."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path

_LOCKS = ".tantivy"


def linked(path: Path, owner: object) -> str:
    """Make a folder of links to an index's files as they are now; a later commit needs another one.

    Args:
        path: The index.
        owner: The folder goes when this does.

    Raises:
        OSError: The index cannot be looked into, or no folder can be made.
    """
    made = tempfile.mkdtemp(prefix="spanqa-index-")
    weakref.finalize(owner, shutil.rmtree, made, ignore_errors=True)
    for name in os.listdir(path):
        if not name.startswith(_LOCKS):
            os.symlink(os.path.abspath(path / name), os.path.join(made, name))
    return made
