"""A real Triton with the shipped model repository or with a table of logits, real questions, and right answers."""

from __future__ import annotations

import importlib
import json
import os
import random
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from spanqa import contract
from spanqa.datasets import read_dataset
from spanqa.manifest import Manifest, load_served_tokenizer
from spanqa.spans import Decoded, decode
from spanqa.squad import Example
from spanqa.windows import WindowMaker, Windows, batch_windows
from spanqa_client.answer import Answer
from spanqa_server.server import Server

ROOT = Path(__file__).resolve().parents[2]
DATASET = ROOT / "tests" / "data" / "squad" / "dev-v2.0.json.gz"
HELDOUT_TITLES = Path(__file__).with_name("heldout16_titles.json")
ENTRIES = (contract.QUESTION_ANSWERING, contract.ENSEMBLE)
_NUMBERS = {"INT32": ("i", np.int32), "FP32": ("f", np.float32), "BOOL": ("?", np.bool_)}

Place = tuple[str, int, int]
"""An answer's text, char_start and char_end."""


@dataclass(frozen=True, kw_only=True)
class Right:
    """What a question's answer must be: the best spans, whether there is an answer, and the scores behind it."""

    places: tuple[Place, ...]
    has_answer: bool
    logits: tuple[float, ...]
    margin: float

    def require(self, places: Sequence[Place], has_answer: bool, logits: Sequence[float], margin: float) -> None:
        assert tuple(places) == self.places
        assert has_answer == self.has_answer
        # The same network on the same windows: what is left is float32's rounding in another order of sums.
        assert tuple(logits) == pytest.approx(self.logits, abs=1e-3)
        assert margin == pytest.approx(self.margin, abs=1e-3)

    def require_answer(self, answer: Answer) -> None:
        places = [(span.text, span.char_start, span.char_end) for span in answer.spans]
        self.require(places, answer.has_answer, [span.logit for span in answer.spans], answer.no_answer_margin)


class Offline:
    """The served network file in ONNX Runtime, one window at a time, with the core's own windows and decoder."""

    def __init__(self, repository: Path) -> None:
        self.manifest: Manifest
        folder = repository / contract.QUESTION_ANSWERING / "1"
        self.manifest, tokenizer = load_served_tokenizer(folder)
        self._maker = WindowMaker(tokenizer, self.manifest.windows)
        self._session = onnxruntime.InferenceSession(
            str(repository / contract.ENCODER / "1" / "network.onnx"), providers=["CPUExecutionProvider"]
        )

    def windows(self, question: str, context: str) -> Windows:
        return self._maker.windows(question, context)

    def decode(self, question: str, context: str, top_n: int = 1) -> Decoded:
        windows = self.windows(question, context)
        shape = (len(windows), int(windows.seq_lengths.max()))
        start, end = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for row, length in enumerate(windows.seq_lengths):
            batch = batch_windows([(windows, row)])
            arrays = (batch.input_ids, batch.attention_mask, batch.token_type_ids)
            feeds = {tensor.name: array for tensor, array in zip(contract.ENCODER_INPUTS, arrays, strict=True)}
            start[row, :length], end[row, :length] = self._session.run(
                [tensor.name for tensor in contract.ENCODER_OUTPUTS], feeds
            )
        settings = self.manifest.decode
        return decode(
            windows,
            context,
            start,
            end,
            n_best=top_n,
            max_answer_tokens=settings.max_answer_tokens,
            scale=settings.scale,
            word_boundaries=settings.word_boundaries,
        )

    def right(self, question: str, context: str, top_n: int = 1) -> Right:
        decoded = self.decode(question, context, top_n)
        return Right(
            places=tuple((span.text, span.char_start, span.char_end) for span in decoded.spans),
            has_answer=decoded.has_answer(self.manifest.decode.no_answer_threshold),
            logits=tuple(span.logit for span in decoded.spans),
            margin=decoded.no_answer_margin,
        )


def bytes_tensor(*texts: bytes) -> bytes:
    """Give texts as the raw content of a BYTES tensor."""
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def request_of(
    entry: str, question: str | bytes, context: str | bytes, **changes: Any
) -> service_pb2.ModelInferRequest:
    """Build a request of one row with all inputs; `changes` give an input another (datatype, shape, content).

    None leaves an input out; a name that the contract does not know is added.
    """
    texts = [text.encode() if isinstance(text, str) else text for text in (question, context)]
    inputs: dict[str, Any] = {
        "QUESTION": ("BYTES", [1, 1], bytes_tensor(texts[0])),
        "CONTEXT": ("BYTES", [1, 1], bytes_tensor(texts[1])),
        "TOP_N": ("INT32", [1, 1], struct.pack("<i", 1)),
        "NO_ANSWER_THRESHOLD": ("FP32", [1, 1], struct.pack("<f", 0.0)),
        "MAX_ANSWER_TOKENS": ("INT32", [1, 1], struct.pack("<i", contract.OWN_MAX_ANSWER_TOKENS)),
        "DISTINCT": ("BOOL", [1, 1], struct.pack("<?", False)),
    }
    request = service_pb2.ModelInferRequest(model_name=entry)
    for name, value in (inputs | changes).items():
        if value is not None:
            request.inputs.add(name=name, datatype=value[0], shape=value[1])
            request.raw_input_contents.append(value[2])
    return request


def outputs_of(response: service_pb2.ModelInferResponse) -> dict[str, list[Any]]:
    """Give the outputs of a response of one row, each as a flat list."""
    found = {}
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        assert output.shape[0] == 1
        if output.datatype == "BYTES":
            texts, at = [], 0
            while at < len(raw):
                (size,) = struct.unpack_from("<I", raw, at)
                texts.append(raw[at + 4 : at + 4 + size].decode())
                at += 4 + size
            found[output.name] = texts
        else:
            found[output.name] = np.frombuffer(raw, _NUMBERS[output.datatype][1]).tolist()
    return found


def require_right(right: Right, response: service_pb2.ModelInferResponse) -> None:
    """Hold a raw response against what it must say."""
    outputs = outputs_of(response)
    places = list(zip(outputs["ANSWER"], outputs["CHAR_START"], outputs["CHAR_END"], strict=True))
    right.require(places, outputs["HAS_ANSWER"][0], outputs["LOGIT"], outputs["NO_ANSWER_MARGIN"][0])


def connect(url: str) -> tuple[grpc.Channel, Any]:
    """Open a channel of any message size and give it with Triton's service on it."""
    sizes = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    channel = grpc.insecure_channel(url, options=sizes)
    return channel, service_pb2_grpc.GRPCInferenceServiceStub(channel)


def document_of(paragraphs: Sequence[str], n_words: int) -> str:
    """Join paragraphs until there are at least so many words."""
    taken: list[str] = []
    n_taken = 0
    for paragraph in paragraphs:
        if n_taken >= n_words:
            break
        taken.append(paragraph)
        n_taken += len(paragraph.split())
    return " \n".join(taken)


def resident_bytes(server: Server) -> int:
    """Give the resident memory of Triton and its Python processes."""
    pids = [server.triton_pid, *(stub.pid for stub in server.stubs())]
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * os.sysconf("SC_PAGE_SIZE")


def shared_memory_bytes(pid: int) -> int:
    """Give what a server process's regions in /dev/shm take up."""
    return sum(path.stat().st_blocks * 512 for path in Path("/dev/shm").glob(f"spanqa_{pid}_*"))


def wait_until(condition: Callable[[], Any], timeout_s: float) -> float:
    """Wait until a condition holds and give the seconds it took."""
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > timeout_s:
            pytest.fail(f"{condition} did not hold within {timeout_s:g} s")
        time.sleep(0.02)
    return time.monotonic() - start


class Asking:
    """Threads that ask while a `with` block lasts; what failed in one of them is raised at its end.

    With a pause between two questions of a thread, whatever else must happen meanwhile finds a machine that has room.
    """

    def __init__(self, asks: Sequence[Callable[[int], None]], *, pause_s: float = 0.0) -> None:
        self.n_asked = [0] * len(asks)
        self._pause_s = pause_s
        self._errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=pair) for pair in enumerate(asks)]

    def _run(self, place: int, ask: Callable[[int], None]) -> None:
        try:
            while not self._stop.is_set():
                ask(self.n_asked[place])
                self.n_asked[place] += 1
                self._stop.wait(self._pause_s)
        except BaseException as error:
            self._errors.append(error)

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._errors and error is None:
            raise self._errors[0]


@pytest.fixture(scope="session")
def tools() -> Any:
    """The helpers of this file, which tests cannot import."""
    return sys.modules[__name__]


@pytest.fixture(scope="session")
def benchmark() -> Callable[[str], Any]:
    """Imports a module of the benchmarks, and leaves the path as it is: some have names that others have too."""

    def imported(name: str) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(ROOT / "benchmarks"))
            return importlib.import_module(name)

    return imported


@pytest.fixture(scope="session")
def repository() -> Path:
    """The shipped repository, or the one that SPANQA_TEST_REPOSITORY names."""
    return Path(os.environ.get("SPANQA_TEST_REPOSITORY") or ROOT / "model_repository")


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory, benchmark: Any) -> Path:
    """A repository whose network is a table of logits: everything is real but the arithmetic, which costs nothing."""
    folder: Path = tmp_path_factory.mktemp("table") / "repository"
    benchmark("table_model").write_table_repository(folder)
    return folder


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    with Server(repository) as server:
        yield server


@pytest.fixture(scope="session")
def table_server(table: Path) -> Iterator[Server]:
    # Of a batch with a text that its sender cut off Triton never counts the requests as finished, and the stop would
    # wait for them: nothing else is under way when it comes.
    with Server(table, drain_timeout_s=1.0) as server:
        yield server


@pytest.fixture(scope="session")
def offline(repository: Path) -> Offline:
    return Offline(repository)


@pytest.fixture(scope="session")
def table_offline(table: Path) -> Offline:
    return Offline(table)


@pytest.fixture(scope="session")
def dataset() -> list[Example]:
    return list(read_dataset(DATASET))


@pytest.fixture(scope="session")
def paragraphs(dataset: list[Example]) -> list[str]:
    """The paragraphs of the dataset in their order."""
    return list(dict.fromkeys(example.context for example in dataset))


@pytest.fixture(scope="session")
def heldout(dataset: list[Example]) -> list[Example]:
    """Questions on the 16 held-out articles."""
    titles = set(json.loads(HELDOUT_TITLES.read_text("utf-8")))
    return [example for example in dataset if example.title in titles]


@pytest.fixture(scope="session")
def short_questions(heldout: list[Example]) -> list[tuple[str, str]]:
    """Twenty real questions on short texts."""
    short = [example for example in heldout if len(example.context) < 600]
    return [(one.question, one.context) for one in random.Random(1).sample(short, 20)]


@pytest.fixture(scope="session")
def good(short_questions: list[tuple[str, str]], offline: Offline) -> list[tuple[str, str, Right]]:
    """Short questions with what their answers must be."""
    return [(*pair, offline.right(*pair)) for pair in short_questions]


@pytest.fixture(scope="session")
def table_good(short_questions: list[tuple[str, str]], table_offline: Offline) -> list[tuple[str, str, Right]]:
    """Short questions with what the table's answers to them must be."""
    return [(*pair, table_offline.right(*pair)) for pair in short_questions]
