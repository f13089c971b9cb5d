"""A turn of Haystack's extractive reader; runs where requirements/peers-haystack.txt is installed.

The reader takes one question a call, so its batch is the windows of one question; the fastest size is kept. It has no
limit of an answer's length, and does not tell the network which tokens are the question's: both are as it is.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

import torch
from haystack import Document
from haystack.utils import ComponentDevice
from haystack_integrations.components.readers.transformers import TransformersExtractiveReader
from turn import Said, Turn, fastest

BATCH_SIZES = (1, 2, 4, 8, 16)


def _said(answers: list[Any]) -> Said:
    """The best answer; one without text says that there is none."""
    best = answers[0]
    return Said(text=best.data, start=best.document_offset.start) if best.data else Said(text="")


def main() -> None:
    """Take the turn."""
    turn = Turn.taken()
    windows = turn.task["windows"]
    torch.set_num_threads(turn.task["n_threads"])
    reader = TransformersExtractiveReader(
        model=turn.task["place"],
        device=ComponentDevice.from_str("cpu"),
        token=None,
        # The no-answer score is the probability that all of these are wrong: with one, that the best is.
        top_k=1,
        max_seq_length=windows["max_seq_length"],
        stride=windows["overlap"],
    )

    def ask(question: str, context: str, batch_size: int) -> Said:
        documents = [Document(content=context)]
        return _said(reader.run(query=question, documents=documents, max_batch_size=batch_size)["answers"])

    def ask_some(batch_size: int) -> float:
        began = time.perf_counter()
        for question, context in turn.warm_up:
            ask(question, context, batch_size)
        return time.perf_counter() - began

    batch_size = turn.task["found"] or fastest(BATCH_SIZES, ask_some)
    ask_some(batch_size)
    versions = {name: version(name) for name in ("transformers-haystack", "haystack-ai", "transformers", "torch")}
    turn.ready(versions=versions, threads=torch.get_num_threads(), found=batch_size)
    turn.done(turn.one_by_one(lambda question, context: ask(question, context, batch_size)))


if __name__ == "__main__":
    main()
