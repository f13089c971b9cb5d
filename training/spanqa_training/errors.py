"""The exceptions of training.

* TrainingError(SpanqaError): the base of everything raised here
  x ModelError: an encoder's architecture, or inputs that do not fit it
  x CheckpointError: a checkpoint folder that cannot be written or read
  x ImportWeightsError: somebody else's weights that cannot be taken over
  x SpecError: a training spec
  x RunError: a training or evaluation run that cannot go on
  x EncryptionError: a key, or a file that was encrypted with one
"""

from __future__ import annotations

from spanqa.errors import SpanqaError


class TrainingError(SpanqaError):
    """The base of every error of this package."""


class ModelError(TrainingError):
    """An encoder's architecture is impossible, or an input does not fit it."""


class CheckpointError(TrainingError):
    """A checkpoint folder cannot be written or read."""


class ImportWeightsError(TrainingError):
    """Weights in another project's format cannot be taken over."""


class SpecError(TrainingError):
    """A training spec is malformed or contradicts itself."""


class RunError(TrainingError):
    """A training or evaluation run cannot start or go on."""


class EncryptionError(TrainingError):
    """A key is missing, wrong or unusable, or an encrypted file is truncated or altered."""


def check_spec(ok: bool, key: str, rule: str, got: object) -> None:
    """Refuse a value of a spec.

    Raises:
        SpecError: `ok` is false.
    """
    if not ok:
        raise SpecError(f"{key}: must be {rule}, got {got!r}")
