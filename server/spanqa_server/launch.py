"""One run of the tritonserver process: its arguments, its log, its end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from spanqa import logs
from spanqa_server import deathsig
from spanqa_server.control import Control
from spanqa_server.deathsig import HIDDEN
from spanqa_server.environment import Triton, backends_in, variables_for
from spanqa_server.errors import ModelLoadError, PortError, ServerError, ServerLostError
from spanqa_server.hidden_arguments import hidden_variables, start_hidden
from spanqa_server.log_copy import shown
from spanqa_server.processes import stubs_of
from spanqa_server.repository import ModelFolder
from spanqa_server.settings import ServerSettings
from spanqa_server.shared_memory import RegionPrefix
from spanqa_server.tracing import trace_options
from spanqa_server.view import View

ADMINISTRATION = "model-repository,shared-memory,trace,logging"
"""Triton's interfaces that load code, map memory and write files: ours alone, whoever can reach the ports."""
ADMINISTRATION_KEY = "spanqa"
LOCKS = ("grpc-restricted-protocol", "http-restricted-api")
"""Triton's options that ask for a secret header."""
EXIT_TIMEOUT_S = 10
"""How long Triton itself waits for its models when it stops; ours are drained before."""
STOP_GRACE_S = 8.0
LOG_LIMIT_BYTES = 20_000_000
POLL_S = 0.05
LOAD_FAILURE = re.compile(r'failed to load \'(?P<model>[^\']+)\' version \d+: (?:\w+(?: \w+)?: )?(?P<cause>.*)"\s*$')
PORT_FAILURE = re.compile(r'"failed to start (?P<name>\w+) service: (?P<cause>.*)"\s*$')
OTHER_FAILURE = re.compile(r"^error: (?P<cause>.*)$")
HINTS = {
    "ModuleNotFoundError": "install that package into this environment",
    "is not healthy": "its Python process ended while it loaded; --verbose shows what it said",
    "MemoryError": "end other programs, or give the container more memory",
}


def _first_sentence(cause: str) -> str:
    """Return a cause of Triton's log as one line: the exception, and the place in the model's own file."""
    try:
        text = json.loads(f'"{cause}"')
    except ValueError:
        text = cause
    message, _, trace = text.partition("\n\nAt:\n")
    place = re.search(r"(\S+model\.py)\((\d+)\)", trace)
    sentence = " ".join(message.split()).rstrip(".")
    if place:
        sentence += f" ({place[1]}, line {place[2]})"
    hint = next((advice for mark, advice in HINTS.items() if mark in sentence), None)
    return f"{sentence}: {hint}" if hint else sentence


def failure_in(log: str) -> ServerError | None:
    """Turn Triton's log into the error that made it fail, or None where it names none."""
    lines = log.splitlines()
    for line in lines:
        if match := LOAD_FAILURE.search(line):
            return ModelLoadError(f"Triton cannot load the model {match['model']!r}: {_first_sentence(match['cause'])}")
        if match := PORT_FAILURE.search(line):
            return PortError(
                f"Triton cannot open its {match['name']} endpoint: {_first_sentence(match['cause'])}: "
                "choose another port"
            )
    for line in lines:
        if match := OTHER_FAILURE.search(line):
            return ServerLostError(f"Triton did not start: {_first_sentence(match['cause'])}")
    return None


class TritonProcess:
    """One tritonserver and its Python processes, in a process group of their own.

    The thread that makes this object must outlive it: the kernel stops Triton when that thread ends.

    Args:
        settings: Where to listen, with every port chosen.
        triton: The installed Triton.
        models: The models to load.
        view: What Triton reads of the repository.
        folder: An empty folder for the log and the links to the installed files.
        regions: The names of the shared memory.
    """

    def __init__(
        self,
        settings: ServerSettings,
        triton: Triton,
        models: Sequence[ModelFolder],
        view: View,
        folder: Path,
        regions: RegionPrefix,
    ) -> None:
        self._settings = settings
        self._triton = triton
        self._view = view
        self._secret = secrets.token_hex(16)
        self._regions = regions
        self.log_path = folder / "triton.log"
        self._n_copied = 0
        arguments = [*self._arguments(models, backends_in(folder, triton)), *(HIDDEN for _ in LOCKS)]
        # -I -S: the few milliseconds before Triton's exec must not load the site's packages.
        wrapper = [sys.executable, "-I", "-S", str(Path(deathsig.__file__)), str(os.getpid())]
        variables = variables_for(folder, triton) | self._log_variables() | hidden_variables(self._locks())
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*wrapper, str(triton.binary), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=variables,
                start_new_session=True,
                pass_fds=(regions.descriptor,),
            )
        self.pid = self._process.pid
        self.is_secret_shown = not start_hidden(self._process) and self.is_running()

    def _log_variables(self) -> dict[str, str]:
        # Always JSON: so the models' own lines are told from Triton's; they are shown as it is asked for.
        return {logs.FORMAT_VARIABLE: "json", logs.TEXT_VARIABLE: "1" if self._settings.log_text else "0"}

    def _locks(self) -> list[str]:
        """The arguments that lock Triton's administration; they hold the secret."""
        return [f"--{option}={ADMINISTRATION}:{ADMINISTRATION_KEY}={self._secret}" for option in LOCKS]

    def _arguments(self, models: Sequence[ModelFolder], backends: Path) -> list[str]:
        settings = self._settings
        options = {
            "model-repository": self._view.folder,
            "backend-directory": backends,
            "backend-config": f"python,shm-region-prefix-name={self._regions.text}",
            "model-control-mode": "explicit",
            "grpc-address": settings.host,
            "grpc-port": settings.grpc_port,
            "http-address": settings.http_host,
            "http-port": settings.http_port,
            "metrics-address": settings.host,
            "metrics-port": settings.metrics_port,
            "exit-timeout-secs": EXIT_TIMEOUT_S,
            "log-info": str(settings.verbose).lower(),
        }
        # Without it every Python process would be started twice, once to ask for a configuration that is complete.
        return [
            "--disable-auto-complete-config",
            *(f"--{name}={value}" for name, value in options.items()),
            *self._triton.options,
            *(settings.tls.triton_options() if settings.tls else ()),
            *trace_options(settings),
            *(f"--load-model={model.name}" for model in models),
        ]

    @property
    def administration_headers(self) -> dict[str, str]:
        """The headers without which Triton refuses to load and unload models over gRPC."""
        return {f"triton-grpc-protocol-{ADMINISTRATION_KEY}": self._secret}

    def control(self, stopping: threading.Event) -> Control:
        """Connect to Triton with the right to load and unload its models.

        Args:
            stopping: Set when the server is to stop.
        """
        settings = self._settings
        return Control(
            settings.url(settings.grpc_port),
            self.administration_headers,
            stopping,
            settings.url(settings.metrics_port),
            trust=settings.tls.own_trust() if settings.tls else None,
        )

    def is_running(self) -> bool:
        """Say whether the process lives."""
        return self._process.poll() is None

    def log(self) -> str:
        """Return what Triton has said."""
        return self._view.in_repository(self.log_path.read_text("utf-8", "replace"))

    def attend_log(self) -> None:
        """Copy new lines to stderr as far as they are wanted, and keep the log from filling the disk."""
        size = self.log_path.stat().st_size
        if (self._settings.verbose or self._settings.show_faults) and size > self._n_copied:
            with self.log_path.open("rb") as log:
                log.seek(self._n_copied)
                # What has no end yet is read again when it has.
                text = log.read().rpartition(b"\n")
            self._n_copied += len(text[0]) + len(text[1])
            lines = self._view.in_repository(text[0].decode("utf-8", "replace")).splitlines() if text[1] else []
            form, verbose = self._settings.log_format, self._settings.verbose
            texts = [copy for line in lines if (copy := shown(line, log_format=form, verbose=verbose)) is not None]
            if texts:
                with contextlib.suppress(OSError):  # whoever read them may be gone: that ends no server
                    print("\n".join(texts), file=sys.stderr, flush=True)
        if size > LOG_LIMIT_BYTES:
            os.truncate(self.log_path, 0)
            self._n_copied = 0

    def end_sentence(self) -> str:
        """Say how Triton ended."""
        code = self._process.poll()
        if code is None:
            return "Triton runs"
        return f"Triton ended with {signal.Signals(-code).name if code < 0 else f'exit status {code}'}"

    def last_words(self) -> str:
        """Say how Triton ended, and what it said last."""
        lines = [line for line in self.log().splitlines() if line.strip()]
        ended = self.end_sentence()
        return f"{ended}; its last words: {lines[-1].strip()}" if lines else f"{ended} without a word"

    def end_stub(self, pid: int) -> None:
        """End one of Triton's Python processes, if it is still one."""
        if any(stub.pid == pid for stub in stubs_of(self.pid)):
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Stop Triton and everything it started, politely first, and remove its shared memory."""
        if self.is_running():
            self._process.terminate()
        deadline = time.monotonic() + STOP_GRACE_S
        # A model whose Python process was killed never counts as unloaded: once no process is left, all is done.
        # But what Triton has traced and not yet written it writes last.
        while self.is_running() and time.monotonic() < deadline and (self._settings.trace_file or stubs_of(self.pid)):
            time.sleep(POLL_S)
        self.attend_log()
        self.kill()

    def kill(self) -> None:
        """End Triton and everything it started at once, and remove its shared memory."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._regions.remove_regions()
