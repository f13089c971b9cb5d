"""`spanqa build`: from a checkpoint to a model repository, checked on the way."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from spanqa_build.accuracy import MAX_F1_LOSS
from spanqa_build.cpu_build import DEFAULT_DATA, PRECISIONS, CpuBuild
from spanqa_training.arguments import add_key_option, key_from_args
from spanqa_training.sources import open_model


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("-m", "--model", required=True, help="checkpoint")
    parser.add_argument("-o", "--output", required=True, help="model repository to write or replace")
    add_key_option(parser)
    parser.add_argument("--target", choices=("cpu",), default="cpu", help="what it will run on (default: cpu)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help=f"auto takes int8 where F1 falls by at most {MAX_F1_LOSS} points (default: auto)",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=DEFAULT_DATA,
        help="SQuAD file to check the network on (default: 200 bundled questions)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Export, check, choose and write; an existing repository is replaced only when all checks pass."""
    checkpoint, model = open_model(args.model, key=key_from_args(args))
    build = CpuBuild(
        checkpoint=checkpoint,
        model=model,
        name=Path(args.model).resolve().stem,
        data=args.data,
        precision=args.precision,
        quiet=args.quiet,
    )
    manifest = build.write(args.output)
    report = {"repository": args.output, **manifest.encoder}
    print(json.dumps(report, indent=2) if args.json else table(report))
    return 0


def table(report: dict[str, Any]) -> str:
    """The report of a build, to read."""
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
