"""`spanqa check-data`: what dataset files hold, how they fall into windows, and everything that is wrong with them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

from spanqa.contract import DEFAULT_MAX_ANSWER_TOKENS
from spanqa.datasets import DATASET_FORMATS
from spanqa.errors import DataError, SettingsError
from spanqa.tokenization import Tokenizer, load_tokenizer
from spanqa.windows import WindowMaker, WindowSettings
from spanqa_training.data.repair import LIST_SUFFIX, Repair, repair_files
from spanqa_training.data.report import report_from_files
from spanqa_training.data.report_table import table_from_report
from spanqa_training.weights.tokenizers.unigram import sentencepiece_file_at, tokenizer_json_from_sentencepiece

_WINDOW_OPTIONS = ("max_seq_length", "doc_stride", "max_query_length")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("files", nargs="+", metavar="FILE", help=DATASET_FORMATS)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("-m", "--model", metavar="CHECKPOINT", help="whose tokenizer and window settings count")
    source.add_argument(
        "--tokenizer", metavar="PATH", help="tokenizer.json, vocab.txt, a SentencePiece model, or a folder of one"
    )
    for option, what in (
        ("--max-seq-length", "longest window"),
        ("--doc-stride", "step between windows"),
        ("--max-query-length", "longest question"),
        ("--max-answer-length", "longest answer"),
    ):
        parser.add_argument(option, type=int, metavar="N", help=f"{what} in word pieces (default: the model's)")
    parser.add_argument(
        "--max-defects", type=int, default=20, metavar="N", help="defects shown; all are counted (default: %(default)s)"
    )
    parser.add_argument(
        "--repair",
        metavar="OUT",
        help="write a mended copy, SQuAD 2.0 JSON, and OUT.repairs.jsonl, which lists what was mended or left out",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Read the files once, print the report, and fail where there are defects; or mend what can be mended."""
    if args.repair:
        repair = repair_files(args.files, Path(args.repair), quiet=args.quiet)
        print(json.dumps(repair.to_dict(), indent=2) if args.json else repair_table(repair, args.repair))
        return 0
    maker, max_answer_tokens = _window_maker(args)
    report = report_from_files(
        args.files, maker, max_answer_tokens=max_answer_tokens, max_defects=args.max_defects, quiet=args.quiet
    )
    print(json.dumps(asdict(report), indent=2) if args.json else table_from_report(report), flush=True)
    if report.n_defects:
        noun = "defect" if report.n_defects == 1 else "defects"
        raise DataError(
            f"{report.n_defects:,} {noun} in {', '.join(report.files)}: mend what the report names, or leave it out"
        )
    return 0


def repair_table(repair: Repair, output: str) -> str:
    """Lay a repair out to read."""
    lines = [f"{output}: {repair.n_questions:,} questions; {output}{LIST_SUFFIX} lists each change"]
    for title, counts in (("answers mended", repair.mended), ("left out", repair.left_out)):
        lines.append(f"{title:<16}{counts.total():>8,}")
        lines += [f"  {count:>22,}  {reason}" for reason, count in counts.most_common()]
    return "\n".join(lines)


def _window_maker(args: argparse.Namespace) -> tuple[WindowMaker | None, int]:
    """How to cut windows, None without a tokenizer; and the longest answer in word pieces."""
    changes = {name: value for name in _WINDOW_OPTIONS if (value := getattr(args, name)) is not None}
    settings, max_answer_tokens = WindowSettings(), DEFAULT_MAX_ANSWER_TOKENS
    if args.model:
        # torch takes its time, and only a checkpoint needs it.
        from spanqa_training.checkpoints.checkpoint import read_checkpoint

        checkpoint = read_checkpoint(args.model)
        tokenizer, settings = checkpoint.tokenizer(), checkpoint.windows
        max_answer_tokens = checkpoint.max_answer_tokens
    elif args.tokenizer:
        model = sentencepiece_file_at(Path(args.tokenizer))
        tokenizer = Tokenizer(tokenizer_json_from_sentencepiece(model)) if model else load_tokenizer(args.tokenizer)
    elif changes or args.max_answer_length is not None:
        raise SettingsError("lengths in word pieces mean nothing without a tokenizer: give -m or --tokenizer")
    else:
        return None, max_answer_tokens
    if args.max_answer_length is not None:
        max_answer_tokens = args.max_answer_length
    return WindowMaker(tokenizer, replace(settings, **changes)), max_answer_tokens
