"""`Server`: a real Triton with our models, for as long as a `with` block lasts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from spanqa_server.checks import check_start
from spanqa_server.errors import PortError, ServerError, ServerLostError
from spanqa_server.processes import Stub, stubs_of
from spanqa_server.repository import default_repository
from spanqa_server.settings import ServerSettings
from spanqa_server.supervise import Supervisor

JOIN_MARGIN_S = 30.0
"""What a stop takes beside draining, at the very most."""
PORT_ATTEMPTS = 3
"""How often Triton is started on other ports where those that were chosen for it were taken meanwhile."""


class Server:
    """A Triton that serves a model repository, supervised, in the background.

        with Server(repository=folder) as server:
            client = QAClient(server.url)

    Args:
        repository: The model repository; by default that of the current folder or of the source tree.
        report: Called with one line for each thing worth telling, from another thread; by default nothing is told.
        options: Any other setting of `ServerSettings`, such as `grpc_port=8001`.

    Raises:
        ServerError: If the settings cannot be right.
    """

    def __init__(
        self, repository: Path | str | None = None, *, report: Callable[[str], None] = lambda _: None, **options: Any
    ) -> None:
        folder = default_repository() if repository is None else Path(repository)
        self.settings = ServerSettings(repository=folder, **options)
        self._report = report
        self._supervisor: Supervisor | None = None
        self._is_stop_requested = False

    def start(self) -> None:
        """Start Triton and wait until it has answered a question.

        Raises:
            ServerError: One sentence: what was found, what is needed and what to do.
        """
        if self._supervisor is not None:
            raise ServerError("this server was started before: make another `Server`")
        asked = self.settings
        for _ in range(PORT_ATTEMPTS):
            self._start_once(asked)
            failure = self._started().failure
            # A free port that was chosen for Triton may be somebody else's by the time Triton opens it.
            if not (isinstance(failure, PortError) and 0 in asked.ports().values()):
                break
        if failure:
            raise failure

    def _start_once(self, asked: ServerSettings) -> None:
        self.settings, triton, models = check_start(asked)
        for line in self.settings.tls.warnings() if self.settings.tls else ():
            self._report(f"warning: {line}")
        supervisor = self._supervisor = Supervisor(self.settings, triton, models, self._report)
        supervisor.start()
        try:
            # In slices, since a signal is handled between two of them.
            while not supervisor.ready.wait(0.1):
                if self._is_stop_requested:
                    supervisor.stopping.set()
        except BaseException:
            self.stop()
            raise
        if supervisor.failure:
            supervisor.join()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the server has ended.

        Args:
            timeout_s: How long to wait at most.

        Returns:
            Whether it has ended.

        Raises:
            ServerLostError: If it ended by itself and could not be brought back.
        """
        supervisor = self._started()
        supervisor.join(timeout_s)
        if supervisor.failure:
            raise supervisor.failure
        return not supervisor.is_alive()

    def request_stop(self) -> None:
        """Ask the server to stop, without waiting; asking again gives up on questions that are not yet answered.

        Safe in a signal handler.
        """
        supervisor = self._supervisor
        if supervisor is not None:
            (supervisor.abandoned if self._is_stop_requested else supervisor.stopping).set()
        self._is_stop_requested = True

    def request_reload(self) -> None:
        """Ask the server to roll to the newest version of its repository, without waiting; no request is lost.

        Safe in a signal handler.
        """
        if self._supervisor is not None:
            self._supervisor.reloading.set()

    def stop(self) -> None:
        """Answer what was accepted, stop Triton, and remove everything that it left.

        Raises:
            ServerLostError: If it does not stop.
        """
        supervisor = self._supervisor
        if supervisor is None:
            return
        supervisor.stopping.set()
        supervisor.join(self.settings.drain_timeout_s + JOIN_MARGIN_S)
        if supervisor.is_alive():
            raise ServerLostError(f"Triton (process {supervisor.triton_pid}) does not stop: end it with kill -9")

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _started(self) -> Supervisor:
        if self._supervisor is None:
            raise ServerError("the server has not been started: use it in a `with` block, or call start()")
        return self._supervisor

    @property
    def url(self) -> str:
        """Host and port of the gRPC endpoint, which our client asks."""
        return self.settings.url(self.settings.grpc_port)

    @property
    def http_url(self) -> str:
        """Host and port of the HTTP endpoint."""
        return self.settings.url(self.settings.http_port)

    @property
    def metrics_url(self) -> str:
        """Address of the Prometheus metrics."""
        return f"http://{self.settings.url(self.settings.metrics_port)}/metrics"

    @property
    def triton_pid(self) -> int:
        """Process id of Triton."""
        return self._started().triton_pid

    @property
    def is_stopping(self) -> bool:
        """Whether the server has been asked to stop."""
        return self._is_stop_requested

    @property
    def n_recoveries(self) -> int:
        """How often a model was loaded again, or Triton started anew."""
        return self._started().n_recoveries

    @property
    def n_reloads(self) -> int:
        """How many reloads that were asked for are done, whether they changed anything or not."""
        return self._started().n_reloads

    def stubs(self) -> tuple[Stub, ...]:
        """Return Triton's living Python processes."""
        return stubs_of(self.triton_pid)
