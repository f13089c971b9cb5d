"""The exceptions of building.

* BuildError(SpanqaError): the base of everything raised here
  x ExportError: a network that cannot be exported, or whose graph is not what the contract asks for
  x OptimizationError: a graph that cannot be fused or quantized
  x ParityError: a network whose answers or logits differ too much from the checkpoint's
  x RepositoryError: a model repository that cannot be written
"""

from __future__ import annotations

from spanqa.errors import SpanqaError


class BuildError(SpanqaError):
    """The base of every error of this package."""


class ExportError(BuildError):
    """A network cannot be exported, or its graph is not what the wire contract asks for."""


class OptimizationError(BuildError):
    """A graph cannot be fused or quantized."""


class ParityError(BuildError):
    """A built network differs more from the checkpoint than is allowed."""


class RepositoryError(BuildError):
    """A model repository cannot be written."""
