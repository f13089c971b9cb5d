"""A real Triton serves the encoders in torch: rolled over to from ONNX Runtime, each answer that of the checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from spanqa import contract
from spanqa.squad import Example
from spanqa.windows import WindowMaker, WindowSettings
from spanqa_build.gpu_build import GpuBuild
from spanqa_build.parity import answers_from_logits, run_torch
from spanqa_build.repository import Network, manifest_from_checkpoint, write_repository
from spanqa_build.targets import target_from_name
from spanqa_client.client import QAClient
from spanqa_server.server import Server
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.inference.evaluation import window_logits
from spanqa_training.model import EncoderConfig, SpanModel

pytestmark = pytest.mark.triton
RELOAD_S = 60
N_QUESTIONS = 60
LENGTH = 128


@pytest.fixture(scope="module")
def loaded() -> tuple[Checkpoint, SpanModel]:
    """A network that a CPU runs in no time, the shipped tokenizer, and windows so short that questions have several.

    Its weights are random, and so large that no two answers are near each other.
    """
    root = Path(__file__).resolve().parents[2]
    tokenizer = root / "training" / "checkpoints" / "spanqa-minilm" / "tokenizer.json"
    torch.manual_seed(0)
    config = EncoderConfig(
        vocab_size=30522, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=64, initializer_range=0.5
    )
    checkpoint = Checkpoint(
        encoder=config,
        tokenizer_json=tokenizer.read_text(encoding="utf-8"),
        windows=WindowSettings(max_seq_length=LENGTH, doc_stride=48, max_query_length=64),
        provenance={"source": "random"},
    )
    return checkpoint, SpanModel(config).eval()


@pytest.fixture(scope="module")
def ten_questions(tmp_path_factory: pytest.TempPathFactory, real_questions: list[Example]) -> Path:
    from spanqa_training.commands.negatives import write_squad

    path = tmp_path_factory.mktemp("questions") / "ten.json"
    write_squad(real_questions[:10], path)
    return path


@pytest.fixture(scope="module")
def folder(loaded: tuple[Checkpoint, SpanModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that ONNX Runtime serves on the CPU."""
    checkpoint, _ = loaded
    root = Path(__file__).resolve().parents[2]
    shipped = root / "model_repository" / contract.ENCODER / "1" / "network.onnx"
    network = Network(path=shipped, precision="int8", facts={})
    folder = tmp_path_factory.mktemp("served") / "repository"
    write_repository(folder, manifest_from_checkpoint(checkpoint, network, name="shipped"), checkpoint, network)
    return folder


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def server(folder: Path, told: list[str]) -> Iterator[Server]:
    with Server(folder, report=told.append) as server:
        yield server


@pytest.fixture(scope="module")
def asked(real_questions: list[Example]) -> list[Example]:
    return real_questions[:N_QUESTIONS]


@pytest.fixture(scope="module")
def build(loaded: tuple[Checkpoint, SpanModel], ten_questions: Path) -> GpuBuild:
    target = dataclasses.replace(target_from_name("t4"), largest_batch=4, optimal_batch=2, graph_batches=(1, 2))
    checkpoint, model = loaded
    return GpuBuild(
        checkpoint=checkpoint,
        model=model,
        name="shipped",
        target=target,
        quiet=True,
        engine="torch",
        device="cpu",
        data=ten_questions,
    )


def reload(server: Server, tools: Any) -> None:
    n_reloads = server.n_reloads
    server.request_reload()
    tools.wait_until(lambda: server.n_reloads > n_reloads, RELOAD_S)


@pytest.fixture(scope="module")
def rolled(server: Server, folder: Path, build: GpuBuild, asked: list[Example], told: list[str], tools: Any) -> Server:
    """The server, rolled from ONNX Runtime to torch while it was asked; nobody was refused."""
    versions: set[str | None] = set()
    build.write(folder)
    with QAClient(server.url) as client:

        def ask(n_asked: int) -> None:
            example = asked[n_asked % len(asked)]
            versions.add(client.ask(example.question, example.context).model_version)

        with tools.Asking([ask]):
            tools.wait_until(lambda: versions, 30)
            reload(server, tools)
            tools.wait_until(lambda: "2" in versions, 30)
    assert versions == {"1", "2"}
    assert [line.split(" of ")[0] for line in told] == ["version 2"]
    return server


def test_every_answer_is_the_checkpoints_own(
    rolled: Server, loaded: tuple[Checkpoint, SpanModel], asked: list[Example]
) -> None:
    checkpoint, model = loaded
    maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
    all_windows = maker.windows_of_many([(example.question, example.context) for example in asked])
    assert max(map(len, all_windows)) > 1
    logits = window_logits(partial(run_torch, model.eval()), all_windows)
    right = answers_from_logits(checkpoint, all_windows, [example.context for example in asked], logits).decoded
    with QAClient(rolled.url) as client:
        answers = list(client.ask_many([(example.question, example.context) for example in asked], concurrency=8))
    for answer, decoded in zip(answers, right, strict=True):
        got, wanted = answer.spans[0], decoded.spans[0]
        assert (got.text, got.char_start, got.char_end) == (wanted.text, wanted.char_start, wanted.char_end)
        assert answer.has_answer == decoded.has_answer(checkpoint.no_answer_threshold)
        assert got.logit == pytest.approx(wanted.logit, abs=1e-3)
        assert answer.no_answer_margin == pytest.approx(decoded.no_answer_margin, abs=1e-3)
    assert f"encoder_{LENGTH}" in {stub.model for stub in rolled.stubs()}


def test_the_ensemble_answers_alike(rolled: Server, asked: list[Example], tools: Any) -> None:
    short = [example for example in asked if len(example.context) < 600][:5]
    channel, stub = tools.connect(rolled.url)
    with channel:
        for example in short:
            answers = []
            for entry in (contract.QUESTION_ANSWERING, contract.ENSEMBLE):
                response = stub.ModelInfer(tools.request_of(entry, example.question, example.context), timeout=30)
                outputs = tools.outputs_of(response)
                answers.append((outputs["ANSWER"], outputs["CHAR_START"], outputs["HAS_ANSWER"]))
            assert answers[0] == answers[1]
