"""What `peers.py` makes of the turns: figures of each way to ask, ratios against the peers, and the table of both."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from peer_turn import Outcome

from spanqa.squad import Example
from spanqa_client.metrics import gold_from_examples, score_predictions

TARGETS = {"spanqa-int8": 4.0, "spanqa-float32": 2.0}
"""Times the questions a second of either peer, at its best."""
TARGET_F1 = 0.2
"""Points that int8 may lose to float32."""
RIVALS = ("transformers", "haystack")


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to ask one peer.

    Args:
        peer: Who answers.
        name: How it is asked.
        script: The file of benchmarks/peers.
        batch_size: 1 is one by one; else questions in flight or in a batch; 0 leaves it to the script.
        loads: What the script loads: int8 or float32 (a repository), checkpoint, hugging-face.
        requirements: The environment's packages; None is the project's own.
    """

    peer: str
    name: str
    script: str
    batch_size: int
    loads: str
    requirements: str | None = None


@dataclass(slots=True)
class Record:
    """A way with its turns; `error` is why it has none, or no more."""

    way: Way
    turns: list[Outcome] = field(default_factory=list)
    error: str | None = None

    @property
    def found(self) -> Any:
        """What the first turn found to be fastest."""
        return self.turns[0].about.get("found") if self.turns else None


def figures(record: Record, examples: Sequence[Example]) -> dict[str, Any]:
    """Give a way's figures: medians over its turns, percentiles over all its questions, the most memory."""
    head: dict[str, Any] = {"peer": record.way.peer, "way": record.way.name}
    if record.error is not None or not record.turns:
        return {**head, "error": record.error}
    turns = record.turns
    rates = [len(examples) / turn.seconds for turn in turns]
    latencies = [latency for turn in turns for latency in turn.latencies_ms]
    return {
        **head,
        **turns[0].about,
        "questions_per_s": statistics.median(rates),
        "best_questions_per_s": max(rates),
        "rounds": rates,
        "p50_ms": _percentile(latencies, 50),
        "p99_ms": _percentile(latencies, 99),
        "cpu_ms_a_question": statistics.median(turn.cpu_s for turn in turns) / len(examples) * 1e3,
        "peak_mib": max(turn.peak_mib for turn in turns),
        "memory": turns[0].memory,
        **_scores(turns[0], examples),
    }


def _percentile(values: Sequence[float], percent: int) -> float | None:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else None


def _scores(turn: Outcome, examples: Sequence[Example]) -> dict[str, float | None]:
    """Official EM and F1 of what was answered, and F1 with the decision at margin 0, which everyone can take."""
    if not turn.said:
        return {"exact": None, "f1": None, "f1_at_0": None}
    questions = gold_from_examples(examples)
    answers: dict[str, str] = {}
    at_0: dict[str, str] = {}
    for example, (text, margin, best, _) in zip(examples, turn.said, strict=True):
        answers[example.id] = text
        at_0[example.id] = text if margin is None or best is None else best if margin <= 0 else ""
    scores = score_predictions(questions, answers).scores
    at_0_scores = score_predictions(questions, at_0).scores
    return {"exact": scores["exact"], "f1": scores["f1"], "f1_at_0": at_0_scores["f1"]}


def n_other_answers(record: Record, reference: Record) -> int | None:
    """Count the questions to which two ways say different things: text, best span, or where it starts."""
    if not (record.turns and reference.turns):
        return None
    pairs = zip(record.turns[0].said, reference.turns[0].said, strict=True)
    return sum((one[0], one[2], one[3]) != (other[0], other[2], other[3]) for one, other in pairs)


def comparison(rows: Sequence[Mapping[str, Any]], records: Sequence[Record]) -> dict[str, dict[str, Any]]:
    """Hold spanqa's fastest way against the fastest of each peer, and its answers against torch's."""
    torch = next((record for record in records if record.way.peer == "torch" and record.turns), None)
    found: dict[str, dict[str, Any]] = {}
    for peer, target in TARGETS.items():
        index = _fastest(rows, peer)
        if index is None:
            continue
        own, ratios = rows[index], {}
        for rival in RIVALS:
            best = _fastest(rows, rival)
            if best is not None:
                ratios[rival] = own["questions_per_s"] / rows[best]["questions_per_s"]
        found[peer] = {
            "times": ratios,
            "target_times": target,
            "other_answers_than_torch": n_other_answers(records[index], torch) if torch else None,
            "f1_below_torch": rows[records.index(torch)]["f1"] - own["f1"] if torch else None,
        }
    return found


def _fastest(rows: Sequence[Mapping[str, Any]], peer: str) -> int | None:
    """The row of a peer's fastest way that has figures."""
    of_peer = [index for index, row in enumerate(rows) if row["peer"] == peer and row.get("questions_per_s")]
    return max(of_peer, key=lambda index: float(rows[index]["questions_per_s"]), default=None)


def table_of(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Give the table, a row a way."""
    head = ("", "questions/s", "p50 ms", "p99 ms", "CPU ms", "MiB", "EM", "F1", "F1 at 0")
    table: list[tuple[str, ...]] = [head]
    for row in result["ways"]:
        if row.get("error"):
            table.append((_title(row), "failed", *[""] * (len(head) - 2)))
            continue
        keys = ("questions_per_s", "p50_ms", "p99_ms", "cpu_ms_a_question")
        cells = [_cell(row[key], 1) for key in keys]
        cells += [_cell(row["peak_mib"], 0), *(_cell(row[key], 2) for key in ("exact", "f1", "f1_at_0"))]
        table.append((_title(row), *cells))
    return table


def sentences_of(result: Mapping[str, Any]) -> list[str]:
    """Say what stands below the table: spanqa against the peers, the conditions, and why a peer is missing."""
    said = []
    for peer, one in result["against"].items():
        parts = [
            f"{times:.2f} times {rival} (target: {one['target_times']:g})" for rival, times in one["times"].items()
        ]
        if one["other_answers_than_torch"] is not None:
            f1 = f"F1 {0.0 - one['f1_below_torch']:+.2f}"
            others = f"{one['other_answers_than_torch']} answers differ from torch's"
            is_int8 = peer == "spanqa-int8"
            parts.append(others if is_int8 else f"{others} (target: none)")
            parts.append(f"{f1} (target: at least -{TARGET_F1:g})" if is_int8 else f1)
        said.append(f"{peer}: {', '.join(parts)}")
    said.append(
        f"{result['questions']} questions on {result['contexts']} contexts, rounds: {result['rounds']}, "
        f"{result['threads_each']} threads for everyone; medians of questions/s and of CPU time a question, most memory"
    )
    versions = {row["peer"]: row["versions"] for row in result["ways"] if row.get("versions")}
    for peer, of in versions.items():
        said.append(f"{peer}: {', '.join(f'{name} {version}' for name, version in of.items())}")
    said += [f"{row['peer']}, {row['way']}: {row['error']}" for row in result["ways"] if row.get("error")]
    return said


def _cell(value: float | None, places: int) -> str:
    return "" if value is None else f"{value:.{places}f}"


def _title(row: Mapping[str, Any]) -> str:
    title = f"{row['peer']}, {row['way']}"
    found = row.get("found")
    if isinstance(found, Mapping):
        return f"{title} ({found['n_sessions']} x {found['n_threads']} threads, batches of {found['rows']})"
    return title if found is None else f"{title} (batches of {found})"
