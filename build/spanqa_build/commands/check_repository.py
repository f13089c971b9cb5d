"""`spanqa check-repository`: what `spanqa build --check` does, where only what serving needs is installed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from spanqa_build.check import check_repository


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("repository", type=Path, metavar="DIR", help="model repository")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Read every file of every version and hold it against its sealed manifest, and the engines against this GPU.

    Returns:
        0 where all is as it was built.

    Raises:
        RepositoryError: The first thing that is wrong.
    """
    checked = check_repository(args.repository)
    report = {"versions": checked.versions, "target": checked.manifest.target, "lines": checked.lines}
    print(json.dumps(report, indent=2) if args.json else "\n".join(checked.lines))
    return 0
