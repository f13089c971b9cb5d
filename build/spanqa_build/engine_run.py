"""Running TensorRT engines: one call, its median time, and several engines as one network."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spanqa.contract import ATTENTION_MASK, ENCODER_INPUTS, END_LOGITS, INPUT_IDS, START_LOGITS, TOKEN_TYPE_IDS
from spanqa.windows import Batch
from spanqa_build.errors import EngineError

if TYPE_CHECKING:
    from polygraphy.backend.trt import TrtRunner

    from spanqa_training.inference.evaluation import Logits, Network

N_CALLS = 50
_WARM_UP_CALLS = 10
_LOGGED_ERRORS = tuple(
    re.compile(rf"\[E\]\s*({words}[^\x1b\n]+)") for words in (r"[^\x1b\n]*Error Code \d", r"In node \d", "")
)
"""What TensorRT logs of an error: the builder's reason, else the parser's sentence about a node, else the first."""


def time_engine(engine: Path, length: int, batches: Sequence[int], *, n_calls: int = N_CALLS) -> dict[int, float]:
    """Time an engine with the transfers to the GPU and back, one call at a time.

    Args:
        engine: Its file.
        length: Its tokens of a window.
        batches: Windows of a call, each to be timed.
        n_calls: Calls of each.

    Returns:
        The median time of a call in milliseconds, by batch.

    Raises:
        EngineError: The engine cannot be read or run.
    """
    with running_engine(_read(engine), engine) as runner:
        return {n_rows: latency_ms(runner, length, n_rows, n_calls) for n_rows in batches}


@contextmanager
def network_from_engines(engines: Mapping[int, Path], *, largest_batch: int) -> Iterator[Network]:
    """Load engines as one network: each batch goes to the shortest that holds it.

    Args:
        engines: Files by their length in tokens.
        largest_batch: Most windows of a call of theirs; larger batches are cut.

    Yields:
        A network that any number of threads may call, one batch at a time, until the context ends.

    Raises:
        EngineError: An engine cannot be read or run, or none holds a batch.
    """
    lock = threading.Lock()
    with ExitStack() as stack:
        runners = {length: stack.enter_context(running_engine(_read(file), file)) for length, file in engines.items()}

        def network(batch: Batch) -> Logits:
            n_rows, n_tokens = batch.input_ids.shape
            length = min((length for length in runners if length >= n_tokens), default=None)
            if length is None:
                raise EngineError(
                    f"a window of {n_tokens} tokens is longer than every engine (up to {max(runners, default=0)}):"
                    " build one for it, or lower max_seq_length"
                )
            with lock:
                parts = [
                    _infer(runners[length], _feed(batch, slice(first, first + largest_batch), length))
                    for first in range(0, n_rows, largest_batch)
                ]
            start, end = (np.concatenate(logits)[:, :n_tokens] for logits in zip(*parts, strict=True))
            return start, end

        yield network


@contextmanager
def running_engine(plan: bytes, file: Path) -> Iterator[TrtRunner]:
    """Load an engine and give it an execution context.

    Args:
        plan: The engine.
        file: Where it is or will be, for messages.

    Raises:
        EngineError: TensorRT cannot load it.
    """
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner

    runner = TrtRunner(engine=EngineFromBytes(serialized_engine=plan))
    with one_line_errors(f"{file}: TensorRT cannot load the engine", "build it again on this GPU with this TensorRT"):
        runner.activate()
    try:
        yield runner
    finally:
        runner.deactivate()


def latency_ms(runner: TrtRunner, length: int, n_rows: int, n_calls: int = N_CALLS) -> float:
    """Give the median time of a call in milliseconds; arguments as in `time_engine`.

    Raises:
        EngineError: The engine cannot run.
    """
    # Which tokens they are makes no difference, but every model has a token 1 and a type 1.
    feed = {tensor.name: np.ones((n_rows, length), dtype=np.int32) for tensor in ENCODER_INPUTS}
    times_s = []
    for _ in range(_WARM_UP_CALLS + n_calls):
        _infer(runner, feed)
        times_s.append(runner.last_inference_time())
    return 1000 * float(np.median(times_s[_WARM_UP_CALLS:]))


@contextmanager
def one_line_errors(what: str, remedy: str) -> Iterator[None]:
    """Keep what Polygraphy prints off the console, and put the first error of it into one line.

    Args:
        what: What failed, and of which file.
        remedy: What to do about it.

    Raises:
        EngineError: What is done in the context fails.
    """
    from polygraphy.exception import PolygraphyException

    printed = io.StringIO()
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            yield
    except (PolygraphyException, RuntimeError, OSError) as error:
        found = (pattern.search(printed.getvalue()) for pattern in _LOGGED_ERRORS)
        logged = next((match for match in found if match), None)
        cause = " ".join((logged.group(1) if logged else str(error)).split())
        raise EngineError(f"{what}: {cause}: {remedy}") from error


def _infer(runner: TrtRunner, feed: Mapping[str, NDArray[np.int32]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with one_line_errors("the engine cannot run", "free GPU memory, or build it again"):
        outputs = runner.infer(feed_dict=feed)
    # The runner writes its next outputs into the same memory.
    start, end = (np.array(outputs[tensor.name], dtype=np.float32) for tensor in (START_LOGITS, END_LOGITS))
    return start, end


def _feed(batch: Batch, rows: slice, length: int) -> dict[str, NDArray[np.int32]]:
    """Cut rows out of a batch and pad them to `length` tokens."""
    arrays = {
        INPUT_IDS.name: batch.input_ids,
        ATTENTION_MASK.name: batch.attention_mask,
        TOKEN_TYPE_IDS.name: batch.token_type_ids,
    }
    padding = ((0, 0), (0, length - batch.input_ids.shape[1]))
    return {name: np.pad(array[rows], padding) for name, array in arrays.items()}


def _read(engine: Path) -> bytes:
    try:
        return engine.read_bytes()
    except OSError as error:
        raise EngineError(f"{engine}: cannot be read: {error.strerror}: build it") from error
