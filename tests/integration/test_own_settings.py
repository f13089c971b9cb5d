"""A model's own longest answer and its own windows decide, whoever asks and through whichever entry."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from spanqa import contract
from spanqa.manifest import load_served_tokenizer
from spanqa.spans import DecodeSettings
from spanqa.windows import WindowSettings
from spanqa_build.versions import seal_version
from spanqa_client.client import QAClient
from spanqa_server.server import Server

pytestmark = pytest.mark.triton
LIST = (
    "bolts, nuts, washers, hinges, brackets, springs, valves, gaskets, pumps, filters, belts, chains, gears, shafts, "
    "bearings, seals, hoses, clamps, screws, rivets, pins, cables and tools"
)
CONTEXT = f"The spare parts warehouse is in Leeds. The warehouse stores {LIST}. It opened in 2003."
NO_OPTIONS = dict.fromkeys(tensor.name for tensor in contract.INPUTS if tensor.optional)


def network(first: int, last: int) -> onnx.ModelProto:
    """A network that is sure of the span from one word piece to another, and of nothing else."""
    nodes, initializers = [], [helper.make_tensor("ten", TensorProto.FLOAT, [], [10.0])]
    for name, token in (("start_logits", first), ("end_logits", last)):
        initializers.append(helper.make_tensor(f"{name}_id", TensorProto.INT32, [], [token]))
        nodes += [
            helper.make_node("Equal", ["input_ids", f"{name}_id"], [f"{name}_is"]),
            helper.make_node("Cast", [f"{name}_is"], [f"{name}_one"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}_one", "ten"], [name]),
        ]
    inputs, outputs = (
        [helper.make_tensor_value_info(tensor.name, kind, ["rows", "length"]) for tensor in tensors]
        for tensors, kind in (
            (contract.ENCODER_INPUTS, TensorProto.INT32),
            (contract.ENCODER_OUTPUTS, TensorProto.FLOAT),
        )
    )
    graph = helper.make_graph(nodes, "sure", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@contextmanager
def serving(
    shipped: Path, folder: Path, first: str, last: str, decode: DecodeSettings, windows: WindowSettings
) -> Iterator[Server]:
    """Serve the shipped repository with other settings, and a network that answers from one word to another."""
    shutil.copytree(shipped, folder, ignore=shutil.ignore_patterns("network.onnx", "__pycache__"))
    manifest, tokenizer = load_served_tokenizer(folder / contract.QUESTION_ANSWERING / "1")
    ids = [int(tokenizer.pieces(word).ids[0]) for word in (first, last)]
    onnx.save(network(*ids), folder / contract.ENCODER / "1" / "network.onnx")
    seal_version(folder, 1, replace(manifest, decode=decode, windows=windows))
    with Server(folder, report=lambda _: None) as server:
        yield server


def answers(server: Server, tools: Any, question: str) -> list[str]:
    """Ask each entry with default options: our client, and a plain one that sends none."""
    channel, stub = tools.connect(server.url)
    found = []
    with channel:
        for entry in tools.ENTRIES:
            with QAClient(server.url, model_name=entry) as client:
                found.append(client.ask(question, CONTEXT).spans[0].text)
            request = tools.request_of(entry, question, CONTEXT, **NO_OPTIONS)
            found += tools.outputs_of(stub.ModelInfer(request, timeout=30))["ANSWER"]
    return found


def test_a_model_made_for_long_answers_gives_them_to_whoever_sets_no_limit(
    repository: Path, tools: Any, tmp_path: Path
) -> None:
    decode = DecodeSettings(no_answer_threshold=0.0, max_answer_tokens=100)
    windows = WindowSettings(max_seq_length=256, doc_stride=128, max_query_length=64)
    with serving(repository, tmp_path / "repository", "bolts", "tools", decode, windows) as server:
        assert answers(server, tools, "What does the warehouse store?") == [LIST] * 4


def test_a_long_question_to_a_model_of_short_windows_is_answered_with_default_options(
    repository: Path, tools: Any, tmp_path: Path
) -> None:
    decode = DecodeSettings(no_answer_threshold=0.0, max_answer_tokens=30)
    windows = WindowSettings(max_seq_length=64, doc_stride=16, max_query_length=32)
    with serving(repository, tmp_path / "repository", "leeds", "leeds", decode, windows) as server:
        assert answers(server, tools, "In which town or city is it that " * 6 + "it stands?") == ["Leeds"] * 4
