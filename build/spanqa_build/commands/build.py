"""`spanqa build`: from a checkpoint to a model repository, checked on the way."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime

from spanqa.squad import Example, read_squad
from spanqa_build.accuracy import MAX_F1_LOSS, Accuracy, accuracy_of, network_from_onnx
from spanqa_build.cpu import CpuNetworks, cpu_networks_from_checkpoint
from spanqa_build.errors import BuildError, ParityError
from spanqa_build.parity import Parity, compare, run_onnx, run_torch, session_from_onnx
from spanqa_build.repository import Network, manifest_from_checkpoint, write_repository
from spanqa_training.checkpoint import Checkpoint, load_checkpoint

DEFAULT_DATA = Path(__file__).resolve().parents[3] / "data" / "heldout200.json"
MAX_LOGIT_DIFFERENCE = 1e-3
"""Largest difference of a float32 network's logits from torch's: rounding, not another network."""
PARITY_QUESTIONS = 200


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("-m", "--model", required=True, help="checkpoint folder")
    parser.add_argument("-o", "--output", required=True, help="model repository to write or replace")
    parser.add_argument("--target", choices=("cpu",), default="cpu", help="what it will run on (default: cpu)")
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "int8"),
        default="auto",
        help=f"auto takes int8 where F1 falls by at most {MAX_F1_LOSS} points (default: auto)",
    )
    parser.add_argument(
        "--data", default=str(DEFAULT_DATA), help="SQuAD file to check the network on (default: 200 bundled questions)"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Export, check, choose and write; an existing repository is replaced only when all checks pass."""
    checkpoint, _ = load_checkpoint(args.model)
    if not Path(args.data).is_file():
        raise BuildError(f"{args.data}: no questions to check the network on: give a SQuAD file with --data")
    examples = read_squad(args.data)
    with tempfile.TemporaryDirectory() as scratch:
        _say(args, "exporting")
        networks = cpu_networks_from_checkpoint(args.model, scratch)
        _say(args, "comparing float32 with torch")
        parity = _checked_parity(args, checkpoint, networks, examples[:PARITY_QUESTIONS])
        network = _chosen(args, checkpoint, networks, examples, parity)
        manifest = manifest_from_checkpoint(checkpoint, network, name=Path(args.model).resolve().name)
        write_repository(args.output, manifest, checkpoint, network)
    report = {"repository": args.output, **manifest.encoder}
    print(json.dumps(report, indent=2) if args.json else _table(report))
    return 0


def _say(args: argparse.Namespace, what: str) -> None:
    if not args.quiet:
        print(f"{what} ...", file=sys.stderr)


def _checked_parity(
    args: argparse.Namespace, checkpoint: Checkpoint, networks: CpuNetworks, examples: Sequence[Example]
) -> Parity:
    _, model = load_checkpoint(args.model)
    parity = compare(
        partial(run_torch, model),
        partial(run_onnx, session_from_onnx(networks.float32)),
        checkpoint,
        [(example.question, example.context) for example in examples],
        quiet=args.quiet,
    )
    parity.require(max_difference=MAX_LOGIT_DIFFERENCE)
    return parity


def _chosen(
    args: argparse.Namespace,
    checkpoint: Checkpoint,
    networks: CpuNetworks,
    examples: Sequence[Example],
    parity: Parity,
) -> Network:
    """The network to serve, with the scores that speak for it."""
    facts: dict[str, Any] = {
        "onnxruntime": onnxruntime.__version__,
        "checked_on": Path(args.data).name,
        "float32_parity": asdict(parity),
    }
    if args.precision == "float32":
        return Network(path=networks.float32, precision="float32", facts=facts)
    scores: dict[str, Accuracy] = {}
    for precision, path in (("float32", networks.float32), ("int8", networks.int8)):
        _say(args, f"scoring {precision} on {len(examples):,} questions")
        scores[precision] = accuracy_of(network_from_onnx(path), checkpoint, examples, quiet=args.quiet)
    facts["accuracy"] = {precision: asdict(accuracy) for precision, accuracy in scores.items()}
    loss = scores["float32"].f1 - scores["int8"].f1
    if loss <= MAX_F1_LOSS:
        return Network(path=networks.int8, precision="int8", facts=facts)
    problem = f"int8 loses {loss:.2f} F1 points on {Path(args.data).name}, at most {MAX_F1_LOSS} are allowed"
    if args.precision == "int8":
        raise ParityError(f"{problem}: use --precision float32, or more questions with --data")
    print(f"{problem}: float32 is taken", file=sys.stderr)
    return Network(path=networks.float32, precision="float32", facts=facts)


def _table(report: dict[str, Any]) -> str:
    parity = report["float32_parity"]
    lines = [
        f"repository   {report['repository']}",
        f"network      {report['precision']}, ONNX Runtime {report['onnxruntime']}",
        f"parity       float32 against torch: logits within {parity['max_difference']:.1e}, "
        f"{parity['answers_changed']} of {parity['n_questions']} answers changed",
    ]
    for precision, accuracy in report.get("accuracy", {}).items():
        lines.append(
            f"{precision:<12} EM {accuracy['exact']:.2f}  F1 {accuracy['f1']:.2f}  "
            f"forced F1 {accuracy['forced_f1']:.2f}  ({accuracy['n_questions']:,} questions)"
        )
    return "\n".join(lines)
