"""A run: every level in every round, with what the server says of it."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from tritonclient.grpc import service_pb2

from spanqa.errors import InputError
from spanqa.squad import Example
from spanqa_client.bench.breakdown import Snapshot, model_snapshot, stage_snapshot, stages_between, times_between
from spanqa_client.bench.generator import Generator
from spanqa_client.bench.load import Load
from spanqa_client.bench.measurement import Level, Measurement, Round, measurement_from_rounds
from spanqa_client.bench.perf_analyzer import N_WINDOWS, input_data_from_examples, measure
from spanqa_client.options import Options, utf8_from_text
from spanqa_client.wire import request_from_question

_METRICS_DELAY_S = 0.6
"""The server's own metrics are up to half a second late."""
_MOST_WARMING = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, and how often.

    Args:
        load: The server, the model and the length of a window.
        levels: How hard the server is pressed.
        n_rounds: How often each level is measured: all levels in turn, then all again.
        warm_up_s: For how long questions are asked before.
        timeout_s: For one question of an open loop.
        metrics_url: Triton's metrics endpoint; None leaves the stages out.
    """

    load: Load
    levels: tuple[Level, ...]
    n_rounds: int
    warm_up_s: float
    timeout_s: float
    metrics_url: str | None

    def __post_init__(self) -> None:
        if self.n_rounds < 1 or self.warm_up_s < 0 or not self.load.window_s > 0:
            raise InputError(
                f"got --rounds {self.n_rounds}, --window-s {self.load.window_s:g} and --warm-up-s {self.warm_up_s:g}: "
                "rounds begin at 1, a window is longer than 0, and a warm-up not shorter"
            )


def requests_from_examples(
    model_name: str, examples: Sequence[Example], options: Options
) -> list[service_pb2.ModelInferRequest]:
    """Give the requests that our own client would send."""
    return [
        request_from_question(
            model_name, utf8_from_text("question", one.question), utf8_from_text("context", one.context), options
        )
        for one in examples
    ]


def requests_sha256(examples: Sequence[Example], options: Options) -> str:
    """Give what two runs must have in common: a hash of all that is asked, and how."""
    return hashlib.sha256(input_data_from_examples(examples, options).encode()).hexdigest()


def measure_levels(
    plan: Plan, examples: Sequence[Example], options: Options, *, tell: Callable[[Level], None]
) -> list[Measurement]:
    """Measure every level in every round.

    Rounds take turns, so that what changes with time widens the spread of each level, and not the distance between two.

    Args:
        plan: What is measured.
        examples: The questions.
        options: How they are to be answered.
        tell: Called after each level of each round.

    Raises:
        BenchError: perf_analyzer could not measure, or nothing was answered.
        ClientError: The server does not tell the model's version.
        InputError: The metrics cannot be read.
    """
    requests = requests_from_examples(plan.load.model_name, examples, options)
    input_data = input_data_from_examples(examples, options)
    rounds: dict[Level, list[Round]] = {level: [] for level in plan.levels}
    with Generator(plan.load, requests, timeout_s=plan.timeout_s) as generator:
        _warm_up(generator, plan)
        watch = _Watch(generator, plan)
        for number in range(plan.n_rounds):
            for level in plan.levels:
                if level.rate is None:
                    one = measure(plan.load, input_data, level.concurrency or 1)
                else:
                    # Each round has moments of its own, the same in every run: what two runs are compared by.
                    one = generator.open_loop(level.rate, N_WINDOWS * plan.load.window_s, seed=number)
                rounds[level].append(watch.completed(one))
                tell(level)
    return [measurement_from_rounds(level, found) for level, found in rounds.items()]


def _warm_up(generator: Generator, plan: Plan) -> None:
    if plan.warm_up_s:
        most = max(level.concurrency or 1 for level in plan.levels)
        generator.closed_loop(min(most, _MOST_WARMING), threading.Event(), duration_s=plan.warm_up_s)
        generator.wait(plan.timeout_s)
        generator.take()


class _Watch:
    """Completes rounds with what the server counted since the last one."""

    def __init__(self, generator: Generator, plan: Plan) -> None:
        self._stub, self._model, self._metrics_url = generator.stub, plan.load.model_name, plan.metrics_url
        self._models, self._stages = self._look()

    def completed(self, one: Round) -> Round:
        models, stages = self._look()
        found = replace(
            one,
            models=times_between(self._models, models),
            stages=stages_between(self._stages, stages) if self._stages and stages else None,
        )
        self._models, self._stages = models, stages
        return found

    def _look(self) -> tuple[Snapshot, dict[str, float]]:
        if self._metrics_url is None:
            return model_snapshot(self._stub), {}
        time.sleep(_METRICS_DELAY_S)
        return model_snapshot(self._stub), stage_snapshot(self._metrics_url, self._model)
