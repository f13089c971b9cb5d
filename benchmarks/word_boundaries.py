"""What word boundaries cost and give: SQuAD metrics of the held-out questions with and without, of the same logits.

python benchmarks/word_boundaries.py --checkpoint training/checkpoints/spanqa-minilm
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench_setting import ROOT, heldout_examples, parser_of, print_result

from spanqa.spans import Decoded, decode
from spanqa.squad import Example
from spanqa.windows import WindowMaker
from spanqa_training.checkpoints.checkpoint import load_checkpoint
from spanqa_training.data.windowing import windows_of_examples
from spanqa_training.inference.decode_settings import decode_settings
from spanqa_training.inference.evaluation import Evaluation, network_from_model, window_logits

N_BEST = 5
N_ALTERNATIVES_OF = 200
N_SHOWN = 12


def _decoded(examples: Sequence[Example], inputs: Sequence[Any], settings: Any, n_best: int) -> list[Decoded]:
    return [
        decode(
            windows,
            example.context,
            *logits,
            n_best=n_best,
            max_answer_tokens=settings.max_answer_tokens,
            scale=settings.scale,
            word_boundaries=settings.word_boundaries,
        )
        for example, (windows, logits) in zip(examples, inputs, strict=True)
    ]


def _row(evaluation: Evaluation, threshold: float) -> dict[str, float]:
    own, best = evaluation.scores(threshold), evaluation.scores(evaluation.tuned_threshold())
    forced = evaluation.forced_scores()
    return {
        "exact": own["exact"],
        "f1": own["f1"],
        "best_exact": best["exact"],
        "best_f1": best["f1"],
        "forced_exact": forced["exact"],
        "forced_f1": forced["f1"],
    }


def _differing(examples: Sequence[Example], parts: Evaluation, whole: Evaluation, threshold: float) -> dict[str, Any]:
    """How many answers differ, at the threshold and of the best spans; some of these, beside the gold answers."""
    best = [
        {"parts": one.spans[0].text, "whole": other.spans[0].text, "gold": [answer.text for answer in example.answers]}
        for example, one, other in zip(examples, parts.decoded, whole.decoded, strict=True)
        if one.spans[0].text != other.spans[0].text
    ]
    one, other = parts.predictions(threshold), whole.predictions(threshold)
    shown = [pair for pair in best if pair["gold"]]
    return {
        "answers_differ": sum(one[key] != other[key] for key in one),
        "best_spans_differ": len(best),
        "won": sum(pair["whole"] in pair["gold"] for pair in shown),
        "lost": sum(pair["parts"] in pair["gold"] for pair in shown),
        "examples": shown[:N_SHOWN],
    }


def _n_overlapping(decoded: Sequence[Decoded]) -> int:
    """Questions all of whose alternatives overlap the best span."""
    return sum(
        all(s.char_start < d.spans[0].char_end and d.spans[0].char_start < s.char_end for s in d.spans[1:])
        for d in decoded
        if len(d.spans) > 1
    )


def main() -> int:
    """Run the network once, decode both ways, and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "training" / "checkpoints" / "spanqa-minilm")
    parser.add_argument("--questions", type=int, metavar="N", help="questions (default: all 6,078)")
    args = parser.parse_args()
    checkpoint, model = load_checkpoint(args.checkpoint)
    examples = heldout_examples(args.questions)
    all_windows = windows_of_examples(examples, WindowMaker(checkpoint.tokenizer(), checkpoint.windows))
    logits = window_logits(network_from_model(model), all_windows, quiet=args.quiet)
    inputs = list(zip(all_windows, logits, strict=True))
    threshold = checkpoint.no_answer_threshold
    evaluations = [
        Evaluation(
            examples=examples,
            decoded=_decoded(examples, inputs, replace(decode_settings(checkpoint), word_boundaries=whole), 1),
        )
        for whole in (False, True)
    ]
    rows = [_row(evaluation, threshold) for evaluation in evaluations]
    found: dict[str, Any] = {"threshold": threshold, "parts": rows[0], "whole": rows[1]}
    found |= _differing(examples, *evaluations, threshold)
    for whole in (False, True):
        settings = replace(decode_settings(checkpoint), word_boundaries=whole)
        several = _decoded(examples[:N_ALTERNATIVES_OF], inputs[:N_ALTERNATIVES_OF], settings, N_BEST)
        found[f"all_overlap_{'whole' if whole else 'parts'}"] = _n_overlapping(several)
    table: list[tuple[str, ...]] = [("", "parts of words", "whole words")]
    table += [(name, f"{rows[0][name]:.2f}", f"{rows[1][name]:.2f}") for name in rows[0]]
    table.append(
        (
            f"of {N_ALTERNATIVES_OF}, all {N_BEST - 1} alternatives overlap the best",
            str(found["all_overlap_parts"]),
            str(found["all_overlap_whole"]),
        )
    )
    table += [(name, "", str(found[name])) for name in ("answers_differ", "best_spans_differ", "won", "lost")]
    table += [("; ".join(dict.fromkeys(p["gold"])), p["parts"], p["whole"]) for p in found["examples"]]
    print_result(found, table, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
