"""From logits to scores: how likely there is an answer, and how likely a span is the one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spanqa.errors import SettingsError

_LARGEST = 700.0
"""exp of more is no float64."""


@dataclass(frozen=True, slots=True)
class ScoreScale:
    """How a model's scores are made of its logits.

    A span's score is its share among the spans, of the softmax of logits / temperature, times the probability that
    there is an answer. That probability is 1 / (1 + exp(slope * margin - offset)) of the no-answer margin (Platt 1999),
    where slope and offset were fitted so that the best span's score says how often it is right; the scores behind it
    are shares beside it, and say no such thing. Where they were not, "no answer" takes part in the softmax as one more
    span. Either way the scores of all spans and of "no answer" add up to 1.

    Args:
        temperature: Divides the logits.
        slope: Of the log-odds of an answer over the margin; None where they are not fitted.
        offset: Log-odds of an answer at margin 0, where they are fitted.

    Raises:
        SettingsError: One of them is no finite number, temperature is not above 0, or slope below it.
    """

    temperature: float = 1.0
    slope: float | None = None
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not math.isfinite(self.temperature):
            raise SettingsError(f"temperature is {self.temperature}: give a number above 0")
        if self.slope is not None and not (self.slope >= 0 and math.isfinite(self.slope)):
            raise SettingsError(f"answer_slope is {self.slope}: give a number of at least 0, or none")
        if not math.isfinite(self.offset):
            raise SettingsError(f"answer_offset is {self.offset}: give a finite number")

    def __str__(self) -> str:
        fitted = "" if self.slope is None else f", slope {self.slope:.3g}, offset {self.offset:.3g}"
        return f"T {self.temperature:.3g}{fitted}"

    def as_settings(self) -> dict[str, float]:
        """Give it as the settings of a file: a temperature alone where no more is fitted, as older files have it."""
        fitted = {} if self.slope is None else {"answer_slope": self.slope, "answer_offset": self.offset}
        return {"temperature": self.temperature, **fitted}

    def answer_probability(self, margin: float, mass: float) -> float:
        """How likely there is an answer.

        Args:
            margin: Null score minus the best span's.
            mass: The sum of exp((S - S of the best) / temperature) over all spans; 0 where there is none.
        """
        if self.slope is None:
            log_odds = math.log(mass) - margin / self.temperature if mass else -_LARGEST
        else:
            log_odds = self.offset - self.slope * margin
        return 1 / (1 + math.exp(min(-log_odds, _LARGEST)))
