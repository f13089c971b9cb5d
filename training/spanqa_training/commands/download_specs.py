"""`spanqa download_specs`: write the shipped specs into a folder, to be edited."""

from __future__ import annotations

import argparse
from pathlib import Path

from spanqa.files import write_atomically
from spanqa_training.errors import SpecError

_SOURCE = Path(__file__).resolve().parents[2] / "specs"
_PACKAGED = Path(__file__).resolve().parents[1] / "specs"


def specs_folder() -> Path:
    """Where the shipped specs lie: in the installed package, else in the source tree."""
    return _PACKAGED if _PACKAGED.is_dir() else _SOURCE


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument("-r", "--results_dir", help="taken as the old toolkit did; nothing is written there")
    parser.add_argument("--overwrite", action="store_true", help="replace specs of the same names")


def run(args: argparse.Namespace) -> int:
    """Copy them; nothing is written where one would be overwritten."""
    specs = sorted(specs_folder().glob("*.yaml"))
    taken = [spec.name for spec in specs if (args.output / spec.name).exists()]
    if taken and not args.overwrite:
        raise SpecError(f"{args.output}: holds {taken[0]} already: give an empty folder, or --overwrite")
    for spec in specs:
        write_atomically(args.output / spec.name, spec.read_text(encoding="utf-8"), make_folder=True)
    width = max(len(spec.name) for spec in specs)
    for spec in specs:
        print(f"{args.output / spec.name!s:<{len(str(args.output)) + 1 + width}}  {_first_comment(spec)}")
    return 0


def _first_comment(spec: Path) -> str:
    return spec.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
