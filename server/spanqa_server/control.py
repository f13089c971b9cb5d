"""Talking to Triton over gRPC: is it ready, does it answer, load and unload a model."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from spanqa import contract
from spanqa.telemetry import QUEUED, TOKENS
from spanqa_server.errors import ServerLostError
from spanqa_server.metrics import metric_lines, metric_of
from spanqa_server.trust import Trust

CANARY_QUESTION = "Where does the ferry leave from?"
CANARY_CONTEXT = "The ferry to the island leaves from the old harbour every morning."
CALL_TIMEOUT_S = 5.0
LOAD_TIMEOUT_S = 60.0
RELOAD_S = 10.0
STARTS = 4
"""What loading a model again may take: as long as so many starts of all models, and at least that many seconds."""
POLL_S = 0.05
BUSY = ("DEADLINE_EXCEEDED", "UNAVAILABLE", "RESOURCE_EXHAUSTED")
"""What a server that has too much to do, and one that is broken, may both say."""
PENDING = "nv_inference_pending_request_count"
"""Triton's own metric: requests that wait for an instance of a model."""
CHANNEL_OPTIONS = [
    # A proxy of the environment has no business between two processes of one machine.
    ("grpc.enable_http_proxy", 0),
    # While Triton starts nothing listens; gRPC would wait ever longer between its attempts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryAnswer:
    """What came of one canary.

    Args:
        problem: What went wrong, or None where the question was answered.
        may_be_busy: Whether a server with too much to do would have said the same.
    """

    problem: str | None
    may_be_busy: bool


def _tensor(tensor: contract.Tensor, value: Any, dtype: Any) -> Any:
    array = np.full((1, 1), value, dtype=dtype)
    infer_input = grpc_client.InferInput(tensor.name, array.shape, tensor.dtype)
    infer_input.set_data_from_numpy(array)
    return infer_input


def canary_inputs() -> list[Any]:
    """Return the canary's inputs: those that models of every spanqa take."""
    return [
        _tensor(contract.QUESTION, CANARY_QUESTION.encode(), np.object_),
        _tensor(contract.CONTEXT, CANARY_CONTEXT.encode(), np.object_),
    ]


class Control:
    """A connection to one Triton, with the right to load and unload its models.

    Args:
        url: Host and port of the gRPC endpoint.
        headers: What Triton asks of whoever administers it.
        stopping: Set when the server is to stop: no load is waited for any longer.
        metrics_url: Host and port of the metrics endpoint.
        trust: How TLS is spoken; None for a server without.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        stopping: threading.Event,
        metrics_url: str,
        trust: Trust | None = None,
    ) -> None:
        self._metrics_url = f"http://{metrics_url}/metrics"
        self._client = grpc_client.InferenceServerClient(
            url,
            creds=trust.credentials() if trust else None,
            channel_args=[*CHANNEL_OPTIONS, *(trust.options() if trust else ())],
        )
        self._headers = dict(headers)
        self._stopping = stopping
        self._load = threading.Thread()
        self._reload_s = LOAD_TIMEOUT_S

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def is_ready(self) -> bool:
        """Say whether Triton answers and has every model ready."""
        try:
            return bool(self._client.is_server_ready(client_timeout=CALL_TIMEOUT_S))
        except InferenceServerException:
            return False

    def ask_canary(self, timeout_s: float) -> CanaryAnswer:
        """Ask the canary question, waiting `timeout_s` at most."""
        try:
            result = self._client.infer(
                contract.QUESTION_ANSWERING, canary_inputs(), headers=self._headers, client_timeout=timeout_s
            )
        except InferenceServerException as error:
            return CanaryAnswer(
                problem=" ".join(str(error).split()), may_be_busy=any(mark in str(error.status()) for mark in BUSY)
            )
        problem = "an answer without outputs" if result.as_numpy(contract.ANSWER.name) is None else None
        return CanaryAnswer(problem=problem, may_be_busy=False)

    def n_answered(self, timeout_s: float = CALL_TIMEOUT_S) -> dict[str, int]:
        """Return how many requests each model has answered since it was loaded; empty where Triton does not say."""
        try:
            statistics = self._client.get_inference_statistics(client_timeout=min(timeout_s, CALL_TIMEOUT_S))
        except InferenceServerException:
            return {}
        return {model.name: model.inference_stats.success.count for model in statistics.model_stats}

    def n_tokens_read(self) -> int:
        """Return how many tokens the network has read, as the main entry counts them; 0 where nothing says so."""
        return metric_of(TOKENS, metric_lines(self._metrics_url)) or 0

    def has_all_answered(self) -> bool:
        """Say whether the main entry counts nothing that waits, nor Triton before it; no where nothing says so."""
        lines = metric_lines(self._metrics_url)
        return metric_of(QUEUED, lines) == 0 and metric_of(PENDING, lines) == 0

    def has_every_endpoint(self) -> bool:
        """Say whether Triton has opened all its endpoints: that of the metrics is the last."""
        return any(line.startswith(PENDING) for line in metric_lines(self._metrics_url))

    def states(self) -> dict[tuple[str, int], str]:
        """Return the state, such as READY or UNLOADING, of each version of each model; version 0 where it has none.

        Raises:
            ServerLostError: If Triton does not say.
        """
        try:
            index = self._client.get_model_repository_index(headers=self._headers, client_timeout=CALL_TIMEOUT_S)
        except InferenceServerException as error:
            raise ServerLostError(f"Triton does not say how its models are: {error}") from error
        return {(model.name, int(model.version or 0)): model.state for model in index.models}

    @property
    def is_loading(self) -> bool:
        """Whether a load is still under way, which then was given up."""
        return self._load.is_alive()

    def check_goes_on(self) -> None:
        """Do nothing, unless the server is to stop.

        Raises:
            ServerLostError: If it is.
        """
        if self._stopping.is_set():
            raise ServerLostError("the server is asked to stop")

    def unload(self, model: str) -> None:
        """Let a model answer what it has accepted and accept nothing more; returns at once.

        Raises:
            ServerLostError: If Triton refuses, or does not answer.
        """
        try:
            self._client.unload_model(model, headers=self._headers, client_timeout=CALL_TIMEOUT_S)
        except InferenceServerException as error:
            raise ServerLostError(f"Triton does not unload the model {model!r}: {error}") from error

    def reload(self, model: str) -> float:
        """Replace a model by a fresh load of it.

        The old one is not waited for: where its Python process was killed amid a request, Triton never counts that
        request as finished, so the old one stays "unloading" for ever, while the new one answers within a second.

        Returns:
            How long it took, in seconds.

        Raises:
            ServerLostError: If Triton refuses, or does not answer.
        """
        start = time.monotonic()
        self.unload(model)
        self.load(model, timeout_s=self._reload_s)
        return time.monotonic() - start

    def expect(self, start_s: float) -> None:
        """Take what all models needed to start, in seconds, as what one may need when it is loaded again."""
        self._reload_s = max(RELOAD_S, STARTS * start_s)

    def load(self, model: str, *, config_json: str | None = None, timeout_s: float = LOAD_TIMEOUT_S) -> None:
        """Load a model as it lies on disk; what answers now answers until the load is complete, or if it fails.

        Args:
            model: The model.
            config_json: A configuration instead of that on disk.
            timeout_s: How long it may take, in seconds.

        Raises:
            ServerLostError: If Triton cannot, or does not answer, or the server is to stop.
        """
        failures: list[Exception] = []

        def load() -> None:
            try:
                self._client.load_model(model, headers=self._headers, config=config_json, client_timeout=timeout_s)
            except Exception as error:  # whatever it is, whoever waits must hear of it
                failures.append(error)

        # Not in the supervisor's own thread: a model that hangs while it loads must not hold up a stop.
        self._load = threading.Thread(target=load, name="spanqa-load", daemon=True)
        self._load.start()
        while self._load.is_alive():
            self.check_goes_on()
            self._load.join(POLL_S)
        for error in failures:
            raise ServerLostError(
                f"Triton does not load the model {model!r}: {' '.join(str(error).split())}"
            ) from error
