"""Triton's own tracing: to a collector by OpenTelemetry, or into files; times and model names, never a text."""

from __future__ import annotations

from urllib.parse import urlsplit

from spanqa_server.errors import ServerError
from spanqa_server.settings import ServerSettings

TRACES_PATH = "/v1/traces"
"""Where a collector takes traces over HTTP (the OTLP specification); Triton sends to the address as it is given."""
FILE_FREQUENCY = 100
"""Traces a file; what is left is written when Triton stops."""


def trace_options(settings: ServerSettings) -> list[str]:
    """Give Triton's arguments for the tracing that is asked for; none where none is.

    The level is TIMESTAMPS: the level TENSORS would write questions and contexts.

    Raises:
        ServerError: If the collector's address is none, or both a collector and a file are asked for.
    """
    url, file = settings.trace_url, settings.trace_file
    if url and file:
        raise ServerError("traces go to a collector or into files: give --trace-url or --trace-file, not both")
    if not url and not file:
        return []
    if url:
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.netloc:
            raise ServerError(
                f"the collector is {url!r}: give the address of its OTLP/HTTP endpoint, such as http://localhost:4318"
            )
        address = url if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}{TRACES_PATH}"
        own = ["mode=opentelemetry", f"opentelemetry,url={address}", "opentelemetry,resource=service.name=spanqa"]
    else:
        own = ["mode=triton", f"triton,file={file}", f"triton,log-frequency={FILE_FREQUENCY}"]
    return [f"--trace-config={option}" for option in (*own, "level=TIMESTAMPS", f"rate={settings.trace_rate}")]
