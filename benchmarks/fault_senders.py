"""Scenarios of senders that are slow, vanish, give up at once, or send too much."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import grpc
from fault_setting import Load, Setting, Verdict, rolling_over
from tritonclient.grpc import service_pb2, service_pb2_grpc

from spanqa import contract
from spanqa_client.options import Options
from spanqa_client.wire import request_from_question
from spanqa_server.server import Server

N_SENDERS = 20
N_FLOOD = 6000
"""More than the server's queue holds."""
N_DEADLINES = 1500
SLOW_S = 5.0
FLOOD_TIMEOUT_S = 120.0
VANISHING = """
import sys
from spanqa_client.client import QAClient
with QAClient(sys.argv[1]) as client:
    for answer in client.ask_many((("Who leads it?", "Bob leads it. " * 2000) for _ in range(1000)), concurrency=8):
        print("answered", flush=True)
"""


def _request(setting: Setting, place: int) -> service_pb2.ModelInferRequest:
    question, context = setting.items[place % len(setting.items)]
    options = Options(top_n=1, no_answer_threshold=None, max_answer_tokens=None, distinct=False)
    return request_from_question(contract.QUESTION_ANSWERING, question.encode(), context.encode(), options)


def _connected(url: str) -> socket.socket:
    host, _, port = url.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def _generate(setting: Setting, place: int) -> bytes:
    question, context = setting.items[place % len(setting.items)]
    body = json.dumps({"QUESTION": question, "CONTEXT": context}).encode()
    head = (
        f"POST /v2/models/{contract.QUESTION_ANSWERING}/generate HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}"
    )
    return f"{head}\r\n\r\n".encode() + body


@contextlib.contextmanager
def _beside(setting: Setting, verdict: Verdict) -> Iterator[tuple[Server, Load]]:
    """A server with a load, of which every question must be answered; then the server must stop soon."""
    with setting.serving(verdict) as server:
        n_recoveries = server.n_recoveries
        with Load(server.url, setting.items, setting.expected, endless=True) as load:
            load.wait_for_more()
            with rolling_over(server, setting, verdict):
                yield server, load
            load.wait_for_more(64)
            verdict.require(server.n_recoveries == n_recoveries, "something was taken for dead")
        load.judge(verdict)


def slow(setting: Setting, verdict: Verdict) -> None:
    """Connections that send half a request, or send many and read nothing, on both ports, for 5 s."""
    with _beside(setting, verdict) as (server, load), contextlib.ExitStack() as stack:
        for place in range(N_SENDERS):
            half = stack.enter_context(_connected(server.http_url))
            whole = _generate(setting, place)
            half.sendall(whole[: len(whole) * (place + 1) // (N_SENDERS + 1)])
            unread = stack.enter_context(_connected(server.http_url))
            unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            unread.sendall(whole * 20)
            silent = stack.enter_context(_connected(server.url))
            # HTTP/2's preface and an empty SETTINGS frame, and then nothing.
            silent.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        until = time.monotonic() + SLOW_S
        while time.monotonic() < until:
            load.wait_for_more()
    verdict.figures["slow connections"] = 3 * N_SENDERS


def vanishing(setting: Setting, verdict: Verdict) -> None:
    """Client processes killed amid their questions, calls cancelled, connections closed unread."""
    with _beside(setting, verdict) as (server, load):
        clients = [
            subprocess.Popen([sys.executable, "-c", VANISHING, server.url], stdout=subprocess.PIPE) for _ in range(3)
        ]
        for client in clients:
            if client.stdout:
                client.stdout.readline()
            client.kill()
            client.communicate()
        channel = grpc.insecure_channel(server.url)
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for place in range(20 * N_SENDERS):
            call = stub.ModelInfer.future(_request(setting, place), timeout=30)
            if place % 4:
                time.sleep(setting.rng.random() / 100)
            call.cancel()
        channel.close()
        for place in range(N_SENDERS):
            with _connected(server.http_url) as left:
                left.sendall(_generate(setting, place) * 5)
        load.wait_for_more(64)
    verdict.figures["cancelled"] = 20 * N_SENDERS


def deadlines(setting: Setting, verdict: Verdict) -> None:
    """Requests whose deadline is over before they can be answered."""
    codes: Counter[str] = Counter()
    with _beside(setting, verdict) as (server, _), grpc.insecure_channel(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        start = time.monotonic()
        timeouts = [setting.rng.uniform(0.0005, 0.05) for _ in range(N_DEADLINES)]
        calls = [stub.ModelInfer.future(_request(setting, i), timeout=one) for i, one in enumerate(timeouts)]
        for call in calls:
            codes[call.code().name] += 1
        seconds = time.monotonic() - start
    verdict.figures.update({"deadlines": N_DEADLINES, **codes})
    verdict.require(codes.keys() <= {"OK", "DEADLINE_EXCEEDED", "UNAVAILABLE"}, f"ended with {dict(codes)}")
    verdict.require(seconds < 30, f"{N_DEADLINES} short deadlines ended after {seconds:.0f} s")


def overflow(setting: Setting, verdict: Verdict) -> None:
    """More requests at once than the queue holds: each is answered or refused as UNAVAILABLE, and then out of turn.

    Triton hands requests over one by one, some hundreds a second: until then the flood waits in its own queue, refused
    or not. But what is refused must not wait for the answers before it.
    """
    ended: list[tuple[str, float, str]] = []
    with _beside(setting, verdict) as (server, _), grpc.insecure_channel(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        calls = []
        for place in range(N_FLOOD):
            call, start = stub.ModelInfer.future(_request(setting, place), timeout=FLOOD_TIMEOUT_S), time.monotonic()

            def note(done: grpc.Future, start: float = start) -> None:
                ended.append((done.code().name, time.monotonic() - start, done.details() or ""))

            call.add_done_callback(note)
            calls.append(call)
        for call in calls:
            call.code()
    codes = Counter(code for code, _, _ in ended)
    refused = [(seconds, says) for code, seconds, says in ended if code == "UNAVAILABLE"]
    verdict.figures.update({"flood": N_FLOOD, **codes})
    verdict.require(codes.keys() <= {"OK", "UNAVAILABLE"}, f"ended with {dict(codes)}")
    verdict.require(codes["OK"], "none of the flood was answered")
    answered_s = max(seconds for code, seconds, _ in ended if code == "OK")
    if refused:
        verdict.figures["longest refusal s"] = round(max(refused)[0], 1)
        verdict.figures["longest answer s"] = round(answered_s, 1)
        verdict.require(
            max(refused)[0] < answered_s,
            f"a refusal took {max(refused)[0]:.1f} s, the longest answer {answered_s:.1f} s: refusals wait for answers",
        )
        verdict.require(not any("Traceback" in says or "\n" in says for _, says in refused), f"said {refused[0][1]}")


SENDER_SCENARIOS = {"slow-senders": slow, "vanishing-senders": vanishing, "deadlines": deadlines, "overflow": overflow}
