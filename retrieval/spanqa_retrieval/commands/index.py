"""`spanqa index`: documents become a collection that can be asked, and it is kept up to date with them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from spanqa.errors import InputError
from spanqa_retrieval.engine import Index
from spanqa_retrieval.indexing import Report, update_index
from spanqa_retrieval.opening import INDEX_HELP, open_index, open_or_create
from spanqa_retrieval.settings import STEMMERS, IndexSettings
from spanqa_retrieval.sources import Source, find_sources

DEFAULTS = IndexSettings()
SETTINGS = ("passage_words", "overlap_sentences", "stemmer", "title_weight")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="*",
        help="folders and files: text, Markdown, HTML, PDF; JSON Lines, Parquet and JSON rows (id, title, text, and "
        "whatever else is to be filtered by); SQuAD files",
    )
    parser.add_argument("-o", "--output", metavar="INDEX", required=True, help=f"the index: {INDEX_HELP}")
    parser.add_argument("--prune", action="store_true", help="take out files that are gone, or no longer named")
    parser.add_argument("--stat", action="store_true", help="only say what the index holds")
    for name, kind, text in (
        ("passage-words", int, "words of a passage, about"),
        ("overlap-sentences", int, "sentences that two passages of a paragraph have in common"),
        ("title-weight", float, "what a word found in a title counts against one in the text; 0 leaves titles out"),
    ):
        default = getattr(DEFAULTS, name.replace("-", "_"))
        parser.add_argument(f"--{name}", metavar="N", type=kind, help=f"{text} (a new index: {default})")
    parser.add_argument(
        "--stemmer",
        choices=STEMMERS,
        metavar="LANGUAGE",
        help=f"{', '.join(STEMMERS)} (a new index: {DEFAULTS.stemmer})",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Bring the index up to date, or only look at it, and say what it came to."""
    if args.stat:
        if args.sources or args.prune or _settings(args) is not None:
            raise InputError("--stat changes nothing: leave out SOURCE, --prune and settings")
        said = statistics(open_index(args.output))
        print(json.dumps(said, indent=2) if args.json else _stat_text(said))
        return 0
    if not args.sources:
        raise InputError("no SOURCE: give folders or files to index, or --stat to see what the index holds")
    report = Report()
    unread: list[str] = []
    sources = find_sources([Path(source) for source in args.sources], report.skipped.append, unread.append)
    if not sources:
        why = f" ({report.skipped[0]})" if report.skipped else ""
        raise InputError(f"nothing that can be read is in {', '.join(args.sources)}{why}: name other sources")
    index = open_or_create(args.output, _settings(args))
    began = time.perf_counter()
    with tqdm(total=len(sources), unit="file", disable=True if args.quiet else None) as bar:

        def shown(source: Source) -> None:
            bar.update()
            bar.set_postfix_str(f"{report.n_passages:,} passages, {source.name[-40:]}", refresh=False)

        update_index(index, sources, report, prune=args.prune, unread=unread, on_file=shown)
    seconds = time.perf_counter() - began
    if args.json:
        print(json.dumps({**asdict(report), "seconds": seconds}, ensure_ascii=False, indent=2))
    else:
        print(report_text(report, seconds))
        for line in report.skipped:
            print(f"  skipped: {line}", file=sys.stderr)
    return 0


def statistics(index: Index) -> dict[str, Any]:
    """Give what an index holds and takes, as JSON values."""
    records = list(index.sources().values())
    n_chars = sum(record.n_chars for record in records)
    return {
        "files": len(records),
        "documents": sum(record.n_documents for record in records),
        "passages": sum(record.n_passages for record in records),
        "characters": n_chars,
        "bytes": index.n_bytes(),
        "settings": asdict(index.settings),
    }


def report_text(report: Report, seconds: float) -> str:
    """Lay out what an update came to."""
    rate = f", {report.n_passages / seconds:,.0f} passages/s" if report.n_passages and seconds else ""
    lines = [
        f"read       {report.n_read:,} files: {report.n_documents:,} documents, {report.n_passages:,} passages in "
        f"{seconds:.1f} s{rate}",
        f"unchanged  {report.n_unchanged:,} files",
    ]
    if report.n_pruned:
        lines.append(f"taken out  {report.n_pruned:,} files that are gone")
    if report.missing:
        names = ", ".join(report.missing[:3]) + (", ..." if len(report.missing) > 3 else "")
        lines.append(f"kept       {len(report.missing):,} files not found this time ({names}): --prune takes them out")
    if report.skipped:
        lines.append(f"skipped    {len(report.skipped):,}, each with its reason")
    return "\n".join(lines)


def _stat_text(said: dict[str, Any]) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in said["settings"].items())
    return (
        f"{said['files']:,} files, {said['documents']:,} documents, {said['passages']:,} passages, "
        f"{said['characters']:,} characters; {said['bytes'] / 1e6:,.1f} MB on disk\n{settings}"
    )


def _settings(args: argparse.Namespace) -> IndexSettings | None:
    """What was said about settings; None where nothing was."""
    given = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    return IndexSettings(**given) if given else None
