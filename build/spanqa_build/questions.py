"""The questions that a network is checked on."""

from __future__ import annotations

import argparse
from pathlib import Path

from spanqa.datasets import DATASET_FORMATS, read_dataset
from spanqa.squad import Example
from spanqa_build.errors import BuildError

_NAME = "heldout200.json"
_PACKAGED = Path(__file__).parent / _NAME
_SOURCE = Path(__file__).resolve().parents[2] / "data" / _NAME
DEFAULT_DATA = _PACKAGED if _PACKAGED.is_file() else _SOURCE
"""200 questions of SQuAD 2.0's development set: in the installed package, else in the source tree."""


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """Declare `--data`."""
    parser.add_argument(
        "--data",
        type=Path,
        default=DEFAULT_DATA,
        metavar="FILE",
        help=f"questions to check the network on: {DATASET_FORMATS} (default: 200 bundled ones)",
    )


def questions_to_check(data: Path) -> list[Example]:
    """Read them.

    Raises:
        BuildError: There are none.
        DataError: The file is no dataset.
    """
    if not data.is_file():
        raise BuildError(f"{data}: no such file of questions: give {DATASET_FORMATS} with --data")
    return read_dataset(data)
