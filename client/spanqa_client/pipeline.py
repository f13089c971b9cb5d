"""The question-answering pipeline that Hugging Face's transformers had until 5.2, answered by a server.

    from spanqa_client.pipeline import pipeline

    ask = pipeline("question-answering", "localhost:8001")
    ask(question="Where do cats live?", context="Cats live in Paris.")
    # {"score": ..., "start": 13, "end": 18, "answer": "Paris"}

What differs: the server's model answers, whatever `model` says; a score is the span's probability over the whole text,
where that pipeline's was summed over windows and equal texts; max_answer_len counts the word pieces of that model, and
its default is the model's own (30, as a rule) where there it was 15; no span is widened to words, since spans of ours
begin and end there.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from spanqa.contract import MAX_TOP_N
from spanqa.errors import InputError
from spanqa_client.answer import Answer
from spanqa_client.client import DEFAULT_CONCURRENCY, DEFAULT_TIMEOUT_S, DEFAULT_URL, QAClient
from spanqa_client.natural_query import null_score
from spanqa_client.security import ConnectionSettings

TASK = "question-answering"
_OF_THE_MODEL = "is the served model's own, set when it is built"
_OF_THE_SERVER = "is the server's own: it has the model, and decides where and how it runs"
_IGNORED = {
    **dict.fromkeys(("doc_stride", "max_seq_len", "max_question_len"), _OF_THE_MODEL),
    "align_to_words": "has no meaning here: spans begin and end at words, as the served model says",
    "padding": "has no meaning here: nothing is padded",
    **dict.fromkeys(
        ("model", "tokenizer", "config", "framework", "revision", "use_fast", "device", "device_map", "torch_dtype"),
        _OF_THE_SERVER,
    ),
    **dict.fromkeys(("dtype", "model_kwargs", "trust_remote_code", "batch_size", "num_workers"), _OF_THE_SERVER),
    **dict.fromkeys(("feature_extractor", "modelcard", "processor", "token", "use_auth_token"), _OF_THE_SERVER),
}
"""Options of the old pipeline that mean nothing here, and why."""


def pipeline(task: str, url: str | Sequence[str] = DEFAULT_URL, **options: Any) -> QuestionAnsweringPipeline:
    """Make what transformers' `pipeline("question-answering")` made.

    Args:
        task: "question-answering".
        url: The server, as in `QAClient`.
        options: The arguments of `QuestionAnsweringPipeline`.

    Raises:
        InputError: The task is another one, or the address is none, such as the name of a model.
    """
    if task != TASK:
        raise InputError(f"the task is {task!r}: this pipeline does {TASK!r} alone")
    return QuestionAnsweringPipeline(url, **options)


class QuestionAnsweringPipeline:
    """Answers as that pipeline did; a context manager, safe to use from several threads.

    Args:
        url: The server, as in `QAClient`.
        connection: TLS, a token and the like, as there.
        concurrency: Questions of a list in flight.
        timeout_s: For each question.
        defaults: Options of the calls, for all of them; what of the old pipeline's means nothing here is told in a
            warning each, and ignored.

    Raises:
        InputError: An option is unknown, or the address is none.
    """

    task = TASK

    def __init__(
        self,
        url: str | Sequence[str] = DEFAULT_URL,
        *,
        connection: ConnectionSettings | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        **defaults: Any,
    ) -> None:
        self._defaults = _meant(defaults, stacklevel=4)
        self._concurrency, self._timeout_s = concurrency, timeout_s
        self._client = QAClient(url, connection=connection)

    def __enter__(self) -> QuestionAnsweringPipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __call__(self, *inputs: Any, question: Any = None, context: Any = None, **options: Any) -> Any:
        """Answer one question or several.

        Args:
            inputs: A mapping with question and context, a list of such, or several of them.
            question: A question, or a list of them.
            context: Its context, the one of all, or a list of as many.
            options: top_k, the most answers of a question (1); handle_impossible_answer, whether "" is one of them
                (False); max_answer_len, the longest in word pieces (the model's own).

        Returns:
            `{"score", "start", "end", "answer"}`; a list of them, best first, for a top_k above 1; a list of either
            for several questions; a list of one question counts as one.

        Raises:
            InputError: Something of it cannot be sent.
            ClientError: The server cannot be reached, refused or failed.
        """
        asked = {"top_k": 1, "handle_impossible_answer": False, "max_answer_len": None, **self._defaults}
        asked |= _meant(options, stacklevel=3)
        top_k, impossible = asked["top_k"], asked["handle_impossible_answer"]
        if type(top_k) is not int or not 1 <= top_k <= MAX_TOP_N:
            raise InputError(f"top_k is {top_k!r}: give a whole number from 1 to {MAX_TOP_N}")
        pairs, is_one = _pairs(inputs, question, context)
        answers = self._client.ask_many(
            pairs,
            concurrency=min(self._concurrency, max(len(pairs), 1)),
            # With an older server the score of "no answer" needs two, as `null_score` says.
            top_n=max(top_k, 2),
            max_answer_tokens=asked["max_answer_len"],
            timeout_s=self._timeout_s,
        )
        found = [_results(answer, impossible)[:top_k] for answer in answers]
        shaped = [results[0] if top_k == 1 else results for results in found]
        return shaped[0] if is_one else shaped


def _results(answer: Answer, handle_impossible_answer: bool) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = [
        {"score": span.score, "start": span.char_start, "end": span.char_end, "answer": span.text}
        for span in answer.spans
    ]
    null: dict[str, Any] = {"score": null_score(answer), "start": 0, "end": 0, "answer": ""}
    if not results:
        return [null]
    if handle_impossible_answer:
        # The model's threshold says whether there is an answer; only behind the first place do scores decide.
        first = answer.has_answer
        place = next((at for at, one in enumerate(results) if at >= first and one["score"] < null["score"]), None)
        results.insert(0 if not first else len(results) if place is None else place, null)
    return results


def _meant(options: Mapping[str, Any], *, stacklevel: int) -> dict[str, Any]:
    """The options that mean something here; of the others each is told in a warning, or refused where it is unknown."""
    meant = {}
    for name, value in options.items():
        if name in ("top_k", "topk"):
            meant["top_k"] = value
        elif name == "max_answer_len":
            meant[name] = value
        elif name == "handle_impossible_answer":
            meant[name] = bool(value)
        elif name in _IGNORED:
            warnings.warn(f"{name} is ignored: it {_IGNORED[name]}", UserWarning, stacklevel=stacklevel)
        else:
            raise InputError(f"{name!r} is no option of the question-answering pipeline: leave it out")
    return meant


def _pairs(inputs: Sequence[Any], question: Any, context: Any) -> tuple[list[tuple[str, str]], bool]:
    """The questions with their contexts, and whether it is one: a list of one was answered without a list, too."""
    if inputs:
        if question is not None or context is not None:
            raise InputError("both mappings and question= or context= are given: give one of the two")
        pairs = [_pair(one) for one in _flat(inputs)]
        return pairs, len(pairs) == 1
    if question is None or context is None:
        raise InputError(f"the {'question' if question is None else 'context'} is missing: give both")
    if isinstance(question, str):
        if not isinstance(context, str):
            raise InputError(
                "there is one question and a list of contexts: use QAClient.ask_contexts, or a list of both"
            )
        return [(question, context)], True
    for name, value in (("question", question), ("context", context)):
        if not isinstance(value, Iterable):
            raise InputError(f"the {name} is of type {type(value).__name__}: give a text, or a list of them")
    questions = list(question)
    contexts = [context] * len(questions) if isinstance(context, str) else list(context)
    if len(questions) != len(contexts):
        raise InputError(f"{len(questions)} questions and {len(contexts)} contexts: give one context, or as many")
    return list(zip(questions, contexts, strict=True)), len(questions) == 1


def _flat(inputs: Sequence[Any]) -> Iterator[Any]:
    for one in inputs:
        if isinstance(one, Iterable) and not isinstance(one, (Mapping, str)):
            yield from one
        else:
            yield one


def _pair(one: Any) -> tuple[str, str]:
    if isinstance(one, Mapping) and "question" in one and "context" in one:
        return one["question"], one["context"]
    raise InputError(f"got {type(one).__name__}: give a mapping with question and context")
