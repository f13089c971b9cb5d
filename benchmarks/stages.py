"""One set of questions through every stage of the road: torch, ONNX Runtime, Triton's encoder, and both entries.

Takes a checkpoint and a repository built from it with `--precision float32`, and counts what differs from torch.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tritonclient.grpc as grpc_client
from bench_setting import heldout_examples, network_file, parser_of, print_result
from numpy.typing import NDArray
from tqdm import tqdm

from spanqa import contract
from spanqa.spans import decode
from spanqa.squad import Example
from spanqa.windows import Batch, WindowMaker, Windows
from spanqa_build.parity import Logits, question_logits, run_onnx, run_torch, session_from_onnx
from spanqa_client.answer import Answer
from spanqa_client.client import QAClient
from spanqa_client.errors import BadRequest
from spanqa_server.server import Server
from spanqa_training.checkpoints.checkpoint import Checkpoint, load_checkpoint

TARGET_LOGITS = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What one stage says to one question: the best span, whether it is the answer, its logit and the margin."""

    text: str
    char_start: int
    char_end: int
    has_answer: bool
    logit: float
    margin: float
    logits: Logits | None = None

    @property
    def answer(self) -> tuple[str, int, int, bool]:
        """What must be the same in every stage."""
        return self.text, self.char_start, self.char_end, self.has_answer


@dataclass(slots=True)
class Difference:
    """What of one stage differs from torch."""

    name: str
    n_questions: int = 0
    n_refused: int = 0
    n_answers: int = 0
    most_logit: float = 0.0
    most_margin: float = 0.0
    ids: list[str] = field(default_factory=list)

    def count(self, question_id: str, reference: Said, said: Said | None) -> None:
        """Compare one question; None where the stage refused it."""
        if said is None:
            self.n_refused += 1
            return
        self.n_questions += 1
        if said.answer != reference.answer:
            self.n_answers += 1
            self.ids.append(question_id)
        if said.logits is not None and reference.logits is not None:
            pairs = zip(said.logits, reference.logits, strict=True)
            differences = [float(np.abs(one - other).max()) for one, other in pairs]
        else:
            differences = [abs(said.logit - reference.logit)]
        self.most_logit = max(self.most_logit, *differences)
        self.most_margin = max(self.most_margin, abs(said.margin - reference.margin))


def _said_from_logits(checkpoint: Checkpoint, windows: Windows, context: str, logits: Logits) -> Said:
    decoded = decode(
        windows,
        context,
        *logits,
        max_answer_tokens=checkpoint.max_answer_tokens,
        scale=checkpoint.scale,
        word_boundaries=checkpoint.word_boundaries,
    )
    best = decoded.spans[0]
    return Said(
        text=best.text,
        char_start=best.char_start,
        char_end=best.char_end,
        has_answer=decoded.has_answer(checkpoint.no_answer_threshold),
        logit=best.logit,
        margin=decoded.no_answer_margin,
        logits=logits,
    )


def _said_from_answer(answer: Answer) -> Said:
    best = answer.spans[0]
    return Said(
        text=best.text,
        char_start=best.char_start,
        char_end=best.char_end,
        has_answer=answer.has_answer,
        logit=best.logit,
        margin=answer.no_answer_margin,
    )


def _encoder_of(url: str) -> Callable[[Batch], Logits]:
    """The encoder model of a running server as a plain function."""
    client = grpc_client.InferenceServerClient(url)

    def run(batch: Batch) -> Logits:
        inputs = []
        for tensor, array in zip(
            contract.ENCODER_INPUTS, (batch.input_ids, batch.attention_mask, batch.token_type_ids), strict=True
        ):
            inputs.append(grpc_client.InferInput(tensor.name, list(array.shape), tensor.dtype))
            inputs[-1].set_data_from_numpy(array)
        result = client.infer(contract.ENCODER, inputs)
        start, end = (result.as_numpy(tensor.name) for tensor in contract.ENCODER_OUTPUTS)
        return _writable(start), _writable(end)

    return run


def _writable(array: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.array(array, dtype=np.float32)


def _ask(client: QAClient, examples: Sequence[Example]) -> Iterable[Said | None]:
    items = [(example.question, example.context) for example in examples]
    for answer in client.ask_many(items, on_error="return", timeout_s=120):
        if isinstance(answer, Answer):
            yield _said_from_answer(answer)
        elif isinstance(answer, BadRequest) and contract.QUESTION_ANSWERING in str(answer):
            yield None  # the ensemble names the entry that takes a text of more windows
        else:
            raise answer


def compare(checkpoint_folder: Path, repository: Path, examples: Sequence[Example], *, quiet: bool) -> list[Difference]:
    """Ask every stage every question and count what differs from torch."""
    checkpoint, model = load_checkpoint(checkpoint_folder)
    model.eval()
    maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
    all_windows = maker.windows_of_many([(example.question, example.context) for example in examples])
    session = session_from_onnx(network_file(repository))

    def offline(name: str, network: Callable[[Batch], Logits]) -> list[Said | None]:
        pairs = zip(examples, all_windows, strict=True)
        bar = tqdm(pairs, total=len(examples), desc=name, unit="question", disable=True if quiet else None)
        return [
            _said_from_logits(checkpoint, windows, example.context, question_logits(network, windows))
            for example, windows in bar
        ]

    with torch.inference_mode():
        reference = offline("torch", lambda batch: run_torch(model, batch))
    stages = {"ONNX Runtime": offline("ONNX Runtime", lambda batch: run_onnx(session, batch))}
    with Server(repository) as server:
        stages["Triton's encoder"] = offline("Triton's encoder", _encoder_of(server.url))
        for entry in (contract.QUESTION_ANSWERING, contract.ENSEMBLE):
            with QAClient(server.url, model_name=entry) as client:
                answers = tqdm(_ask(client, examples), total=len(examples), desc=entry, disable=True if quiet else None)
                stages[entry] = list(answers)
    differences = []
    for name, said in stages.items():
        differences.append(Difference(name))
        for example, right, one in zip(examples, reference, said, strict=True):
            if right is not None:
                differences[-1].count(example.id, right, one)
    return differences


def main() -> int:
    """Compare and print; the exit status is 1 where an answer or a logit differs by more than allowed."""
    parser = parser_of(__doc__)
    parser.add_argument("checkpoint", type=Path, help="the checkpoint's folder")
    parser.add_argument("repository", type=Path, help="a repository built from it with --precision float32")
    parser.add_argument("--questions", type=int, default=1000, metavar="N", help="questions (default: %(default)s)")
    args = parser.parse_args()
    examples = heldout_examples(args.questions)
    differences = compare(args.checkpoint, args.repository, examples, quiet=args.quiet)
    rows: list[dict[str, Any]] = [
        {
            "stage": one.name,
            "questions": one.n_questions,
            "refused": one.n_refused,
            "answers_differing": one.n_answers,
            "ids_differing": one.ids,
            "most_logit_difference": one.most_logit,
            "most_margin_difference": one.most_margin,
        }
        for one in differences
    ]
    table = [("against torch float32", "questions", "refused", "answers differing", "logits", "margins")]
    table += [
        (
            str(row["stage"]),
            f"{row['questions']:,}",
            f"{row['refused']:,}",
            f"{row['answers_differing']:,}",
            f"{row['most_logit_difference']:.2g}",
            f"{row['most_margin_difference']:.2g}",
        )
        for row in rows
    ]
    print_result({"target_logits": TARGET_LOGITS, "stages": rows}, table, as_json=args.json)
    worst = max(max(one.most_logit, one.most_margin / 2) for one in differences)
    is_equal = not any(one.n_answers for one in differences) and math.isfinite(worst) and worst <= TARGET_LOGITS
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
