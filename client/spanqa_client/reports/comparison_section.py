"""The page's section about two runs: what differs, and whether it could be chance."""

from __future__ import annotations

from math import isnan

from spanqa_client.reports.comparison import BOTH_RIGHT, BOTH_WRONG, CHANGES, GAINED, LOST, SAME, Comparison, Difference
from spanqa_client.reports.markup import isolated, percent, table

ALPHA = 0.05


def comparison_section(comparison: Comparison | None, name: str) -> str:
    """Lay a comparison out; empty without one.

    Args:
        comparison: The comparison.
        name: This run's name.
    """
    if comparison is None:
        return ""
    n = sum(comparison.counts.values())
    differences = [_difference_cells("F1", comparison.f1), _difference_cells("exact", comparison.exact)]
    changes = [
        [
            f'<button type="button" class="pick" data-change="{place}">{change}</button>',
            f"{comparison.counts[change]:,}",
            f"{percent(100 * comparison.counts[change] / n, 2)}\N{NO-BREAK SPACE}%",
            f'<span class="interval">{CHANGES[change]}</span>',
        ]
        for place, change in enumerate(CHANGES)
    ]
    moves = [[other, ours, f"{count:,}"] for (other, ours), count in comparison.moves.items()]
    return (
        f"<p>{isolated(name)} against {isolated(comparison.other)}. {verdict(comparison)}</p>"
        f'<div class="pair"><div>'
        + table(["", "difference", "95 % interval", "p"], differences, caption="Differences of the averages")
        + f'<p class="note">Paired bootstrap over paragraphs. McNemar{chr(0x2019)}s test on exact match: '
        f"p {p_text(comparison.mcnemar)} exact, {p_text(comparison.mcnemar_mid)} mid-p.</p>"
        + table(["", "questions", "share", ""], changes, caption="Answers of both runs", texts=(3,), least=(3,))
        + "</div><div><h3>How the answers that differ moved</h3>"
        + table(["before", "now", "questions"], moves[:12], caption="Kinds of outcome before and now", texts=(1,))
        + "</div></div>"
    )


def verdict(comparison: Comparison) -> str:
    """Say in a sentence what a comparison shows."""
    n = sum(comparison.counts.values())
    counts = comparison.counts
    low, high = comparison.f1.interval
    is_clear = (low > 0 or high < 0) and comparison.f1.p_value <= ALPHA
    said = (
        f"{n - counts[SAME]:,} of {n:,} answers differ: {counts[GAINED]:,} gained, {counts[LOST]:,} lost, "
        f"{counts[BOTH_RIGHT]:,} both right, {counts[BOTH_WRONG]:,} both wrong."
    )
    if n == counts[SAME]:
        return f"All {n:,} answers are the same."
    if is_clear:
        return f"{said} F1 is {'higher' if low > 0 else 'lower'}, beyond chance."
    return f"{said} The difference of F1 is within chance."


def p_text(p_value: float) -> str:
    """A p-value, to as many digits as say something."""
    return "below 0.0001" if p_value < 0.0001 else f"{p_value:.2g}" if p_value < 0.1 else f"{p_value:.2f}"


def _difference_cells(name: str, difference: Difference) -> list[str]:
    low, high = difference.interval
    between = "\N{EM DASH}" if isnan(low) else f"{_signed(low)} to {_signed(high)}"
    return [name, _signed(difference.value), between, p_text(difference.p_value)]


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")
