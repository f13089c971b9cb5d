"""Real windows that a GPU's encoders run before they count as ready, as files that Triton reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from spanqa import contract
from spanqa.packing import Bucket
from spanqa.squad import Example
from spanqa.windows import Batch, WindowMaker, Windows, batch_windows

WARMUP_FOLDER = "warmup"
"""Where Triton looks for a model's input_data_file."""


def warmup_from_examples(
    maker: WindowMaker, examples: Iterable[Example], buckets: Sequence[Bucket]
) -> dict[str, Batch]:
    """Choose for each bucket the longest window of real questions that it holds, or the head of one that is too long.

    Args:
        maker: The model's windows.
        examples: Real questions; one at least.
        buckets: The buckets.

    Returns:
        One row, padded to the bucket's length, by the name of the bucket's encoder.
    """
    rows = [(windows, index) for windows in _windows(maker, examples) for index in range(len(windows))]
    rows.sort(key=_length)
    batches = {}
    for bucket in buckets:
        fitting = [row for row in rows if _length(row) <= bucket.length]
        row = fitting[-1] if fitting else rows[0]
        batches[bucket.model] = _head(batch_windows([row], length=max(_length(row), bucket.length)), bucket.length)
    return batches


def warmup_files(batches: Mapping[str, Batch]) -> dict[str, bytes]:
    """Give the files of `warmup_from_examples`, raw little-endian int32, named MODEL/warmup/INPUT."""
    files = {}
    for model, batch in batches.items():
        arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
        for tensor, array in zip(contract.ENCODER_INPUTS, arrays, strict=True):
            files[f"{model}/{WARMUP_FOLDER}/{tensor.name}"] = np.ascontiguousarray(array, dtype="<i4").tobytes()
    return files


def _windows(maker: WindowMaker, examples: Iterable[Example]) -> list[Windows]:
    return maker.windows_of_many([(example.question, example.context) for example in examples])


def _head(batch: Batch, length: int) -> Batch:
    arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
    input_ids, attention_mask, token_type_ids = (array[:, :length] for array in arrays)
    return Batch(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)


def _length(row: tuple[Windows, int]) -> int:
    windows, index = row
    return int(windows.seq_lengths[index])
