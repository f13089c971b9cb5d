"""How windows are grouped into calls of the encoders: the limits of a call, and the buckets by length."""

from __future__ import annotations

from dataclasses import dataclass

from spanqa import contract
from spanqa.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One encoder that takes windows of one length.

    Args:
        length: Tokens that every row is padded to.
        model: The encoder model's name.
        max_rows: Most rows in one call; the model's max_batch_size.
    """

    length: int
    model: str
    max_rows: int

    def __post_init__(self) -> None:
        if min(self.length, self.max_rows) < 1:
            raise SettingsError(f"bucket {self.model!r}: length and max_rows must be at least 1, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How windows are grouped into calls of the encoder; belongs to the hardware.

    Args:
        rows_per_call: Most windows in one call where there are no buckets; the encoder's max_batch_size.
        tokens_per_call: Most padded tokens in one call where there are no buckets.
        calls_in_flight: Most calls that one question batch has open at a time.
        buckets: Encoders by window length, shortest first; none for one encoder that takes every length.
    """

    rows_per_call: int = 16
    tokens_per_call: int = 8192
    calls_in_flight: int = 2
    buckets: tuple[Bucket, ...] = ()

    def __post_init__(self) -> None:
        if min(self.rows_per_call, self.tokens_per_call, self.calls_in_flight) < 1:
            raise SettingsError(f"packing: every limit must be at least 1, got {self}")
        lengths = [bucket.length for bucket in self.buckets]
        if lengths != sorted(set(lengths)):
            raise SettingsError(f"packing: buckets must grow in length, got {lengths}: sort them, each length once")

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names of the encoder models, that of the shortest windows first."""
        return tuple(bucket.model for bucket in self.buckets) or (contract.ENCODER,)

    @property
    def ensemble_rows(self) -> int:
        """Most windows that the last encoder, which is the ensemble's, takes in one call."""
        return self.buckets[-1].max_rows if self.buckets else self.rows_per_call

    @property
    def ensemble_length(self) -> int | None:
        """Tokens that the ensemble pads windows to; None for their longest."""
        return self.buckets[-1].length if self.buckets else None
