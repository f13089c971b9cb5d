"""The options that the old toolkit's commands share, and what they come to: a spec, a key and the notes to the user."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from spanqa_training.console import tell
from spanqa_training.errors import SpecError

if TYPE_CHECKING:
    from spanqa_training.checkpoints.keys import Key
    from spanqa_training.spec.schema import Spec


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a command was asked to do.

    Args:
        spec: The spec, with the options in it.
        given: Full names of the keys that the spec's file and the overrides give.
        key: What encrypts and decrypts weights; None without one.
        results: The folder of results.
    """

    spec: Spec
    given: frozenset[str]
    key: Key | None
    results: Path


ANSWERING_KEYS = frozenset(
    {
        "trainer.gpus",
        "trainer.accelerator",
        *(
            f"model.dataset.{name}"
            for name in (
                "max_seq_length",
                "doc_stride",
                "max_query_length",
                "max_answer_length",
                "word_boundaries",
                "version_2_with_negative",
                "null_score_diff_threshold",
            )
        ),
    }
)
"""The keys below trainer and model that matter to commands which train nothing."""


def add_key_option(parser: argparse.ArgumentParser) -> None:
    """Declare -k."""
    parser.add_argument(
        "-k",
        "--key",
        metavar="KEY",
        help="key of encrypted weights: env:NAME (a variable), @FILE (a file's first line), or the key itself",
    )


def add_spec_options(parser: argparse.ArgumentParser) -> None:
    """Declare -e, -m, -g, -k and -r as the old toolkit had them."""
    names = ("--experiment_spec", "--experiment_spec_file", "--spec")
    parser.add_argument("-e", *names, dest="spec", metavar="SPEC", help="the YAML spec")
    parser.add_argument("-m", "--model", metavar="MODEL", help="checkpoint to start from (replaces restore_from)")
    parser.add_argument("-g", "--gpus", type=int, metavar="N", help="GPUs to use, 0: the CPU (replaces trainer.gpus)")
    add_key_option(parser)
    parser.add_argument("-r", "--results_dir", "--results", dest="results", metavar="RESULTS", help="folder of results")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Declare the trailing `key=value` overrides."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="keys of the spec to replace, such as optim.lr=1e-4"
    )


def note(message: str) -> None:
    """Tell the user something that is no error."""
    tell(f"spanqa: note: {message}")


def request_from_args(
    args: argparse.Namespace,
    *,
    uses: Collection[str],
    reads: Collection[str] | None = None,
    results_required: bool = True,
) -> Request:
    """Read the spec, lay the options over it, and read the key.

    Args:
        args: Parsed arguments of `add_spec_options` and `add_overrides`.
        uses: The sections of the spec that the command reads, beside trainer and model.
        reads: The keys of those two that matter to the command; None for all. The user is told of others.
        results_required: Whether -r must be given.

    Raises:
        SpecError: The spec is malformed, or an option is missing.
        EncryptionError: The key cannot be read.
    """
    from spanqa_training.spec.files import load_spec

    if results_required and not args.results:
        raise SpecError("-r is missing: give the folder that results are written to")
    results = Path(args.results or ".")
    if results.exists() and not results.is_dir():
        raise SpecError(f"-r {results}: is a file: give a folder for the results")
    overrides = list(args.overrides)
    if args.model:
        overrides.append(f"restore_from={json.dumps(args.model)}")
    if args.gpus is not None:
        if args.gpus < 0:
            raise SpecError(f"-g {args.gpus}: give a number of processes of at least 1, or 0 for one on the CPU")
        overrides.append(f"trainer.gpus={args.gpus}")
    loaded = load_spec(args.spec, overrides, uses={"restore_from", "trainer", "model", *uses}, warn=note)
    idle = [
        key for key in loaded.given if key.startswith(("trainer.", "model.")) and key not in (reads or loaded.given)
    ]
    if idle:
        note(f"without effect on this command: {', '.join(sorted(idle))}")
    return Request(
        spec=loaded.spec, given=loaded.given, key=key_from_args(args, loaded.encryption_key), results=results
    )


def key_from_args(args: argparse.Namespace, from_spec: str | None = None) -> Key | None:
    """Read the key that -k names, or else the spec's encryption_key.

    Raises:
        EncryptionError: It cannot be read.
    """
    from spanqa_training.checkpoints.keys import key_from_argument

    text = args.key if args.key is not None else from_spec
    return None if text is None else key_from_argument(text, warn=note)
