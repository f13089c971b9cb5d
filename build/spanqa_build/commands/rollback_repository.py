"""`spanqa rollback-repository`: what `spanqa build --rollback` does, where only what serving needs is installed."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from spanqa_build.rollback import rollback_repository


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("repository", type=Path, metavar="DIR", help="model repository")
    parser.add_argument("--json", action="store_true", help="print the new version as JSON")


def run(args: argparse.Namespace) -> int:
    """Make a repository's version before the newest the newest again; servers take it when they are told.

    Raises:
        RepositoryError: There is no version before, it is damaged, or the folder cannot be written.
    """
    version = rollback_repository(args.repository)
    told = f"{args.repository}: version {version} is the one before the newest, again"
    print(json.dumps({"repository": str(args.repository), "version": version}) if args.json else told)
    return 0
