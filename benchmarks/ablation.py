"""What each part of the default model's last training data is worth: the same training without it, or with more.

Every arm trains the same checkpoint for as many steps on other data: as the recipe has it, without the questions that
were made, without one kind of them, without what is not SQuAD 2.0's own, with SQuADShifts' Reddit and Amazon parts,
and a part of the recipe's in an order, other collections first, or at random. These last two take batches as the file
has them, in stretches of 50 that go from short windows to long ones; all others shuffle. Each is scored on the
held-back articles, which no arm trains on, beside the recipe's data. An arm that is done is not trained again:
whatever ends a run, the same command goes on.

    python benchmarks/ablation.py DATA PREPARED -o FOLDER --base CHECKPOINT

DATA is the folder that training/recipes/minilm.sh describes, PREPARED what minilm_data.py wrote from it. CHECKPOINT is
best one that has not seen the questions yet, as that of the recipe's second stage: what it was trained on before is in
every arm.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench_setting import ROOT, parser_of, print_result

from spanqa.datasets import read_dataset
from spanqa.squad import Example
from spanqa.windows import WindowMaker
from spanqa_client.gold import gold_from_examples
from spanqa_client.intervals import bootstrap_intervals
from spanqa_client.metrics import raw_scores
from spanqa_training.checkpoints.checkpoint import load_checkpoint
from spanqa_training.commands.negatives import write_squad
from spanqa_training.data.negatives import KINDS
from spanqa_training.inference.decode_settings import decode_settings
from spanqa_training.inference.evaluation import Evaluation, evaluate, network_from_model

sys.path.insert(0, str(ROOT / "training" / "recipes"))
from minilm_data import HELD_BACK, apart

SPEC = ROOT / "training" / "specs" / "minilm_squad.yaml"
ELSEWHERE = ("squadshifts_reddit.json", "squadshifts_amazon_reviews.json")
NOT_SQUAD_2 = ("squad11_dev13.json.gz", "squadshifts_new_wiki.json")
BATCH = 32
RECIPE = "as the recipe has it"
IN_ORDER, AT_RANDOM = "a part, other collections first", "the same part at random"


def main() -> None:
    """Train the arms that are not trained yet, and print the table."""
    args = _arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    whole = read_dataset(args.prepared / "squad.json")
    held_back = read_dataset(args.prepared / HELD_BACK)
    _check_same_run(args)
    arms = _arms(args, held_back)
    if unknown := set(args.arms or ()) - set(arms):
        raise SystemExit(f"--arms {', '.join(sorted(unknown))}: give some of {'; '.join(arms)}")
    found: dict[str, Evaluation] = {}
    sizes: dict[str, int] = {}
    for name, part_of in arms.items():
        if args.arms and name not in (RECIPE, *args.arms):
            continue
        examples = part_of(whole)
        sizes[name] = len(examples)
        found[name] = _evaluated(_trained(args, name, examples), held_back)
    result = {name: _figures(found[name], found[RECIPE]) | {"questions": sizes[name]} for name in found}
    print_result({"steps": args.steps, "arms": result}, _table(result), as_json=args.json)


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("data", type=Path, help="folder of the datasets that training/recipes/minilm.sh names")
    parser.add_argument("prepared", type=Path, help="what training/recipes/minilm_data.py wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of all arms")
    parser.add_argument("--base", type=Path, required=True, help="checkpoint that every arm starts from")
    parser.add_argument("--steps", type=int, default=300, help="of each arm (default: %(default)s)")
    parser.add_argument("--arms", nargs="+", metavar="NAME", help="only these, beside the recipe's data")
    return parser.parse_args()


def _check_same_run(args: argparse.Namespace) -> None:
    """Refuse a folder with arms of other steps, data or base, which could not be compared."""
    digests = {
        str(name): hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in (("base", args.base / "model.safetensors"), ("data", args.prepared / "squad.json"))
    }
    asked, file = {"steps": args.steps, **digests}, args.output / "settings.json"
    if not file.exists():
        file.write_text(json.dumps(asked), encoding="utf-8")
    elif json.loads(file.read_text(encoding="utf-8")) != asked:
        raise SystemExit(f"{args.output}: holds arms of other steps, data or base: give another -o")


def _arms(
    args: argparse.Namespace, held_back: Sequence[Example]
) -> dict[str, Callable[[list[Example]], list[Example]]]:
    """What each arm makes of the recipe's questions."""
    other_ids = {example.id for name in NOT_SQUAD_2 for example in read_dataset(args.data / name)}

    def made_of(kinds: Sequence[str]) -> Callable[[Example], bool]:
        return lambda example: example.id.startswith(tuple(f"{kind}-" for kind in kinds))

    def is_other(example: Example) -> bool:
        return example.id.partition("-")[2] in other_ids if made_of(KINDS)(example) else example.id in other_ids

    def without(left_out: Callable[[Example], bool]) -> Callable[[list[Example]], list[Example]]:
        return lambda whole: [example for example in whole if not left_out(example)]

    def with_more(whole: list[Example]) -> list[Example]:
        return whole + apart([one for name in ELSEWHERE for one in read_dataset(args.data / name)], list(held_back))

    def at_random(whole: list[Example]) -> list[Example]:
        # As many as the steps take: ten windows are of nine questions.
        return random.Random(0).sample(whole, min(len(whole), args.steps * BATCH * 9 // 10))  # noqa: S311

    def in_order(whole: list[Example]) -> list[Example]:
        return sorted(at_random(whole), key=lambda example: not is_other(example))

    return {
        RECIPE: lambda whole: whole,
        "without made questions": without(made_of(KINDS)),
        **{f"without {kind} questions": without(made_of([kind])) for kind in KINDS},
        "SQuAD 2.0's own alone": without(is_other),
        "and Reddit and Amazon": with_more,
        IN_ORDER: in_order,
        AT_RANDOM: at_random,
    }


def _trained(args: argparse.Namespace, name: str, examples: Sequence[Example]) -> Path:
    folder = re.sub(r"[^a-z0-9]+", "-", name.lower())
    results = args.output / folder
    target = results / "checkpoints" / "trained-model.tlt"
    if not target.exists():
        file = args.output / f"{folder}.json"
        if not file.exists():
            write_squad(examples, file)
        print(f"{name}: {len(examples):,} questions", file=sys.stderr)
        line = [sys.executable, "-m", "spanqa.cli", "train", "-e", str(SPEC), "-m", str(args.base), "-r", str(results)]
        line += [f"training_ds.file={file}", "~validation_ds", f"trainer.max_steps={args.steps}"]
        line += [
            f"training_ds.shuffle={str(name not in (IN_ORDER, AT_RANDOM)).lower()}",
            *(["--quiet"] if args.quiet else []),
        ]
        if subprocess.run(line, stdout=subprocess.DEVNULL, check=False).returncode:
            raise SystemExit(f"{name}: the training did not end well: see above; the same command goes on")
    return target


def _evaluated(model: Path, questions: Sequence[Example]) -> Evaluation:
    checkpoint, network = load_checkpoint(model)
    maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
    return evaluate(network_from_model(network), maker, questions, decode_settings(checkpoint), quiet=True)


def _figures(arm: Evaluation, recipe: Evaluation) -> dict[str, Any]:
    """An arm's F1, and by how much it is above the recipe's, paired by question."""
    questions = gold_from_examples(arm.examples)
    (exact, f1), (recipe_exact, recipe_f1) = (
        raw_scores(questions, one.predictions(one.tuned_threshold())) for one in (arm, recipe)
    )
    gains = [
        [ours - theirs for ours, theirs in zip(*pair, strict=True)] for pair in ((exact, recipe_exact), (f1, recipe_f1))
    ]
    return {
        "f1": 100 * sum(f1) / len(f1),
        "gain": 100 * sum(gains[1]) / len(f1),
        "gain_interval_95": bootstrap_intervals(questions, *gains)["f1"],
        "always_answering_f1": arm.forced_scores()["f1"],
    }


def _table(result: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("", "questions", "F1, best threshold", "to the recipe", "95 %", "always answering")]
    for name, row in result.items():
        low, high = row["gain_interval_95"]
        gain = ("", "") if name == RECIPE else (f"{row['gain']:+.2f}", f"{low:+.2f} to {high:+.2f}")
        rows.append((name, f"{row['questions']:,}", f"{row['f1']:.2f}", *gain, f"{row['always_answering_f1']:.2f}"))
    return rows


if __name__ == "__main__":
    main()
