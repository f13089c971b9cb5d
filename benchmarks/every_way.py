"""The same questions by every way that a user can ask, for models whose own settings are not the usual ones.

Makes two models of the shipped checkpoint, one with answers of up to 100 word pieces and one with windows of 64, builds
a float32 repository of each, and counts where a way answers otherwise than torch: another text, offset or decision.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tritonclient.grpc as grpc_client
from bench_setting import ROOT, heldout_examples, parser_of, print_result
from numpy.typing import NDArray
from tqdm import tqdm

from spanqa import contract
from spanqa.spans import DecodeSettings
from spanqa.squad import Example
from spanqa.windows import WindowMaker, WindowSettings
from spanqa_client.answer import Answer
from spanqa_client.client import QAClient
from spanqa_client.errors import BadRequest
from spanqa_server.server import Server
from spanqa_training.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from spanqa_training.commands.negatives import write_squad
from spanqa_training.inference.decode_settings import decode_settings
from spanqa_training.inference.evaluation import evaluate, network_from_model

SHIPPED = ROOT / "training" / "checkpoints" / "spanqa-minilm"
MODELS: dict[str, dict[str, Any]] = {
    "answers of up to 100 pieces": {"max_answer_tokens": 100},
    "windows of 64 pieces": {"windows": WindowSettings(max_seq_length=64, doc_stride=16, max_query_length=32)},
}
CURLS_AT_ONCE = 8

Said = tuple[str, int, int, bool]
"""The best span's text, its two offsets, and whether it is the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A way to ask, and what it said to each question: None where it names the entry that takes such a text."""

    model: str
    name: str
    said: Sequence[Said | None]


def _by_torch(checkpoint: Checkpoint, model: Any, examples: Sequence[Example]) -> list[Said | None]:
    maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
    settings: DecodeSettings = decode_settings(checkpoint)
    with torch.inference_mode():
        answered = evaluate(network_from_model(model), maker, examples, settings)
    return [
        (best.text, best.char_start, best.char_end, decoded.has_answer(checkpoint.no_answer_threshold))
        for decoded in answered.decoded
        for best in decoded.spans[:1]
    ]


def _spanqa(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "spanqa.cli", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def _said_from_lines(path: Path, examples: Sequence[Example]) -> list[Said | None]:
    """What a file of `spanqa infer` or `spanqa predict --jsonl` says."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    found = {line["id"]: (line["spans"][0], line["has_answer"]) for line in lines}
    said = [found[example.id] for example in examples]
    return [(best["text"], best["char_start"], best["char_end"], has) for best, has in said]


def _said_from_answer(answer: Answer | Exception) -> Said | None:
    if isinstance(answer, BadRequest) and contract.QUESTION_ANSWERING in str(answer):
        return None
    if isinstance(answer, Exception):
        raise answer
    best = answer.spans[0]
    return best.text, best.char_start, best.char_end, answer.has_answer


def _by_client(url: str, model_name: str, examples: Sequence[Example]) -> list[Said | None]:
    items = [(example.question, example.context) for example in examples]
    with QAClient(url, model_name=model_name) as client:
        return [_said_from_answer(answer) for answer in client.ask_many(items, on_error="return", timeout_s=120)]


def _by_tritonclient(url: str, examples: Sequence[Example]) -> list[Said | None]:
    """Triton's own client, which sends no optional input."""
    client = grpc_client.InferenceServerClient(url)

    def ask(example: Example) -> Said:
        inputs = []
        for tensor, text in ((contract.QUESTION, example.question), (contract.CONTEXT, example.context)):
            inputs.append(grpc_client.InferInput(tensor.name, [1, 1], tensor.dtype))
            inputs[-1].set_data_from_numpy(np.array([[text.encode()]], dtype=object))
        result = client.infer(contract.QUESTION_ANSWERING, inputs)

        def first(tensor: contract.Tensor) -> Any:
            array: NDArray[Any] = result.as_numpy(tensor.name)
            return array[0, 0]

        return (
            first(contract.ANSWER).decode(),
            int(first(contract.CHAR_START)),
            int(first(contract.CHAR_END)),
            bool(first(contract.HAS_ANSWER)),
        )

    return [ask(example) for example in examples]


def _by_curl(http_url: str, examples: Sequence[Example]) -> list[Said | None]:
    """One curl a question, to Triton's generate endpoint."""
    place = f"http://{http_url}/v2/models/{contract.QUESTION_ANSWERING}/generate"

    def ask(example: Example) -> Said:
        body = json.dumps({contract.QUESTION.name: example.question, contract.CONTEXT.name: example.context})
        command = ["curl", "--silent", "--show-error", "--fail-with-body", "--data-binary", "@-", place]
        done = subprocess.run(command, input=body.encode(), capture_output=True, check=True)
        said = json.loads(done.stdout, parse_constant=_no_json)
        names = (contract.ANSWER, contract.CHAR_START, contract.CHAR_END, contract.HAS_ANSWER)
        text, start, end, has = (said[tensor.name] for tensor in names)
        return text, start, end, has

    with ThreadPoolExecutor(CURLS_AT_ONCE) as pool:
        return list(pool.map(ask, examples))


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def ask_every_way(
    title: str, folder: Path, examples: Sequence[Example], *, n_layers: int | None, quiet: bool
) -> list[Way]:
    """Make one of the models below a folder and ask it every way; torch comes first."""
    shipped, model = load_checkpoint(SHIPPED)
    if n_layers is not None:
        model.layers = model.layers[:n_layers]
        model.config = replace(shipped.encoder, num_layers=n_layers)
        shipped = replace(shipped, encoder=model.config)
    checkpoint = replace(shipped, **MODELS[title])
    save_checkpoint(checkpoint, model, folder / "model")
    dataset = folder / "questions.json"
    write_squad(examples, dataset)
    _spanqa("build", "-m", folder / "model", "--precision", "float32", "-o", folder / "repository", "--quiet")
    ways: dict[str, Callable[[], list[Said | None]]] = {"torch": lambda: _by_torch(checkpoint, model, examples)}

    def infer() -> list[Said | None]:
        _spanqa("infer", "-m", folder / "model", "-r", folder, f"infer_ds.file={dataset}", "--quiet")
        return _said_from_lines(folder / "predictions.jsonl", examples)

    ways["spanqa infer"] = infer
    with Server(folder / "repository") as server:

        def predict() -> list[Said | None]:
            _spanqa("predict", dataset, "--jsonl", folder / "served.jsonl", "--url", server.url, "--quiet")
            return _said_from_lines(folder / "served.jsonl", examples)

        ways["spanqa predict"] = predict
        ways["ask_many"] = lambda: _by_client(server.url, contract.QUESTION_ANSWERING, examples)
        ways["ask_many, ensemble"] = lambda: _by_client(server.url, contract.ENSEMBLE, examples)
        ways["tritonclient, no options"] = lambda: _by_tritonclient(server.url, examples)
        ways["curl, no options"] = lambda: _by_curl(server.http_url, examples)
        bar = tqdm(ways.items(), desc=title, unit="way", disable=True if quiet else None)
        return [Way(model=title, name=name, said=way()) for name, way in bar]


def main() -> int:
    """Ask, count and print; the exit status is 1 where anything differs."""
    parser = parser_of(__doc__)
    parser.add_argument("--questions", type=int, default=2000, metavar="N", help="questions (default: %(default)s)")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="pass over the first N, to ask them in parts")
    parser.add_argument(
        "--layers", type=int, metavar="N", help="keep so many layers, to ask many questions in little time"
    )
    parser.add_argument("--model", choices=MODELS, action="append", help="one of the models (default: each of them)")
    args = parser.parse_args()
    examples = heldout_examples()[args.skip : args.skip + args.questions]
    rows: list[dict[str, Any]] = []
    for title in args.model or MODELS:
        with tempfile.TemporaryDirectory(prefix="spanqa-every-way-") as folder:
            ways = ask_every_way(title, Path(folder), examples, n_layers=args.layers, quiet=args.quiet)
        right = ways[0].said
        for way in ways:
            compared = [(one, other) for one, other in zip(way.said, right, strict=True) if one is not None]
            different = sum(one != other for one, other in compared)
            rows.append({"model": title, "way": way.name, "questions": len(compared), "different": different})
    table = [("model", "way", "questions", "different from torch")]
    table += [(row["model"], row["way"], f"{row['questions']:,}", str(row["different"])) for row in rows]
    print_result({"ways": rows}, table, as_json=args.json)
    return 1 if any(row["different"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
