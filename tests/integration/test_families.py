"""A real Triton serves models of other families than BERT's: in every script each answer is that of the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from spanqa import contract
from spanqa.manifest import load_manifest
from spanqa.tokenization import Tokenizer
from spanqa.windows import WindowMaker, WindowSettings
from spanqa_build.cpu import cpu_networks_from_model
from spanqa_build.parity import answers_from_logits, run_torch
from spanqa_build.repository import Network, manifest_from_checkpoint, write_repository
from spanqa_client.client import QAClient
from spanqa_server.server import Server
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.inference.evaluation import window_logits
from spanqa_training.model import EncoderConfig, SpanModel

pytestmark = pytest.mark.triton
LENGTH = 96


@pytest.fixture(scope="module", params=["roberta", "xlm-roberta"])
def checkpoint(request: pytest.FixtureRequest, tokenizers_of_families: Mapping[str, Tokenizer]) -> Checkpoint:
    """A checkpoint with windows so short that contexts have several."""
    tokenizer = tokenizers_of_families[request.param]
    config = EncoderConfig(
        family=request.param,
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        intermediate_size=64,
        max_positions=LENGTH,
        type_vocab_size=1,
        position_offset=tokenizer.pad_id + 1,
        initializer_range=0.5,  # so large that no two answers are near each other
    )
    return Checkpoint(
        encoder=config,
        tokenizer_json=tokenizer.serialized,
        windows=WindowSettings(max_seq_length=LENGTH, doc_stride=24, max_query_length=40),
        word_boundaries=True,
        provenance={"source": "random"},
    )


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> SpanModel:
    torch.manual_seed(0)
    return SpanModel(checkpoint.encoder).eval()


@pytest.fixture(scope="module")
def server(checkpoint: Checkpoint, model: SpanModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place: Path = tmp_path_factory.mktemp("family")
    path = cpu_networks_from_model(model, place / "networks").float32
    network = Network(path=path, precision="float32", facts={})
    folder = place / "repository"
    write_repository(folder, manifest_from_checkpoint(checkpoint, network, name="family"), checkpoint, network)
    assert load_manifest(folder / contract.QUESTION_ANSWERING / "1").pair == checkpoint.tokenizer().pair
    with Server(folder) as server:
        yield server


@pytest.fixture(scope="module")
def asked(scripts: Mapping[str, list[str]]) -> list[tuple[str, str]]:
    """Two questions in each script, about texts with an emoji, an accent taken apart and white space of many kinds."""
    pairs = []
    for sentences in scripts.values():
        context = "\n\n".join(sentences[:3]) + "  cafe\u0301 🚀\t"
        pairs += [(sentences[-1], context), (sentences[-2], context * 2)]
    return pairs


def test_every_answer_is_the_checkpoints_own(
    server: Server, checkpoint: Checkpoint, model: SpanModel, asked: list[tuple[str, str]], tools: Any
) -> None:
    maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
    all_windows = maker.windows_of_many(asked)
    assert max(map(len, all_windows)) > 1
    logits = window_logits(partial(run_torch, model), all_windows)
    contexts = [context for _, context in asked]
    right = answers_from_logits(checkpoint, all_windows, contexts, logits).decoded
    with QAClient(server.url) as client:
        answers = list(client.ask_many(asked, concurrency=8))
    channel, stub = tools.connect(server.url)
    with channel:
        for (question, context), answer, decoded in zip(asked, answers, right, strict=True):
            got, wanted = answer.spans[0], decoded.spans[0]
            place = (wanted.text, wanted.char_start, wanted.char_end)
            assert (got.text, got.char_start, got.char_end) == place
            assert got.text == context[got.char_start : got.char_end].strip() != ""
            assert got.logit == pytest.approx(wanted.logit, abs=1e-3)
            assert answer.no_answer_margin == pytest.approx(decoded.no_answer_margin, abs=1e-3)
            response = stub.ModelInfer(tools.request_of(contract.ENSEMBLE, question, context), timeout=30)
            outputs = tools.outputs_of(response)
            assert (outputs["ANSWER"][0], outputs["CHAR_START"][0], outputs["CHAR_END"][0]) == place
            assert outputs["NO_ANSWER_MARGIN"][0] == pytest.approx(decoded.no_answer_margin, abs=1e-3)
