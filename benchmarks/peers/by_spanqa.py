"""A turn of spanqa: a fresh Triton with a model repository, asked through gRPC by this process."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from turn import Question, Said, Turn

from spanqa_client.answer import Answer
from spanqa_client.client import QAClient
from spanqa_server.server import Server


def _said(answer: Answer) -> Said:
    best: Any = answer.spans[0]
    return Said(text=answer.text, margin=answer.no_answer_margin, best=best.text, start=best.char_start)


def main() -> None:
    """Take the turn."""
    turn = Turn.taken()
    n_in_flight = turn.task["batch_size"]
    with Server(turn.task["place"]) as server, QAClient(server.url) as client:

        def ask(question: str, context: str) -> Said:
            return _said(client.ask(question, context))

        def ask_all(questions: list[Question]) -> list[Said]:
            answers = list(client.ask_many(questions, concurrency=n_in_flight))
            turn.latencies_ms = [answer.latency_ms for answer in answers]
            return [_said(answer) for answer in answers]

        for question in turn.warm_up:
            ask(*question)
        ask_all(turn.warm_up)
        turn.ready(versions={name: version(name) for name in ("spanqa", "nvidia-pytriton", "onnxruntime")})
        turn.done(turn.one_by_one(ask) if n_in_flight == 1 else turn.all_at_once(ask_all))


if __name__ == "__main__":
    main()
