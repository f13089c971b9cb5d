"""An index in a folder where nothing may be written: tantivy takes locks to open one, so it gets a folder of links."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path

import tantivy

_LOCKS = ".tantivy"
_META = "meta.json"
_TRIES = 3


class Links:
    """A folder of links to an index's files as they are now; a later commit needs another one.

    Args:
        path: The index.
        owner: The folder goes when this does.

    Raises:
        OSError: The index cannot be looked into, or no folder can be made.
    """

    def __init__(self, path: Path, owner: object) -> None:
        self.folder = tempfile.mkdtemp(prefix="spanqa-index-")
        self.remove = weakref.finalize(owner, shutil.rmtree, self.folder, ignore_errors=True)
        # What names the files of a commit is copied first: the files of a later one are not among those linked then.
        shutil.copyfile(path / _META, os.path.join(self.folder, _META))
        for name in os.listdir(path):
            if name != _META and not name.startswith(_LOCKS):
                os.symlink(os.path.abspath(path / name), os.path.join(self.folder, name))


def opened(path: Path, owner: object) -> tuple[tantivy.Index, Links]:
    """Open an index by links; when its writer makes the next commit, files of the last may go before they are linked.

    Args:
        path: The index.
        owner: As for `Links`.

    Raises:
        OSError, ValueError: It cannot be opened.
    """
    for _ in range(_TRIES - 1):
        links = Links(path, owner)
        try:
            return tantivy.Index.open(links.folder), links
        except ValueError:
            links.remove()
    links = Links(path, owner)
    return tantivy.Index.open(links.folder), links
