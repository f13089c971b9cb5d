"""The exceptions of building.

* BuildError(SpanqaError): the base of everything raised here
  x ExportError: a network that cannot be exported, or whose graph is not what the contract asks for
  x OptimizationError: a graph that cannot be fused or quantized
  x PrecisionError: a network that float16 cannot hold, or that TensorRT's parser would not read
  x ParityError: a network whose answers or logits differ too much from the checkpoint's
  x RepositoryError: a model repository that cannot be written
  x TargetError: a target that there is none of, or whose description contradicts itself
  x GpuError: a GPU, driver or TensorRT that is missing or not what the target needs
  x EngineError: a TensorRT engine that cannot be built, read or run
"""

from __future__ import annotations

from spanqa.errors import SpanqaError


class BuildError(SpanqaError):
    """The base of every error of this package."""


class ExportError(BuildError):
    """A network cannot be exported, or its graph is not what the wire contract asks for."""


class OptimizationError(BuildError):
    """A graph cannot be fused or quantized."""


class PrecisionError(BuildError):
    """A network cannot be held in float16, or TensorRT's parser would not read it."""


class ParityError(BuildError):
    """A built network differs more from the checkpoint than is allowed."""


class RepositoryError(BuildError):
    """A model repository cannot be written."""


class TargetError(BuildError):
    """There is no such target, or its description contradicts itself."""


class GpuError(BuildError):
    """The GPU, its driver or TensorRT is missing, or not what the target needs."""


class EngineError(BuildError):
    """A TensorRT engine cannot be built, read or run."""
