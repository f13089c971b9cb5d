"""Answering with a model repository's own network, in this process, as its server does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spanqa import contract
from spanqa.answering import MANY_WINDOWS
from spanqa.cpu_network import load_network, network_path
from spanqa.errors import InputError, LogitsError, SpanqaError
from spanqa.jobs import Job
from spanqa.limits import CONFIG_FILE, Limits, limits_from_config
from spanqa.manifest import MANIFEST_FILE, Manifest, load_manifest, load_served_tokenizer
from spanqa.memory import release_free_memory
from spanqa.pieces_cache import PiecesCache
from spanqa.spans import Decoded
from spanqa.startup import check_served, sha256_of, versions_in
from spanqa.tokenization import Pieces
from spanqa.windows import WindowMaker, batch_windows
from spanqa.wire import Question, read_questions, response_tensors
from spanqa_client.answer import Answer, Span
from spanqa_client.batch.rows import Row, Settled, chunked
from spanqa_client.options import Options, utf8_from_text
from spanqa_client.wire import raw_options

_TOKENISED_TOGETHER = 32
_DTYPES: dict[str, Any] = {"INT32": np.int32, "FP32": np.float32, "BOOL": np.bool_}


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPlan:
    """Answering with a repository's network.

    Args:
        repository: The repository's folder.
        version: The version.
        limits: What its server would take on.
        options: How questions are to be answered.
        n_threads: Threads of the network.
    """

    repository: str
    version: int
    limits: Limits
    options: Options
    n_threads: int

    def open(self) -> NetworkAsker:
        """Load the network.

        Raises:
            SpanqaError: It cannot be loaded.
        """
        return NetworkAsker(self)

    def fingerprint(self) -> dict[str, Any]:
        """Say which model it is: its manifest names every file by its content."""
        folder = Path(self.repository) / contract.QUESTION_ANSWERING / str(self.version)
        return {"versions": [str(self.version)], "manifest": sha256_of(folder / MANIFEST_FILE)}


def plan_network(repository: Path, options: Options, *, n_threads: int) -> NetworkPlan:
    """Look at a repository, and plan to answer with its newest network.

    Args:
        repository: The repository's folder.
        options: How questions are to be answered.
        n_threads: Threads of the network.

    Raises:
        SpanqaError: There is none, it is damaged, or it is made for GPUs.
    """
    folder = repository.resolve() / contract.QUESTION_ANSWERING
    versions = versions_in(folder)
    if not versions:
        raise InputError(
            f"{repository}: no model repository: name the folder that `spanqa build` wrote, or ask a server with --url"
        )
    manifest = load_manifest(folder / str(versions[-1]))
    if manifest.engine is not None or manifest.packing.buckets:
        raise SpanqaError(
            f"{repository}: made for {manifest.target}, and worker processes run networks for CPUs alone: serve it with"
            " `spanqa serve`, and ask that server with --url"
        )
    check_served(folder.parent, versions[-1], manifest)
    return NetworkPlan(
        repository=str(folder.parent),
        version=versions[-1],
        limits=_limits(folder / CONFIG_FILE, manifest),
        options=options,
        n_threads=n_threads,
    )


class NetworkAsker:
    """Runs a repository's network: one unpadded window a run, as its server does, so that answers are the same.

    Args:
        plan: Which network, and how.

    Raises:
        SpanqaError: It cannot be loaded.
    """

    def __init__(self, plan: NetworkPlan) -> None:
        # A text is tokenised in a millisecond: on all cores it would only take them from the other processes.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        repository = Path(plan.repository)
        self._manifest, tokenizer = load_served_tokenizer(repository / contract.QUESTION_ANSWERING / str(plan.version))
        path = network_path(repository, plan.version, self._manifest)
        try:
            self._network = load_network(path, n_threads=plan.n_threads)
        except ModuleNotFoundError as error:
            raise SpanqaError(
                f"{path} runs in {error.name}, which is not installed: pip install 'spanqa[serve]'"
            ) from error
        self._limits, self._version = plan.limits, str(plan.version)
        self._maker = WindowMaker(tokenizer, self._manifest.windows)
        self._cache = PiecesCache(tokenizer.pieces_of_many, limit_bytes=plan.limits.tokenizer_cache_bytes)
        # As they would come over the wire: a threshold is a float32 there.
        self._options = {
            tensor.name: np.frombuffer(raw, _DTYPES[tensor.dtype]).reshape(1, 1)
            for tensor, raw in raw_options(plan.options)
        }

    def ask(self, rows: Iterable[Row]) -> Iterator[Settled]:
        """Settle rows, in their order."""
        for together in chunked(rows, _TOKENISED_TOGETHER):
            yield from self._settled(together)

    def close(self) -> None:
        """Nothing is held that does not end with the process."""

    def _settled(self, rows: list[Row]) -> Iterator[Settled]:
        questions: dict[int, Question | SpanqaError] = {row.number: self._question(row) for row in rows}
        read = [question for question in questions.values() if isinstance(question, Question)]
        pieces = self._cache.pieces((one.context for one in read), (one.question for one in read))
        for row in rows:
            question = questions[row.number]
            outcome = question if isinstance(question, SpanqaError) else self._outcome(question, pieces)
            if isinstance(outcome, Answer):
                yield Settled(row.number, row.id, outcome.to_dict())
            else:
                yield Settled(row.number, row.id, reason=_said(outcome))

    def _question(self, row: Row) -> Question | SpanqaError:
        try:
            texts = {
                contract.QUESTION.name: _text_tensor(utf8_from_text("question", row.question)),
                contract.CONTEXT.name: _text_tensor(utf8_from_text("context", row.context)),
            }
            (question,) = read_questions(texts | self._options, self._manifest, self._limits.max_context_bytes)
        except InputError as error:
            return error
        return question

    def _outcome(self, question: Question, pieces: Mapping[str, Pieces]) -> Answer | Exception:
        """The answer of one question, or what went wrong with it."""
        outcomes: list[list[Decoded] | Exception] = []
        job = Job(
            [question],
            lambda _, outcome: outcomes.append(outcome),
            is_long=False,
            is_cancelled=lambda: False,
            arrived=0.0,
        )
        try:
            job.cut(self._maker, pieces, self._limits)
            self._run(job)
            (decoded,) = outcomes
            if isinstance(decoded, Exception):
                return decoded
            threshold, truncated = question.options.no_answer_threshold, job.windows[0].question_truncated
            return answer_from_tensors(response_tensors(decoded, [threshold], [truncated]), self._version)
        except Exception as error:  # every fault is told of its own row, and the others are answered
            return error
        finally:
            if job.n_windows > MANY_WINDOWS:
                job.windows.clear()
                release_free_memory()

    def _run(self, job: Job) -> None:
        for unit in job.units():
            batch = batch_windows([(job.windows[0], unit.window)])
            start_logits, end_logits = self._network.run(batch)
            if start_logits.shape != batch.input_ids.shape or end_logits.shape != batch.input_ids.shape:
                raise LogitsError(
                    f"the network answered {batch.input_ids.shape} tokens with logits of shape {start_logits.shape} "
                    f"and {end_logits.shape}: it is not the one the repository was built with"
                )
            if job.fill(unit, start_logits[0], end_logits[0]):
                job.answer(self._manifest)


def answer_from_tensors(tensors: Mapping[str, NDArray[Any]], version: str) -> Answer:
    """Make the answer of the one row of a response.

    Args:
        tensors: Output arrays by name, of one row.
        version: The version of the model that answered.
    """
    names = (contract.ANSWER, contract.SCORE, contract.CHAR_START, contract.CHAR_END, contract.LOGIT)
    columns = (tensors[tensor.name][0].tolist() for tensor in names)
    return Answer(
        has_answer=bool(tensors[contract.HAS_ANSWER.name][0, 0]),
        no_answer_margin=float(tensors[contract.NO_ANSWER_MARGIN.name][0, 0]),
        no_answer_score=float(tensors[contract.NO_ANSWER_SCORE.name][0, 0]),
        question_truncated=bool(tensors[contract.QUESTION_TRUNCATED.name][0, 0]),
        spans=tuple(
            Span(text=text.decode(), score=score, char_start=start, char_end=end, logit=logit)
            for text, score, start, end, logit in zip(*columns, strict=True)
        ),
        model_version=version,
    )


def _text_tensor(text: bytes) -> NDArray[Any]:
    return np.array([[text]], dtype=np.object_)


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, SpanqaError) else f"an unexpected error: {error!r}"


def _limits(config: Path, manifest: Manifest) -> Limits:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        read = text_format.Parse(config.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise SpanqaError(f"{config}: not a Triton model configuration: {error}: build the repository again") from error
    parameters = {name: {"string_value": value.string_value} for name, value in read.parameters.items()}
    return limits_from_config(json.dumps({"parameters": parameters}), manifest)
