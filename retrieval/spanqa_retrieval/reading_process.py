"""Reading sources in a process of its own, while this one indexes what was read before: both cores are at work."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from spanqa_retrieval.errors import CollectionError
from spanqa_retrieval.reading import Event, read_sources
from spanqa_retrieval.settings import IndexSettings
from spanqa_retrieval.sources import Source

WORTH_BYTES = 4 << 20
"""Of all sources together: less is read in the time that a process takes to start."""
# An empty entry is the working folder, where a module of any name may lie beside the documents.
_CODE = (
    "import sys; sys.path[:] = filter(None, sys.path); from spanqa_retrieval import reading_process; "
    "reading_process.main()"
)


def read_ahead(
    sources: Sequence[Source], known: Mapping[str, str], settings: IndexSettings
) -> Generator[Event, None, None]:
    """Read the files that are new or have changed; see `read_sources`. Many bytes are read by another process.

    Raises:
        CollectionError: That process died.
    """
    if sum(map(_n_bytes, sources)) < WORTH_BYTES:
        yield from read_sources(sources, known, settings)
        return
    ours, theirs = Pipe()
    command = [sys.executable, "-c", _CODE, str(theirs.fileno())]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    theirs.close()
    try:
        ours.send((list(sources), dict(known), settings))
        while event := _received(ours):
            yield event
    except (EOFError, OSError) as error:
        raise CollectionError(
            f"the process that reads the sources ended with status {process.wait()}: is there enough memory? What was "
            "committed is kept: index again"
        ) from error
    finally:
        process.kill()
        process.wait()
        ours.close()


def main() -> None:
    """Do what the process is for: the command line names the descriptor of its pipe."""
    # Ctrl-C goes to every process of a terminal: this one is ended by the one that has to tidy up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gone = contextlib.suppress(BrokenPipeError, ConnectionResetError, EOFError)  # nobody is there to be told
    with Connection(int(sys.argv[1])) as connection, gone:
        sources, known, settings = connection.recv()
        for event in read_sources(sources, known, settings):
            connection.send(event)
        connection.send(None)


def _received(connection: Connection) -> Event | None:
    event: Event | None = connection.recv()
    return event


def _n_bytes(source: Source) -> int:
    try:
        return os.stat(source.path).st_size
    except OSError:
        return 0
