"""What one server is asked to do: where its models lie, where it listens, how long it waits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spanqa.logs import FORMATS
from spanqa_server.errors import PortError, ServerError
from spanqa_server.tls import ServerTls

MAX_PORT = 65_535
LONGEST_S = 1e8
"""Three years; gRPC and Python's locks take times that are far longer for ones that have passed, or not at all."""
LOOPBACK_ADDRESS = "127.0.0.1"
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 (compared with, never chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Settings of one server.

    Args:
        repository: The model repository's folder.
        host: The address to listen on, a name or IPv4; other machines can reach anything but loopback.
        grpc_port: Port of the gRPC endpoint; 0 takes a free one. The same holds for the two others.
        http_port: Port of the HTTP endpoint.
        metrics_port: Port of the Prometheus metrics.
        drain_timeout_s: How long accepted requests may take to be answered when the server stops.
        start_timeout_s: How long the models may take to load.
        canary_interval_s: How often the server asks itself a question.
        canary_timeout_s: How long it waits for the answer.
        verbose: Whether Triton's log is copied to stderr.
        show_faults: Whether what the models log is copied to stderr; `verbose` does that too.
        log_format: `text` or `json`.
        log_text: Whether the models' log may quote questions and contexts.
        trace_url: A collector's OTLP/HTTP endpoint, which Triton's traces go to; "" for none.
        trace_file: The beginning of the names of files with Triton's traces; "" for none.
        trace_rate: One request of so many is traced.
        quiet_s: How long nothing must be asked before dead processes that Triton holds are cleared by a fresh start.
        tls: The files that make the gRPC endpoint speak TLS; None for none. Triton's HTTP endpoint has no TLS, and is
            then opened on loopback alone.
        libpython_folders: Where to look for libpython; None for where this Python says it is.
    """

    repository: Path
    host: str = "127.0.0.1"
    grpc_port: int = 0
    http_port: int = 0
    metrics_port: int = 0
    drain_timeout_s: float = 30.0
    start_timeout_s: float = 120.0
    canary_interval_s: float = 5.0
    canary_timeout_s: float = 10.0
    verbose: bool = False
    show_faults: bool = False
    log_format: str = "text"
    log_text: bool = False
    trace_url: str = ""
    trace_file: str = ""
    trace_rate: int = 1000
    quiet_s: float = 30.0
    tls: ServerTls | None = None
    libpython_folders: tuple[Path, ...] | None = None

    def __post_init__(self) -> None:
        for name, port in self.ports().items():
            if not 0 <= port <= MAX_PORT:
                raise PortError(f"the {name} port is {port}: ports lie in 1..{MAX_PORT}, and 0 takes a free one")
        fixed = [port for port in self.ports().values() if port]
        if len(set(fixed)) < len(fixed):
            raise PortError(f"the gRPC, HTTP and metrics ports are {fixed}: give each its own")
        if not self.host or ":" in self.host:
            raise PortError(f"the host is {self.host!r}: give a name or an IPv4 address, such as 127.0.0.1")
        for name in ("drain_timeout_s", "start_timeout_s", "canary_interval_s", "canary_timeout_s", "quiet_s"):
            if not 0 <= getattr(self, name) <= LONGEST_S:
                raise ServerError(
                    f"{name} is {getattr(self, name)}: give a number of seconds, 0 or more, up to {LONGEST_S:,.0f}"
                )
        if self.log_format not in FORMATS:
            raise ServerError(f"the log's format is {self.log_format!r}: choose {' or '.join(FORMATS)}")
        if self.trace_rate < 1:
            raise ServerError(f"the trace rate is {self.trace_rate}: give N to trace one request of N, 1 for each")

    def ports(self) -> dict[str, int]:
        """Return each endpoint's port, by the endpoint's name in messages."""
        return {"gRPC": self.grpc_port, "HTTP": self.http_port, "metrics": self.metrics_port}

    @property
    def http_host(self) -> str:
        """The address that the HTTP endpoint listens on."""
        return self.host if self.tls is None else LOOPBACK_ADDRESS

    def host_of(self, name: str) -> str:
        """Return the address that an endpoint listens on, by its name in `ports`."""
        return self.http_host if name == "HTTP" else self.host

    def url(self, port: int) -> str:
        """Return host and port as a client on this machine writes them."""
        host = self.http_host if port == self.http_port else self.host
        return f"{LOOPBACK_ADDRESS if host == ANY_ADDRESS else host}:{port}"
