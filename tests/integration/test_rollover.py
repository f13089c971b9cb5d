"""A new version is rolled in under load, and back: every question is answered, by one build or the other."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpc_client
from onnx import TensorProto, helper, numpy_helper

from spanqa import contract
from spanqa.datasets import read_dataset
from spanqa.manifest import load_manifest
from spanqa.packing import Bucket, Packing
from spanqa.spans import decode
from spanqa.squad import Example
from spanqa.startup import versions_in
from spanqa.windows import WindowMaker, WindowSettings
from spanqa_build.repository import Network, manifest_from_checkpoint, write_repository
from spanqa_build.rollback import rollback_repository
from spanqa_build.versions import add_version
from spanqa_client.client import QAClient
from spanqa_server.repository import models_of
from spanqa_server.server import Server
from spanqa_training.checkpoints.checkpoint import Checkpoint
from spanqa_training.model import EncoderConfig

pytestmark = pytest.mark.triton
N_CONNECTIONS = 16
PAUSE_S = 0.2
"""Between two questions of a connection: what loads beside them finds a machine that has room."""
VOCABULARY = 30522
RELOAD_S = 60


def table_of(seed: int) -> np.ndarray:
    """A network's knowledge: start and end logit of every word piece."""
    return np.random.default_rng(seed).normal(size=(2, VOCABULARY)).astype(np.float32)


def write_network(path: Path, seed: int) -> Path:
    """A network that looks its logits up, with the contract's inputs and outputs."""
    start, end = table_of(seed)
    shape = ["rows", "length"]
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["start", "input_ids"], ["start_logits"]),
            helper.make_node("Gather", ["end", "input_ids"], ["end_logits"]),
        ],
        "table",
        [helper.make_tensor_value_info(t.name, TensorProto.INT32, shape) for t in contract.ENCODER_INPUTS],
        [helper.make_tensor_value_info(t.name, TensorProto.FLOAT, shape) for t in contract.ENCODER_OUTPUTS],
        [numpy_helper.from_array(start, "start"), numpy_helper.from_array(end, "end")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    root = Path(__file__).resolve().parents[2]
    tokenizer = root / "training" / "checkpoints" / "spanqa-minilm" / "tokenizer.json"
    return Checkpoint(
        encoder=EncoderConfig(
            vocab_size=VOCABULARY, hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8, max_positions=256
        ),
        tokenizer_json=tokenizer.read_text(encoding="utf-8"),
        windows=WindowSettings(max_seq_length=128, doc_stride=32, max_query_length=40),
        provenance={"source": "a table"},
    )


@pytest.fixture(scope="module")
def build(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, int], int]:
    """Adds the build of a seed's network to a repository."""

    def add(folder: Path, seed: int) -> int:
        path = write_network(tmp_path_factory.mktemp("network") / "network.onnx", seed)
        network = Network(path=path, precision="float32", facts={"seed": seed})
        return write_repository(
            folder, manifest_from_checkpoint(checkpoint, network, name="table"), checkpoint, network
        )

    return add


@pytest.fixture(scope="module")
def questions(checkpoint: Checkpoint) -> list[tuple[Example, tuple[str, str]]]:
    """Real questions, most of several windows, and what networks 1 and 2 answer them: never the same."""
    maker = WindowMaker(checkpoint.tokenizer(), checkpoint.windows)
    root = Path(__file__).resolve().parents[2]
    found = []
    for example in read_dataset(root / "data" / "heldout200.json")[:60]:
        windows = maker.windows(example.question, example.context)
        ids = np.zeros((len(windows), int(windows.seq_lengths.max())), dtype=np.int32)
        for row in range(len(windows)):
            ids[row, : windows.seq_lengths[row]] = windows.input_ids(row)
        texts = []
        for seed in (1, 2):
            start, end = table_of(seed)[:, ids]
            decoded = decode(windows, example.context, start, end, n_best=1, max_answer_tokens=30)
            texts.append(decoded.spans[0].text)
        if texts[0] != texts[1]:
            found.append((example, (texts[0], texts[1])))
    assert len(found) > 30
    return found


@dataclass
class Load:
    """Questions from many connections, each sent once; what was answered by which network, and when."""

    tools: Any
    url: str
    entry: str
    questions: list[Any]
    answers: list[tuple[float, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(place,)) for place in range(N_CONNECTIONS)]

    def _run(self, place: int) -> None:
        channel, stub = self.tools.connect(self.url)
        with channel:
            while not self._stop.is_set():
                example, texts = self.questions[place % len(self.questions)]
                place += 7
                sent_at = time.monotonic()
                try:
                    response = stub.ModelInfer(
                        self.tools.request_of(self.entry, example.question, example.context), timeout=30
                    )
                    answer = self.tools.outputs_of(response)["ANSWER"][0]
                    self.answers.append((sent_at, texts.index(answer) + 1))
                except Exception as error:
                    self.failures.append(f"{time.monotonic():.1f}: {error!r}")
                self._stop.wait(PAUSE_S)

    def answered_by(self, since: float = 0.0) -> set[int]:
        return {network for sent_at, network in list(self.answers) if sent_at >= since}

    def wait_for_more(self) -> None:
        n_answers = len(self.answers)
        self.tools.wait_until(lambda: len(self.answers) > n_answers + 2 * N_CONNECTIONS, 60)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def repository(tmp_path: Path, build: Callable[[Path, int], int]) -> Path:
    assert build(tmp_path / "repository", 1) == 1
    return tmp_path / "repository"


@dataclass
class Rolled:
    """A server that tests share, which each of them finds and leaves with one of the two networks."""

    server: Server
    repository: Path
    build: Callable[[Path, int], int]
    reports: list[str]
    network: int = 1

    @property
    def other(self) -> int:
        return 3 - self.network

    def versions(self) -> list[int]:
        return versions_in(self.repository / contract.ENCODER)

    def build_other(self) -> None:
        newest = self.versions()[-1]
        assert self.build(self.repository, self.other) == newest + 1


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, build: Callable[[Path, int], int]) -> Iterator[Rolled]:
    repository, reports = tmp_path_factory.mktemp("served") / "repository", list[str]()
    assert build(repository, 1) == 1
    with Server(repository, report=reports.append) as server:
        yield Rolled(server, repository, build, reports)


@pytest.fixture
def rolled(served: Rolled) -> Rolled:
    served.reports.clear()
    return served


def reload(server: Server, tools: Any) -> float:
    """Reload and give the moment when it was done."""
    n_reloads = server.n_reloads
    server.request_reload()
    tools.wait_until(lambda: server.n_reloads > n_reloads, RELOAD_S)
    return time.monotonic()


def test_reloading_changes_nothing_where_the_newest_number_is_served_be_it_another_build_s(
    rolled: Rolled, questions: Any, tools: Any
) -> None:
    """The first of those that share a server: it serves version 1."""
    server, reports = rolled.server, rolled.reports
    before = server.stubs()
    reload(server, tools)
    assert server.stubs() == before
    assert len(reports) == 1
    shutil.rmtree(rolled.repository)
    assert rolled.build(rolled.repository, rolled.other) == 1
    reload(server, tools)
    assert server.stubs() == before
    told = f"not reloaded in full: version 1 of {rolled.repository} is not the version 1 that answers, which goes on"
    assert reports[1].startswith(told)
    os.kill(next(stub.pid for stub in before if stub.model == contract.ENCODER), signal.SIGKILL)
    tools.wait_until(lambda: "Triton runs again" in reports, RELOAD_S)
    rolled.network = rolled.other
    with Load(tools, server.url, contract.QUESTION_ANSWERING, questions) as load:
        load.wait_for_more()
    assert (load.failures, load.answered_by()) == ([], {rolled.network})


def test_rolling_forward_and_back_under_load_loses_nothing_and_mixes_nothing(
    rolled: Rolled, questions: Any, tools: Any
) -> None:
    server, old, new, before = rolled.server, rolled.network, rolled.other, rolled.versions()[-1]
    with Load(tools, server.url, contract.QUESTION_ANSWERING, questions) as load:
        load.wait_for_more()
        assert load.answered_by() == {old}
        rolled.build_other()
        done = reload(server, tools)
        load.wait_for_more()
        assert load.answered_by(done) == {new}
        assert rollback_repository(rolled.repository) == before + 2
        done = reload(server, tools)
        load.wait_for_more()
        assert load.answered_by(done) == {old}
    assert load.failures == []
    assert load.answered_by() == {old, new}
    assert [line.split(" of ")[0] for line in rolled.reports] == [f"version {before + 1}", f"version {before + 2}"]
    tools.wait_until(lambda: len(server.stubs()) == 4, 20)  # nothing of an old version is left
    assert rolled.versions()[-3:] == [before, before + 1, before + 2]


def test_whoever_lives_through_a_roll_over_gets_the_new_versions_own_settings_from_its_first_answer(
    tmp_path: Path, checkpoint: Checkpoint, questions: Any, tools: Any
) -> None:
    network = Network(path=write_network(tmp_path / "network.onnx", 1), precision="float32", facts={})
    builds = [
        dataclasses.replace(checkpoint, no_answer_threshold=-1e4),
        dataclasses.replace(
            checkpoint,
            no_answer_threshold=1e4,
            max_answer_tokens=2,
            windows=WindowSettings(max_seq_length=64, doc_stride=16, max_query_length=24),
        ),
    ]
    folder = tmp_path / "repository"

    def add(build: Checkpoint) -> None:
        write_repository(folder, manifest_from_checkpoint(build, network, name="table"), build, network)

    def rights(build: Checkpoint) -> list[tuple[str, bool]]:
        """What a build says of the first questions, offline: the best span, and whether it is the answer."""
        maker = WindowMaker(build.tokenizer(), build.windows)
        said = []
        for example, _ in questions[:8]:
            windows = maker.windows(example.question, example.context)
            ids = np.zeros((len(windows), int(windows.seq_lengths.max())), dtype=np.int32)
            for row in range(len(windows)):
                ids[row, : windows.seq_lengths[row]] = windows.input_ids(row)
            start, end = table_of(1)[:, ids]
            decoded = decode(windows, example.context, start, end, max_answer_tokens=build.max_answer_tokens)
            said.append((decoded.spans[0].text, decoded.has_answer(build.no_answer_threshold)))
        return said

    add(builds[0])
    with Server(folder) as server, QAClient(server.url) as client:
        plain = grpc_client.InferenceServerClient(server.url)
        asked = [
            lambda example: _by_client(client, example),
            lambda example: _by_tritonclient(plain, example),
            lambda example: _by_http(server.http_url, example),
        ]
        assert [[ask(example) for example, _ in questions[:8]] for ask in asked] == [rights(builds[0])] * 3
        add(builds[1])
        reload(server, tools)
        assert [[ask(example) for example, _ in questions[:8]] for ask in asked] == [rights(builds[1])] * 3
        assert client.ask(questions[0][0].question, questions[0][0].context).model_version == "2"
    assert rights(builds[0]) != rights(builds[1])


def _by_client(client: QAClient, example: Example) -> tuple[str, bool]:
    answer = client.ask(example.question, example.context)
    return answer.spans[0].text, answer.has_answer


def _by_tritonclient(client: Any, example: Example) -> tuple[str, bool]:
    """Triton's own client without any optional input."""
    inputs = []
    for tensor, text in ((contract.QUESTION, example.question), (contract.CONTEXT, example.context)):
        inputs.append(grpc_client.InferInput(tensor.name, [1, 1], tensor.dtype))
        inputs[-1].set_data_from_numpy(np.array([[text.encode()]], dtype=np.object_))
    result = client.infer(contract.QUESTION_ANSWERING, inputs)
    return result.as_numpy("ANSWER")[0, 0].decode(), bool(result.as_numpy("HAS_ANSWER")[0, 0])


def _by_http(url: str, example: Example) -> tuple[str, bool]:
    """The request that curl sends."""
    body = json.dumps({"QUESTION": example.question, "CONTEXT": example.context}).encode()
    place = f"http://{url}/v2/models/{contract.QUESTION_ANSWERING}/generate"
    with urllib.request.urlopen(urllib.request.Request(place, body), timeout=30) as response:
        said = json.load(response)
    return said["ANSWER"], said["HAS_ANSWER"]


def test_the_ensemble_mixes_nothing_and_our_client_loses_nothing(rolled: Rolled, questions: Any, tools: Any) -> None:
    answers: list[tuple[float, int]] = []
    short = [(example, texts) for example, texts in questions if len(example.context) < 1200]

    def asking(client: QAClient) -> Callable[[int], None]:
        def ask(n_asked: int) -> None:
            example, texts = short[n_asked % len(short)]
            sent_at = time.monotonic()
            answer = client.ask(example.question, example.context, timeout_s=30, no_answer_threshold=float("inf"))
            answers.append((sent_at, texts.index(answer.spans[0].text) + 1))

        return ask

    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(QAClient(rolled.server.url, model_name=contract.ENSEMBLE))
            for _ in range(N_CONNECTIONS // 2)
        ]
        with tools.Asking([asking(client) for client in clients], pause_s=PAUSE_S) as load:
            tools.wait_until(lambda: min(load.n_asked) >= 2, 30)
            assert {network for _, network in answers} == {rolled.network}
            rolled.build_other()
            done = reload(rolled.server, tools)
            n_asked = list(load.n_asked)
            tools.wait_until(lambda: all(now > then + 1 for now, then in zip(load.n_asked, n_asked, strict=True)), 30)
    rolled.network = rolled.other
    assert {network for sent_at, network in answers if sent_at > done} == {rolled.network}


def test_a_corrupt_new_version_is_told_in_one_line_and_the_old_one_answers_on(
    rolled: Rolled, questions: Any, tools: Any
) -> None:
    old, before = rolled.network, rolled.versions()[-1]
    with Load(tools, rolled.server.url, contract.QUESTION_ANSWERING, questions) as load:
        load.wait_for_more()
        rolled.build_other()
        network = rolled.repository / contract.ENCODER / str(before + 1) / "network.onnx"
        content = bytearray(network.read_bytes())
        content[len(content) // 2] ^= 1
        network.write_bytes(content)
        reload(rolled.server, tools)
        load.wait_for_more()
        assert rolled.reports[0].startswith("not reloaded in full: Triton does not load the model 'encoder'")
        assert "network.onnx: was altered" in rolled.reports[0]
        assert "\n" not in rolled.reports[0]
        assert load.answered_by() == {old}
        assert rollback_repository(rolled.repository) == before + 2
        reload(rolled.server, tools)
        load.wait_for_more()
    assert (load.failures, load.answered_by()) == ([], {old})
    assert rolled.reports[1].startswith(f"version {before + 2}")


def test_sighup_rolls_a_served_repository_to_its_newest_version(
    repository: Path, build: Any, questions: Any, tools: Any
) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-m", "spanqa.cli", "serve", "--repository", str(repository)]
    ports = ["--grpc-port=0", "--http-port=0", "--metrics-port=0"]
    with subprocess.Popen([*command, *ports], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            lines = iter(process.stdout.readline, "")
            url = next(line for line in lines if line.startswith("  gRPC")).split()[1]
            with Load(tools, url, contract.QUESTION_ANSWERING, questions) as load:
                load.wait_for_more()
                build(repository, 2)
                os.kill(process.pid, signal.SIGHUP)
                said = next(line for line in iter(process.stderr.readline, "") if "version" in line)
                done = time.monotonic()
                load.wait_for_more()
            assert said.startswith("spanqa: version 2 of ")
            assert (load.failures, load.answered_by(done)) == ([], {2})
        finally:
            process.terminate()
            process.communicate(timeout=60)
        assert process.returncode == 0


def test_encoders_by_length_answer_in_a_real_triton_as_one_does(
    repository: Path, checkpoint: Checkpoint, questions: Any, tools: Any, tmp_path: Path
) -> None:
    buckets = tuple(Bucket(length=length, model=f"encoder_{length}", max_rows=4) for length in (64, 96, 128))
    folder = repository / contract.QUESTION_ANSWERING / "1"
    manifest = dataclasses.replace(load_manifest(folder), packing=Packing(buckets=buckets))
    files: dict[str, Path | bytes] = {
        f"{name}/{path.name}": path
        for name in (contract.PREPROCESS, contract.POSTPROCESS, contract.QUESTION_ANSWERING)
        for path in (repository / name / "1").glob("*.*")
        if path.name != "manifest.json"
    }
    for bucket in buckets:
        for path in (repository / contract.ENCODER / "1").glob("*.*"):
            files[f"{bucket.model}/{path.name}"] = path
    add_version(tmp_path / "in_buckets", manifest, files, {})
    with Server(tmp_path / "in_buckets") as server:
        for entry in (contract.QUESTION_ANSWERING, contract.ENSEMBLE):
            with Load(tools, server.url, entry, questions[:20]) as load:
                load.wait_for_more()
            refused = [failure for failure in load.failures if "takes at most 4" not in failure]
            assert (refused, load.answered_by()) == ([], {1})


def test_an_encoder_that_only_an_older_build_has_is_not_served(repository: Path, build: Any) -> None:
    build(repository, 2)
    left_over = repository / f"{contract.ENCODER}_384"
    (left_over / "1").mkdir(parents=True)
    (left_over / "config.pbtxt").write_text('platform: "tensorrt_plan"')
    assert {model.name for model in models_of(repository)} == set(contract.MODELS)
    assert {model.version for model in models_of(repository)} == {2}
