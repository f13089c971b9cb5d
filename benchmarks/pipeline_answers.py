"""What the Hugging Face pipeline answers, beside ours, with the same weights: how often the same, and why not.

python benchmarks/pipeline_answers.py --checkpoint training/checkpoints/spanqa-minilm

The checkpoint is exported as a Hugging Face folder; the pipeline of transformers 5.2.0, its last release, answers in an
environment of its own (requirements/peers-transformers.txt). It is given the checkpoint's lengths and may say nothing.
Every other answer is explained by a step of its decoding (pipeline_decoding.py); the exit status is 1 where one is not.
Where nothing differs but white space before it, an answer is the same, and counted apart.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from bench_setting import ROOT, heldout_examples, parser_of, print_result
from peer_environments import PeerError, default_folder, environment_python
from peer_turn import take_turn
from pipeline_decoding import SPACES, UNEXPLAINED, Network, answers_by_step, certainty_of, reason_of
from tokenizers import Tokenizer as Backend
from tqdm import tqdm

from spanqa.spans import DecodeSettings
from spanqa.squad import Example
from spanqa.windows import Batch, WindowMaker
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.model import SpanModel
from spanqa_training.weights.model_sources import open_model

SHIPPED = ROOT / "training" / "checkpoints" / "spanqa-minilm"
REQUIREMENTS = ROOT / "requirements" / "peers-transformers.txt"
LEAST_SHARE = 0.97
CERTAIN = 0.5
"""Share of all spans and none from which a model is certain of an answer; of the others many are about as good."""


def exported_folder(checkpoint: Path, folder: Path) -> Path:
    """Export a checkpoint as a folder that transformers reads."""
    place = folder / "hugging-face"
    spec = ROOT / "training" / "specs" / "export.yaml"
    options = ["-e", spec, "-m", checkpoint.resolve(), "-r", folder, "-o", place, "export_format=HF", "--quiet"]
    command = [sys.executable, "-m", "spanqa.cli", "export", *map(str, options)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise PeerError(f"spanqa export failed: {lines[-1]}")
    return place


def network_of(model: SpanModel) -> Network:
    """Run the network in float32, one window at a time, each window once."""
    known: dict[bytes, Any] = {}

    def run(batch: Batch) -> Any:
        key = batch.input_ids.tobytes()
        if key not in known:
            arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
            with torch.inference_mode():
                known[key] = tuple(logits.numpy() for logits in model(*map(torch.from_numpy, arrays)))
        return known[key]

    return run


def pipeline_windows(checkpoint: Checkpoint, maker: WindowMaker, examples: Sequence[Example]) -> dict[str, int]:
    """The checkpoint's windows as the pipeline counts them: by the overlap that is our step for the median question."""
    settings = checkpoint.windows
    pieces = statistics.median_low(len(maker.tokenizer.pieces(example.question)) for example in examples)
    room = settings.max_seq_length - maker.tokenizer.pair.n_special - min(pieces, settings.max_query_length)
    return {
        "max_seq_length": settings.max_seq_length,
        "max_query_length": settings.max_query_length,
        "overlap": room - settings.doc_stride,
        "max_answer_tokens": checkpoint.max_answer_tokens,
    }


def compared(args: argparse.Namespace, folder: Path) -> tuple[list[Mapping[str, Any]], Mapping[str, Any]]:
    """Ask both, and give each question with its two answers and the reason, and what the pipeline says of itself."""
    examples = heldout_examples(args.questions)
    checkpoint, model = open_model(args.checkpoint)
    maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
    windows = pipeline_windows(checkpoint, maker, examples)
    place = exported_folder(args.checkpoint, folder)
    task = {
        "questions": [(example.question, example.context) for example in examples],
        "warm_up": [],
        "windows": windows,
        "n_threads": len(os.sched_getaffinity(0)),
        "place": str(place),
        "batch_size": 1,
        "found": None,
    }
    outcome = take_turn(environment_python(REQUIREMENTS, args.environments, quiet=args.quiet), "by_pipeline.py", task)
    settings = DecodeSettings(
        max_answer_tokens=checkpoint.max_answer_tokens, word_boundaries=checkpoint.word_boundaries
    )
    network, backend = network_of(model.eval()), Backend.from_file(str(place / "tokenizer.json"))
    backend.no_padding()
    rows: list[Mapping[str, Any]] = []
    pairs = zip(examples, outcome.said, strict=True)
    for example, (text, _, _, start) in tqdm(pairs, total=len(examples), disable=True if args.quiet else None):
        asked = {"maker": maker, "network": network, "settings": settings}
        pair = (example.question, example.context)
        steps = answers_by_step(*pair, **asked, backend=backend, overlap=windows["overlap"])
        certainty = certainty_of(*pair, **asked)
        row = {"id": example.id, "question": example.question, "spanqa": steps[0][0], "pipeline": text}
        rows.append({**row, "certainty": certainty, "reason": reason_of(steps, (text, start))})
    return rows, {**outcome.about, "windows": windows}


def main() -> int:
    """Compare and print."""
    parser = parser_of(__doc__)
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", default=SHIPPED, help="default: the shipped one")
    parser.add_argument("--questions", type=int, default=500, metavar="N", help="questions (default: %(default)s)")
    parser.add_argument(
        "--environments",
        type=Path,
        default=default_folder(),
        metavar="DIR",
        help="where the pipeline's environment is kept, 1.3 GB (default: in the user's cache)",
    )
    args = parser.parse_args()
    if args.questions < 1:
        parser.error(f"--questions is {args.questions}: give at least 1")
    try:
        with tempfile.TemporaryDirectory(prefix="spanqa-pipeline-") as folder:
            rows, about = compared(args, Path(folder))
    except PeerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    n_same, n_spaced = (sum(row["reason"] == reason for row in rows) for reason in (None, SPACES))
    others = [row for row in rows if row["reason"] not in (None, SPACES)]
    reasons = Counter(row["reason"] for row in others)
    share = (n_same + n_spaced) / len(rows)
    counts = {"questions": len(rows), "same": n_same, "same_but_for_spaces": n_spaced}
    certain = [row for row in rows if row["certainty"] >= CERTAIN]
    n_certain, n_other = len(certain), sum(row in others for row in certain)
    counts |= {"certain": n_certain, "certain_and_same": n_certain - n_other}
    result = {**counts, "share": share, "reasons": reasons, **about}
    table = [("answers", "count"), ("the same", f"{n_same:,}")]
    table += [(f"the same but for {SPACES}", f"{n_spaced:,}")] * bool(n_spaced)
    table += [(f"another: {reason}", f"{count:,}") for reason, count in reasons.most_common()]
    print_result({**result, "others": others}, table, as_json=args.json)
    if not args.json:
        print(f"{share:.1%} of {len(rows):,} best answers are the same (at least {LEAST_SHARE:.0%} is asked for)")
        print(f"of {n_certain:,} that the model is certain of (a share of {CERTAIN:.0%}), {n_certain - n_other:,} are")
        for row in others:
            print(f"{row['question']}\n  spanqa    {row['spanqa']!r}\n  pipeline  {row['pipeline']!r}: {row['reason']}")
    return int(share < LEAST_SHARE or UNEXPLAINED in reasons)


if __name__ == "__main__":
    sys.exit(main())
