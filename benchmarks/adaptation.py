"""Adapting to a domain before fine-tuning on it: EM and F1 on the domain's test questions, with and without.

A base model is asked as it is, fine-tuned on the domain's questions, and adapted to the domain's text and then
fine-tuned, each with several seeds. Every stage is a command of ours with a folder of its own: whatever ends a run of
this benchmark, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_setting import ROOT, parser_of, print_result

from spanqa.datasets import read_dataset
from spanqa_client.gold import GoldQuestion, gold_from_examples
from spanqa_client.intervals import bootstrap_intervals
from spanqa_client.metrics import raw_scores
from spanqa_client.predictions import read_predictions

SHIPPED = ROOT / "training" / "checkpoints" / "spanqa-minilm"
SPECS = ROOT / "training" / "specs"
AS_IS, TUNED, ADAPTED = "as it is", "fine-tuned", "adapted, then fine-tuned"


@dataclass(frozen=True, slots=True)
class Scores:
    """EM and F1 of every question, 0..1, the mean over the seeds."""

    exact: list[float]
    f1: list[float]

    def minus(self, other: Scores) -> Scores:
        """Give the differences, question by question."""
        pairs = ((self.exact, other.exact), (self.f1, other.f1))
        exact, f1 = ([one - two for one, two in zip(*pair, strict=True)] for pair in pairs)
        return Scores(exact, f1)


def main() -> None:
    """Run what is not done yet, and print the table."""
    args = _arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    questions = gold_from_examples(read_dataset(args.test))
    scores = {} if args.no_as_is else {AS_IS: _scored(questions, [_answers(args, "as-is", args.base)])}
    tuned, adapted, perplexities = [], [], []
    for seed in range(1, args.seeds + 1):
        tuned.append(_answers(args, f"tuned-{seed}", _tuned(args, f"tuned-{seed}", args.base, seed)))
        base, held_out = _adapted(args, f"adapted-{seed}", seed)
        perplexities.append(held_out)
        name = f"adapted-tuned-{seed}"
        adapted.append(_answers(args, name, _tuned(args, name, base, seed)))
    scores |= {TUNED: _scored(questions, tuned), ADAPTED: _scored(questions, adapted)}
    result = _result(questions, scores, perplexities, args.seeds)
    print_result(result, _table(result), as_json=args.json)


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("train", help="the domain's questions to fine-tune on; their contexts are what is adapted to")
    parser.add_argument("test", help="the domain's questions to score on")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of all stages")
    parser.add_argument("--base", type=Path, default=SHIPPED, help="checkpoint to start from (default: the shipped)")
    parser.add_argument("--no-as-is", action="store_true", help="the base has no head for questions: do not ask it")
    parser.add_argument("--text", help="text to adapt to, in place of the contexts")
    parser.add_argument("--seeds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--precision", default="32", help="of training (default: %(default)s)")
    parser.add_argument("--adapt-epochs", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--tune-epochs", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--tune-lr", type=float, default=1e-4, help="(default: %(default)s)")
    return parser.parse_args()


def _spanqa(args: argparse.Namespace, command: str, results: Path, *options: str) -> None:
    """Run a command of ours, which resumes by itself."""
    line = [sys.executable, "-m", "spanqa.cli", command, "-r", str(results), *options]
    if args.quiet:
        line.append("--quiet")
    if subprocess.run(line, stdout=subprocess.DEVNULL, check=False).returncode:
        raise SystemExit(f"spanqa {command} -r {results} did not end well: see above; the same command goes on")


def _adapted(args: argparse.Namespace, name: str, seed: int) -> tuple[Path, dict[str, Any]]:
    results = args.output / name
    target = results / "checkpoints" / "adapted-model.tlt"
    if not target.exists():
        options = [f"training_ds.file={args.text or args.train}", f"trainer.max_epochs={args.adapt_epochs}"]
        options.append(f"trainer.precision={args.precision}")
        spec = ("-e", str(SPECS / "adapt.yaml"), "-m", str(args.base), "--held-out", "0.1")
        _spanqa(args, "adapt", results, *spec, *options, f"trainer.seed={seed}")
    return target, json.loads((results / "metrics.json").read_text("utf-8"))["held_out"]


def _tuned(args: argparse.Namespace, name: str, base: Path, seed: int) -> Path:
    results = args.output / name
    target = results / "checkpoints" / "trained-model.tlt"
    if not target.exists():
        options = [f"training_ds.file={args.train}", "validation_ds.file=[]", f"trainer.max_epochs={args.tune_epochs}"]
        options.append(f"trainer.precision={args.precision}")
        spec = ("-e", str(SPECS / "minilm_passages.yaml"), "-m", str(base))
        _spanqa(args, "train", results, *spec, *options, f"optim.lr={args.tune_lr}", f"trainer.seed={seed}")
    return target


def _answers(args: argparse.Namespace, name: str, model: Path) -> dict[str, str]:
    """The answers of a model to the test questions; none may be left unanswered, as all have an answer."""
    results = args.output / "answers" / name
    if not (results / "prediction.txt").exists():
        always = "model.dataset.version_2_with_negative=false"
        _spanqa(args, "infer", results, "-m", str(model), f"infer_ds.file={args.test}", always)
    return read_predictions(results / "prediction.txt")


def _scored(questions: Sequence[GoldQuestion], runs: Sequence[dict[str, str]]) -> Scores:
    exact, f1 = zip(*(raw_scores(questions, predictions) for predictions in runs), strict=True)
    means = [[sum(column) / len(runs) for column in zip(*rows, strict=True)] for rows in (exact, f1)]
    return Scores(*means)


def _result(
    questions: Sequence[GoldQuestion], scores: dict[str, Scores], perplexities: list[dict[str, Any]], n_seeds: int
) -> dict[str, Any]:
    scores = {**scores, "gain of adapting": scores[ADAPTED].minus(scores[TUNED])}
    rows = {}
    for name, found in scores.items():
        intervals = bootstrap_intervals(questions, found.exact, found.f1)
        means = {"exact": found.exact, "f1": found.f1}
        rows[name] = {
            key: {"mean": 100 * sum(values) / len(values), "interval_95": intervals[key]}
            for key, values in means.items()
        }
    return {"questions": len(questions), "seeds": n_seeds, "scores": rows, "held_out": perplexities}


def _table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    table: list[tuple[str, ...]] = [("", "EM", "F1")]
    for name, row in result["scores"].items():
        cells = []
        for key in ("exact", "f1"):
            low, high = row[key]["interval_95"]
            cells.append(f"{row[key]['mean']:.1f} [{low:.1f}, {high:.1f}]")
        table.append((name, *cells))
    for number, held_out in enumerate(result["held_out"], start=1):
        before, after = (held_out[when]["perplexity"] for when in ("before", "after"))
        table.append((f"held-out perplexity, seed {number}", f"{before:.1f}", f"{after:.1f}"))
    return table


if __name__ == "__main__":
    main()
