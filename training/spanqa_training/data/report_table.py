"""A dataset's report as a table to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from spanqa_training.data.length_counts import Bar
from spanqa_training.data.report import DataReport, PieceReport

_BAR_CHARS = 40


def table_from_report(report: DataReport) -> str:
    """Lay a report out: what the files hold, word pieces and windows, and what is wrong."""
    answers = ", ".join(f"{count:,} with {n}" for n, count in report.answers_per_question.items())
    lines = _aligned(
        [
            ("questions", f"{report.n_questions:,}", ""),
            ("unanswerable", *_share(report.n_unanswerable, report.n_questions)),
            ("asked before", *_share(report.n_repeated_questions, report.n_questions)),
            ("paragraphs", f"{report.n_paragraphs:,}", ""),
            ("articles", f"{report.n_articles:,}", ""),
        ]
    )
    lines.append(f"answers a question: {answers or 'none'}")
    if report.pieces:
        lines += ["", *_piece_lines(report.pieces, report)]
    else:
        lines.append("word pieces and windows: not known without a tokenizer; give -m CHECKPOINT or --tokenizer PATH")
    lines += ["", f"defects: {report.n_defects or 'none'}"]
    lines += [f"  {defect}" for defect in report.defects]
    n_hidden = report.n_defects - len(report.defects)
    if n_hidden:
        lines.append(f"  and {n_hidden:,} more; --max-defects shows them")
    return "\n".join(lines)


def _piece_lines(pieces: PieceReport, report: DataReport) -> list[str]:
    lengths: list[Sequence[str]] = [("word pieces", "mean", "p50", "p95", "p99", "longest")]
    for name, length in (("question", pieces.question), ("paragraph", pieces.context), ("pair", pieces.pair)):
        numbers = (length.p50, length.p95, length.p99, length.longest)
        lengths.append((name, f"{length.mean:.1f}", *(f"{number:,}" for number in numbers)))
    n_answerable = report.n_questions - report.n_unanswerable
    per_question = pieces.n_windows / max(1, report.n_questions)
    counts = [
        ("windows", f"{pieces.n_windows:,}", f"{per_question:.2f} a question"),
        ("questions cut off", *_share(pieces.n_truncated_questions, report.n_questions)),
        ("answers whole in no window", *_share(pieces.n_lost_answers, n_answerable)),
        ("answers too long to decode", *_share(pieces.n_long_answers, n_answerable)),
        ("answers within a word piece", *_share(pieces.n_unaligned_answers, n_answerable)),
        ("[UNK] among the word pieces", "", f"{pieces.unknown_share:.3%}"),
    ]
    return [*_aligned(lengths), "", *_bar_lines(pieces.pair_bars), "", *_aligned(counts)]


def _bar_lines(bars: Sequence[Bar]) -> list[str]:
    most = max((bar.count for bar in bars), default=1)
    rows = []
    for bar in bars:
        # Never empty where there is something, however little.
        n_chars = -(-bar.count * _BAR_CHARS // most)
        rows.append((f"pairs of {bar.first}-{bar.last}", f"{bar.count:,}", "#" * n_chars))
    return _aligned(rows, left=(0, 2))


def _share(count: int, total: int) -> tuple[str, str]:
    return f"{count:,}", f"{count / total:.2%}" if total else "-"


def _aligned(rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
