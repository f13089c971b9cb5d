"""`spanqa serve` as a process of its own, as operators run it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path


class ServeCommand:
    """`spanqa serve` in a process of its own, on ports of its own choice or on those given.

    Args:
        repository: What it serves.
        options: Further options.
        before: A command that runs it.
        env: Environment variables to change.
    """

    def __init__(
        self, repository: Path, *options: str, before: Sequence[str] = (), env: dict[str, str] | None = None
    ) -> None:
        ports = ["--grpc-port=0", "--http-port=0", "--metrics-port=0"]
        command = [sys.executable, "-m", "spanqa.cli", "serve", "--repository", str(repository), *ports, *options]
        self.process = subprocess.Popen(
            [*before, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.said: list[str] = []
        line = "unread"
        while not line.startswith("  gRPC"):
            line = self.process.stdout.readline() if self.process.stdout else ""
            if not line:
                raise RuntimeError(f"`spanqa serve` ended: {self.process.communicate()[1]}")
        self.url = line.split()[1]
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        for line in self.process.stderr or ():
            self.said.append(line.rstrip())

    def __enter__(self) -> ServeCommand:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(60)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._listener.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()

    def triton_pid(self) -> int:
        """Give the process id of its Triton."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid and "tritonserver" in (folder / "cmdline").read_text():
                    return int(folder.name)
        raise RuntimeError("`spanqa serve` has no Triton")
