"""`spanqa batch`: questions by the million, answered into Parquet."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from spanqa.contract import QUESTION_ANSWERING
from spanqa.cores import usable_cores
from spanqa.errors import InputError, SpanqaError
from spanqa_client.batch.ray_cluster import HERE, check_address
from spanqa_client.client import DEFAULT_CONCURRENCY, DEFAULT_URL
from spanqa_client.commands.arguments import add_answering, add_collection, add_timeout, answering
from spanqa_client.commands.connecting import add_connection, connection_from
from spanqa_client.options import Options

if TYPE_CHECKING:
    from spanqa_client.batch.askers import ServerPlan
    from spanqa_client.batch.collection import CollectionPlan
    from spanqa_client.batch.network import NetworkPlan
    from spanqa_client.batch.run import Work
    from spanqa_client.batch.work import Tally

EXIT_SOME_FAILED = 1
DEFAULT_ROWS_PER_PART = 1000


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "inputs",
        metavar="INPUT",
        nargs="+",
        help="rows of id, question and context: SQuAD JSON, JSON Lines, CSV or Parquet, plain or gzipped",
    )
    parser.add_argument("-o", "--output", metavar="FOLDER", required=True, help="a new folder for the answers")
    parser.add_argument("--resume", action="store_true", help="leave out what FOLDER has; what failed is asked again")
    parser.add_argument(
        "--url", metavar="H:P", help=f"the server's gRPC port; several by commas (default: {DEFAULT_URL})"
    )
    parser.add_argument(
        "--model", metavar="NAME", default=QUESTION_ANSWERING, help="the server's model (default: %(default)s)"
    )
    parser.add_argument(
        "--concurrency", metavar="N", type=int, help=f"questions in flight to a server (default: {DEFAULT_CONCURRENCY})"
    )
    parser.add_argument(
        "--repository", metavar="DIR", type=Path, help="ask no server, but run this model repository's network"
    )
    parser.add_argument(
        "--workers", metavar="N", type=int, help="processes of --repository or --ray (default: one for each core)"
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        nargs="?",
        const=HERE,
        help="answer by actors of Ray's: on the cluster whose head is at ADDRESS, or on this machine",
    )
    parser.add_argument("--index", metavar="INDEX", help="answer rows of id and question from this collection")
    add_collection(parser)
    add_answering(parser)
    add_timeout(parser)
    add_connection(parser)
    parser.add_argument(
        "--rows-per-part",
        metavar="N",
        type=int,
        default=DEFAULT_ROWS_PER_PART,
        help="input rows that are written together (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def run(args: argparse.Namespace) -> int:
    """Answer everything, print the summary; 1 where some rows failed."""
    options = Options(**answering(args))
    _check(args)
    if importlib.util.find_spec("pyarrow") is None:
        raise SpanqaError("answers are written by pyarrow, which is not installed: pip install 'spanqa[parquet]'")
    # Only now: they need it.
    from spanqa_client.batch.folder import input_fingerprint
    from spanqa_client.batch.rows import check_inputs
    from spanqa_client.batch.run import run_batch
    from spanqa_client.batch.work import Task

    files, has_contexts = [Path(file) for file in args.inputs], args.index is None
    task = Task(
        files=tuple(str(file.resolve()) for file in files),
        has_contexts=has_contexts,
        folder=str(Path(args.output).resolve()),
        rows_per_part=args.rows_per_part,
    )
    inputs = input_fingerprint(files)
    check_inputs(files, has_contexts=has_contexts)
    plan = _plan(args, options)
    fingerprint = {"inputs": inputs, "model": plan.fingerprint(), "options": _options(args)}
    with tqdm(unit="q", disable=True if args.quiet else None) as bar:
        tally, summary = run_batch(task, _work(args, plan), fingerprint, resume=args.resume, on_settled=bar.update)
    for line in _warnings(tally):
        print(f"spanqa: warning: {line}", file=sys.stderr)
    print(json.dumps(summary, indent=2) if args.json else summary_text(summary, args.output))
    return EXIT_SOME_FAILED if tally.n_failed else 0


def summary_text(summary: dict[str, Any], folder: str) -> str:
    """Lay a summary out to read.

    Args:
        summary: The summary.
        folder: Where the answers are.
    """
    before = f", {summary['answered_before']:,} before this run" if summary["answered_before"] else ""
    failures = f"  ({Path(folder) / 'failures.jsonl'})" if summary["failed"] else ""
    lines = [
        f"read      {summary['read']:>12,}",
        f"answered  {summary['answered']:>12,}  ({summary['without_answer']:,} without an answer{before})",
        f"failed    {summary['failed']:>12,}{failures}",
        f"{summary['parts']:,} parts in {folder}, {summary['seconds']:.1f} s: "
        f"{summary['questions_per_s']:.1f} questions/s",
    ]
    versions = summary["model_versions"]
    if len(versions) > 1:
        parts = [f"{version} ({n_answers:,})" for version, n_answers in versions.items()]
        lines.append(f"answered by {len(versions)} versions of the model: {', '.join(parts)}")
    return "\n".join(lines)


def _check(args: argparse.Namespace) -> None:
    """Refuse what is out of range, and options that would do nothing."""
    for name in ("rows_per_part", "workers", "concurrency"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} is {value}: give a whole number of at least 1")
    for name in ("top_k", "where", "weight"):
        if args.index is None and getattr(args, name) not in (None, []):
            raise InputError(f"--{name.replace('_', '-')} goes with --index: leave it out for rows with contexts")
    if args.ray is not None:
        check_address(args.ray)
    if args.repository is not None:
        for name in ("url", "concurrency", "index"):
            if getattr(args, name) is not None:
                raise InputError(f"--{name} is for a server, which --repository does without: give one of the two")
    elif args.workers is not None and args.ray is None:
        raise InputError("--workers goes with --repository or --ray: a server has its own, and --concurrency")


def _plan(args: argparse.Namespace, options: Options) -> NetworkPlan | ServerPlan | CollectionPlan:
    if args.repository is not None:
        from spanqa_client.batch.network import plan_network

        # Ray gives each actor one CPU.
        n_threads = 1 if args.ray else max(1, _n_cores() // (args.workers or _n_cores()))
        return plan_network(args.repository, options, n_threads=n_threads)
    from spanqa_client.batch.askers import ServerPlan

    server = ServerPlan(
        url=args.url or DEFAULT_URL,
        model=args.model,
        options=options,
        concurrency=args.concurrency or DEFAULT_CONCURRENCY,
        timeout_s=args.timeout_s,
        connection=connection_from(args),
    )
    if args.index is None:
        return server
    # Collections are a room, and an extra, of their own.
    from spanqa_client.batch.collection import plan_collection

    return plan_collection(args.index, server, top_k=args.top_k, weight=args.weight, where=args.where)


def _work(args: argparse.Namespace, plan: NetworkPlan | ServerPlan | CollectionPlan) -> Work:
    from spanqa_client.batch.run import work_here, work_on_ray

    if args.ray:
        return work_on_ray(plan, args.workers, args.ray)
    return work_here(plan, None if args.repository is None else args.workers or _n_cores())


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """What of the arguments decides about answers, and about which rows share a part."""
    names = ["rows_per_part", "top_n", "threshold", "max_answer_tokens", "distinct"]
    if args.index is not None:
        names += ["top_k", "weight", "where"]
    return {f"--{name.replace('_', '-')}": getattr(args, name) for name in names}


def _warnings(tally: Tally) -> list[str]:
    first = tally.first_failure
    if first is None:
        return []
    name = first.id or f"row {first.number}"
    found = [f"{tally.n_failed:,} of {tally.n_read:,} rows failed; {name}: {first.reason}"]
    return found + [reason for reason in tally.cut_short if reason != first.reason]


def _n_cores() -> int:
    return usable_cores()
