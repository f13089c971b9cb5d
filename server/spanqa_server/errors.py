"""The exceptions of the server.

* ServerError: the server cannot start, or cannot go on
  x InstallationError: Python, a package or a library that Triton needs is missing or of the wrong kind
  x RepositoryError: the model repository is missing, incomplete or contradicts itself
  x PortError: an address or a port cannot be listened on
  x TlsError: a certificate or a key is missing, or does not belong to the others
  x MemoryShortageError: too little memory, or too little of it in /dev/shm
  x ModelLoadError: Triton cannot load a model
  x StartTimeoutError: Triton started, but its models are not ready in time
  x ServerLostError: Triton ended, or stopped answering, and could not be brought back
"""

from __future__ import annotations

from spanqa.errors import SpanqaError


class ServerError(SpanqaError):
    """The server cannot start, or cannot go on."""


class InstallationError(ServerError):
    """Python, a package or a library that Triton needs is missing or of the wrong kind."""


class RepositoryError(ServerError):
    """The model repository is missing, incomplete or contradicts itself."""


class PortError(ServerError):
    """An address or a port cannot be listened on."""


class TlsError(ServerError):
    """A certificate or a key is missing, or does not belong to the others."""


class MemoryShortageError(ServerError):
    """Too little memory, or too little of it in /dev/shm."""


class ModelLoadError(ServerError):
    """Triton cannot load a model."""


class StartTimeoutError(ServerError):
    """Triton started, but its models are not ready in time."""


class ServerLostError(ServerError):
    """Triton ended, or stopped answering, and could not be brought back."""
