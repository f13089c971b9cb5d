"""A turn of the checkpoint's own network in torch, with the windows and the decoder that serve, in one process."""

from __future__ import annotations

import torch
from turn import Question, Said, Turn

from spanqa.spans import Decoded, decode
from spanqa.windows import WindowMaker
from spanqa_training.checkpoints.checkpoint import load_checkpoint
from spanqa_training.inference.decode_settings import decode_settings
from spanqa_training.inference.evaluation import network_from_model, window_logits


def main() -> None:
    """Take the turn."""
    turn = Turn.taken()
    torch.set_num_threads(turn.task["n_threads"])
    checkpoint, model = load_checkpoint(turn.task["place"])
    settings = decode_settings(checkpoint)
    maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
    network = network_from_model(model)

    def said(decoded: Decoded) -> Said:
        best = decoded.spans[0]
        has_answer = decoded.has_answer(checkpoint.no_answer_threshold)
        return Said(
            text=best.text if has_answer else "",
            margin=decoded.no_answer_margin,
            best=best.text,
            start=best.char_start,
        )

    def ask_all(questions: list[Question]) -> list[Said]:
        all_windows = maker.windows_of_many(questions)
        all_logits = window_logits(network, all_windows)
        return [
            said(
                decode(
                    windows,
                    context,
                    *logits,
                    max_answer_tokens=settings.max_answer_tokens,
                    scale=settings.scale,
                    word_boundaries=settings.word_boundaries,
                )
            )
            for windows, (_, context), logits in zip(all_windows, questions, all_logits, strict=True)
        ]

    def ask(question: str, context: str) -> Said:
        return ask_all([(question, context)])[0]

    is_alone = turn.task["batch_size"] == 1
    for question in turn.warm_up:
        ask(*question)
    if not is_alone:
        ask_all(turn.warm_up)
    turn.ready(versions={"torch": torch.__version__}, threads=torch.get_num_threads())
    turn.done(turn.one_by_one(ask) if is_alone else turn.all_at_once(ask_all))


if __name__ == "__main__":
    main()
