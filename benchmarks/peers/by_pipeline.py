"""A turn of the Hugging Face question-answering pipeline; runs where requirements/peers-transformers.txt is installed.

The checkpoint's windows, answer length and right to say nothing, in the pipeline's names: its `doc_stride` is the
overlap of two windows, not the step. Its no-answer threshold is fixed: a probability, at what is margin 0.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from turn import Question, Said, Turn


def main() -> None:
    """Take the turn."""
    turn = Turn.taken()
    windows = turn.task["windows"]
    torch.set_num_threads(turn.task["n_threads"])
    # Later releases, one of which a type checker may see, have no such task.
    make: Any = transformers.pipeline
    pipe = make("question-answering", model=turn.task["place"], device="cpu")
    settings = {
        "max_seq_len": windows["max_seq_length"],
        "doc_stride": windows["overlap"],
        "max_question_len": windows["max_query_length"],
        "max_answer_len": windows["max_answer_tokens"],
        "handle_impossible_answer": True,
    }

    def ask(question: str, context: str) -> Said:
        answer = pipe(question=question, context=context, **settings)
        return Said(text=answer["answer"], start=answer["start"])

    def ask_all(questions: list[Question]) -> list[Said]:
        texts, contexts = map(list, zip(*questions, strict=True))
        answers = pipe(question=texts, context=contexts, batch_size=turn.task["batch_size"], **settings)
        return [Said(text=answer["answer"], start=answer["start"]) for answer in answers]

    is_alone = turn.task["batch_size"] == 1
    for question in turn.warm_up:
        ask(*question)
    if not is_alone:
        ask_all(turn.warm_up)
    turn.ready(
        versions={"transformers": transformers.__version__, "torch": torch.__version__},
        threads=torch.get_num_threads(),
    )
    turn.done(turn.one_by_one(ask) if is_alone else turn.all_at_once(ask_all))


if __name__ == "__main__":
    main()
