"""Every family from a trained network to served answers: torch, ONNX Runtime, int8, float16, Triton, held to torch.

    python benchmarks/family_stages.py articles19.json -o FOLDER [--families roberta,albert] [--questions 500]

trains a small model of each family on a part of the SQuAD file (family_models.py), and asks held-out questions of torch
in float32 and of every stage behind it, with the limits of `spanqa build`: float32 must be the checkpoint's network,
float16 nearly so, int8 pass the gate of build/spanqa_build/cpu_gate.py, and a server say what its network says. What
FOLDER holds is not done again. The exit status is 1 where a stage fails, or a model answers all or nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_setting import heldout_examples, parser_of, print_result
from family_models import FAMILIES, trained_checkpoint, write_data
from family_road import Road

from spanqa.files import write_atomically
from spanqa_training.checkpoints.checkpoint import load_checkpoint

LEAST_SHARE = 0.02
"""Of the questions, that a model must answer, and leave without an answer."""


def measured(family: str, args: argparse.Namespace, data: Mapping[str, Path]) -> dict[str, Any]:
    """Train a family's model and hold its stages to it; what was measured before is read."""
    folder = args.output / family
    asked = {"questions": args.questions, "steps": args.steps}
    file = folder / "stages.json"
    if file.is_file():
        known: dict[str, Any] = json.loads(file.read_text("utf-8"))
        if known["asked"] == asked:
            return known
    path = trained_checkpoint(family, folder, data, steps=args.steps, quiet=args.quiet)
    checkpoint, model = load_checkpoint(path)
    road = Road(checkpoint, model, heldout_examples(args.questions), folder, quiet=args.quiet)
    stages: list[dict[str, Any]] = []
    result = {
        "family": family,
        "asked": asked,
        "checkpoint": str(path),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "f1": road.reference.f1,
        **road.said(),
        "stages": stages,
    }
    for held in road.stages():
        stages.append(held.as_json())
        if not args.quiet:
            print(f"{family}: {held.stage.name} against {held.against}: {held.verdict}", file=sys.stderr)
    write_atomically(file, json.dumps(result, indent=2))
    return result


def says_both(result: Mapping[str, Any]) -> bool:
    """Whether answers and "no answer" both come out: else hardly an answer is compared."""
    share = result["answered"] / result["asked"]["questions"]
    return bool(LEAST_SHARE <= share <= 1 - LEAST_SHARE)


def table_of(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Lay the families' stages out, a line each."""
    table: list[tuple[str, ...]] = [
        ("family", "stage", "against", "F1", "answered", "answers changed", "widest lead", "logits", "verdict")
    ]
    for one in results:
        about = (f"{one['f1']:.1f}", f"{one['answered']} of {one['asked']['questions']}")
        for stage in one["stages"]:
            verdict = "passes" if stage["passes"] else f"FAILS: {stage['verdict']}"
            lead = f"{max(stage['leads']):.2g}" if stage["leads"] else ""
            figures = (f"{stage['answers_changed']:,}", lead, f"{stage['logits']:.1e}")
            table.append((one["family"], stage["stage"], stage["against"], *about, *figures, verdict))
    return table


def main() -> int:
    """Train, build, serve, ask and print."""
    parser = parser_of(__doc__)
    parser.add_argument("dataset", type=Path, metavar="FILE", help="SQuAD 2.0 file, a part of which is trained on")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="for models and results")
    parser.add_argument("--families", default=",".join(FAMILIES), help="which, separated by commas (default: all)")
    parser.add_argument("--questions", type=int, default=500, metavar="N", help="questions (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=500, metavar="N", help="of each training (default: %(default)s)")
    args = parser.parse_args()
    families = args.families.split(",")
    unknown = [family for family in families if family not in FAMILIES]
    if unknown:
        parser.error(f"--families has {unknown[0]}: give some of {', '.join(FAMILIES)}")
    if args.questions < 1 or args.steps < 1:
        parser.error(f"--questions is {args.questions} and --steps {args.steps}: give at least 1")
    args.output.mkdir(parents=True, exist_ok=True)
    data = write_data(args.dataset, args.output)
    results = [measured(family, args, data) for family in families]
    print_result({"families": results}, table_of(results), as_json=args.json)
    mute = [one["family"] for one in results if not says_both(one)]
    if mute:
        print(f"{', '.join(mute)}: answers or none at all: give more --steps", file=sys.stderr)
    return int(bool(mute) or not all(stage["passes"] for one in results for stage in one["stages"]))


if __name__ == "__main__":
    # ONNX Runtime's optimiser imports a module float16 of its own, which the benchmark of that name would hide.
    sys.path.remove(str(Path(__file__).resolve().parent))
    sys.exit(main())
