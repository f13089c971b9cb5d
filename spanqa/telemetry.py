"""What a model counts for Prometheus, through Triton's own metrics endpoint: cheap to count, sent on twice a second.

Every call on a metric of Triton's is a message to another process and back: 0.04 to 0.12 ms measured on two busy cores,
where adding up here takes 0.003 ms. So one thread sends on what has changed every `FLUSH_S` seconds; a scrape lags by
as much.

Triton counts who holds a metric for each process alone. Were two processes to hold one with the same labels, the first
to end would take it from under the other. So each process has a label `process` of its own, the lowest number that no
living process of that model and version has: sums add up, and one that was killed is followed by one that counts on.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from spanqa import logs
from spanqa.errors import InputError
from spanqa.guard import CancelledError, EncoderError

FLUSH_S = 0.5
MAX_PROCESSES = 64
"""Of one model and version; more are told apart by their process ids."""
Stage = Literal["tokenise", "network", "decode"]
Reason = Literal["bad_input", "queue_full", "too_old", "too_many_windows", "cancelled", "encoder_away", "internal"]
STAGES: tuple[str, ...] = get_args(Stage)
REASONS: tuple[str, ...] = get_args(Reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One metric as it is announced.

    Args:
        help: What it counts, in a sentence, with its unit.
        label: The label that it has beside model, version and process, or nothing.
        values: The values of that label.
        is_gauge: Whether it goes down too.
    """

    help: str
    label: str = ""
    values: tuple[str, ...] = ("",)
    is_gauge: bool = False


QUESTIONS = "spanqa_questions_total"
WINDOWS = "spanqa_windows_total"
NO_ANSWERS = "spanqa_no_answers_total"
TRUNCATED = "spanqa_questions_truncated_total"
TOKENS = "spanqa_tokens_total"
PADDING = "spanqa_padding_tokens_total"
SECONDS = "spanqa_stage_seconds_total"
HITS = "spanqa_tokeniser_cache_hits_total"
MISSES = "spanqa_tokeniser_cache_misses_total"
REJECTED = "spanqa_rejected_requests_total"
QUEUED = "spanqa_queued_requests"
FAMILIES: Mapping[str, Family] = {
    QUESTIONS: Family(help="Questions answered, those without an answer included"),
    NO_ANSWERS: Family(help="Questions answered with no answer"),
    TRUNCATED: Family(help="Questions answered of which the end was cut off"),
    WINDOWS: Family(help="Windows of the questions answered"),
    TOKENS: Family(help="Tokens that the network read, padding left out"),
    PADDING: Family(help="Tokens of padding that the network read"),
    SECONDS: Family(help="Seconds spent, by stage; stages of several requests overlap", label="stage", values=STAGES),
    HITS: Family(help="Texts whose tokens were found in the cache"),
    MISSES: Family(help="Texts that were tokenised"),
    REJECTED: Family(help="Requests that were not answered, by reason", label="reason", values=REASONS),
    QUEUED: Family(help="Requests that wait in the model's own queue", is_gauge=True),
}
"""Every metric, in the order of the README's table."""
Key = tuple[str, str]
"""A family's name and the value of its own label, "" where it has none."""


def reason_of(error: BaseException) -> str:
    """Give the reason under which a failed request is counted; an error may name its own as `reason`.

    Args:
        error: What ended the request.
    """
    own = getattr(error, "reason", None)
    if own in REASONS:
        return str(own)
    if isinstance(error, InputError):
        return "bad_input"
    if isinstance(error, CancelledError):
        return "cancelled"
    if isinstance(error, EncoderError) and error.outage:
        return "encoder_away"
    return "internal"


class _Number:
    """A number that no other living process of the same model, version and Triton has.

    A socket's name holds it, which the kernel gives free when the process ends, however it ends.

    Args:
        model: The model's name.
        version: Its version.
    """

    def __init__(self, model: str, version: int) -> None:
        for number in range(MAX_PROCESSES):
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                # A leading zero byte: a name without a file (unix(7), "abstract").
                self._socket.bind(f"\0spanqa_telemetry_{os.getppid()}_{model}_{version}_{number}")
            except OSError:
                self._socket.close()
            else:
                self.text = str(number)
                return
        self.text = f"pid{os.getpid()}"

    def release(self) -> None:
        """Let another process have it."""
        self._socket.close()


class Telemetry:
    """Counts for one process of one model. Every method may be called from any thread, and none raises or waits.

    It does nothing where Triton has no metrics: they are off (`--allow-metrics=false`), or `pb_utils` is too old.

    Args:
        pb_utils: Triton's module for Python models.
        model: The model's name, a label of every metric.
        version: Its version, a label too.
        flush_s: How often what was counted is sent on, in seconds.
    """

    def __init__(self, pb_utils: Any, model: str, version: int, *, flush_s: float = FLUSH_S) -> None:
        self._lock = threading.Lock()
        self._pending: dict[Key, float] = {}
        self._n_queued: Callable[[], int] = int
        self._n_queued_told = 0
        self._is_late = False
        self._number: _Number | None = None
        self._flush_s = flush_s
        self._stopping = threading.Event()
        self._families: list[Any] = []
        self._metrics: dict[Key, Any] = {}
        self.is_on = hasattr(pb_utils, "MetricFamily")
        try:
            if self.is_on:
                self._number = _Number(model, version)
                labels = {"model": model, "version": str(version), "process": self._number.text}
                self._announce(pb_utils, labels)
        except Exception as error:  # metrics are off, or another model has one of these names for another kind
            self._turn_off(error)
        self._thread = threading.Thread(target=self._run, name="spanqa-telemetry", daemon=True)
        if self.is_on:
            self._thread.start()

    def _announce(self, pb_utils: Any, labels: Mapping[str, str]) -> None:
        for name, family in FAMILIES.items():
            kind = pb_utils.MetricFamily.GAUGE if family.is_gauge else pb_utils.MetricFamily.COUNTER
            made = pb_utils.MetricFamily(name=name, description=family.help, kind=kind)
            # Kept: with the last reference to it the family would go away.
            self._families.append(made)
            for value in family.values:
                own = {family.label: value} if family.label else {}
                self._metrics[name, value] = made.Metric(labels={**labels, **own})
        # A process that was killed under this number may have left a number.
        self._metrics[QUEUED, ""].set(0)

    def answered(self, n_questions: int, n_windows: int, n_no_answer: int, n_truncated: int) -> None:
        """Count questions that were answered, their windows, those without an answer and those that were cut off."""
        self._add(
            ((QUESTIONS, ""), n_questions),
            ((WINDOWS, ""), n_windows),
            ((NO_ANSWERS, ""), n_no_answer),
            ((TRUNCATED, ""), n_truncated),
        )

    def encoded(self, n_tokens: int, n_padding: int) -> None:
        """Count what the network read: tokens of windows, and padding beside them."""
        self._add(((TOKENS, ""), n_tokens), ((PADDING, ""), n_padding))

    def spent(self, stage: Stage, seconds: float) -> None:
        """Count time, in seconds, spent in a stage."""
        self._add(((SECONDS, stage), seconds))

    def cache(self, hits: int, misses: int) -> None:
        """Count texts found in the tokeniser's cache, and those that were not."""
        self._add(((HITS, ""), hits), ((MISSES, ""), misses))

    def rejected(self, reason: str) -> None:
        """Count a request that was not answered; a reason that is not in `REASONS` counts as `internal`."""
        self._add(((REJECTED, reason if reason in REASONS else "internal"), 1))

    def watch_queue(self, n_requests: Callable[[], int]) -> None:
        """Have it asked, each time that the counts are sent on, how many requests wait in the model's own queue."""
        self._n_queued = n_requests

    def close(self) -> None:
        """Send on what is left and take this process's metrics away: a version that is gone must not be seen."""
        self._stopping.set()
        if self._thread.ident:
            self._thread.join()
        self._metrics.clear()
        self._families.clear()
        if self._number:
            self._number.release()
        self.is_on = False

    def _add(self, *amounts: tuple[Key, float]) -> None:
        if self.is_on:
            with self._lock:
                for key, amount in amounts:
                    if amount:
                        self._pending[key] = self._pending.get(key, 0) + amount

    def _run(self) -> None:
        while self.is_on:
            is_last = self._stopping.wait(self._flush_s)
            try:
                self._flush()
                self._is_late = False
            except Exception as error:  # a question must never fail for what counts it, nor a count for full memory
                if not self._is_late:
                    logs.write("warning", "metrics_late", f"metrics are late: {' '.join(str(error).split())}")
                self._is_late = True
            if is_last:
                return

    def _flush(self) -> None:
        n_queued = self._n_queued()
        if n_queued != self._n_queued_told:  # first: whoever stops the server goes by it
            self._metrics[QUEUED, ""].set(n_queued)
            self._n_queued_told = n_queued
        with self._lock:
            pending, self._pending = self._pending, {}
        try:
            while pending:
                key, amount = next(iter(pending.items()))
                self._metrics[key].increment(amount)
                del pending[key]
        finally:
            self._add(*pending.items())

    def _turn_off(self, error: Exception) -> None:
        self.is_on = False
        self._metrics.clear()
        self._families.clear()
        logs.write("warning", "metrics_off", f"no metrics: {' '.join(str(error).split())}")
