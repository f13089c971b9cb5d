"""Fuzzed inputs over HTTP, and bytes that are neither HTTP nor gRPC."""

from __future__ import annotations

import gzip
import json
import random
import socket
from typing import Any

from fuzz_grpc import texts_tensor
from fuzz_probe import DEADLINE_S, Ended, Probe, Target, fault_of
from fuzz_texts import mutated, text_of

from spanqa import contract

REPLY_S = 1.0
"""How long bytes that ask for nothing, or for which more should follow, are given for a reply."""
MODEL = f"/v2/models/{contract.QUESTION_ANSWERING}"
PATHS = (
    *("/v2", "/v2/health/live", "/v2/health/ready", f"{MODEL}/ready", f"{MODEL}/config", f"{MODEL}/stats", "/metrics"),
    *(f"{MODEL}/versions/7/infer", f"{MODEL}/generate_stream", "/v2/models//infer", "/v2/repository/index", "/", "*"),
    *("/v2/repository/models/encoder/unload", "/v2/systemsharedmemory/status", "/v2/logging", "/../../etc/passwd"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 1e308, 2**63, -(2**63), 10**30, "", "1", [], [[]], [None], {}, {"a": []}),
    *("\ud800", "word \udfff", "\ud83d\ude00", "\0", "x" * 5000, [1, "2"], [[["deep"]]]),
)


def _request(path: str, body: bytes, *, method: str = "POST", headers: dict[str, str] | None = None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: here", "Connection: close"]
    given = {"Content-Length": str(len(body)), **(headers or {})}
    lines += [f"{name}: {value}" for name, value in given.items()]
    return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + body


def _exchange(url: str, content: bytes, *, wait_s: float) -> bytes | None:
    """Send bytes and read to the end; None where the other side still waits when the time is over."""
    host, _, port = url.rpartition(":")
    reply = b""
    with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
        try:
            connection.sendall(content)
            connection.settimeout(wait_s)
            while block := connection.recv(1 << 16):
                reply += block
        except TimeoutError:
            return reply or None
        except OSError:  # closed while we sent, or reset: a reply may have come before
            return reply
    return reply


def _unchunked(body: bytes) -> bytes:
    """Give a body that came in chunks as one."""
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        n_bytes = int(size.partition(b";")[0] or b"0", 16)
        whole, body = whole + body[:n_bytes], body[n_bytes + 2 :]
    return whole


def _judged(reply: bytes | None, *, is_whole: bool) -> Ended:
    if reply is None:
        return Ended(how="waits", fault=f"no reply within {DEADLINE_S:g} s" if is_whole else "")
    if not reply.startswith(b"HTTP/1."):
        return Ended(how="closed", fault="no reply to a whole request" if is_whole else "")
    head, _, body = reply.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1].decode("latin-1")
    if b"transfer-encoding: chunked" in head.lower():
        body = _unchunked(body)
    if status == "200" or not body:
        return Ended(how=status)
    try:
        says = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError, UnicodeDecodeError):
        says = body.decode("utf-8", "replace")
        # The web server's own pages for what no handler takes.
        if "<html" in says.lower():
            return Ended(how=status)
        return Ended(how=status, fault=fault_of(says) or ("" if status != "500" else f"no JSON: {says[:200]!r}"))
    return Ended(how=status, fault=fault_of(says))


def _tensor(name: str, dtype: str, values: Any) -> dict[str, Any]:
    return {"name": name, "datatype": dtype, "shape": [1, 1], "data": values}


def _document(rng: random.Random) -> tuple[str, Any]:
    question, context = text_of(rng, 60), text_of(rng)
    if rng.random() < 0.5:
        document: Any = {"QUESTION": question, "CONTEXT": context, "TOP_N": rng.randint(1, 64)}
        return f"{MODEL}/generate", document
    columns = [_tensor("QUESTION", "BYTES", [question]), _tensor("CONTEXT", "BYTES", [context])]
    return f"{MODEL}/infer", {"inputs": [*columns, _tensor("TOP_N", "INT32", [rng.randint(1, 64)])]}


def _spoil(rng: random.Random, document: Any) -> Any:
    """Put another value somewhere in a document."""
    if not document or not isinstance(document, dict | list) or rng.random() < 0.2:
        return rng.choice(VALUES)
    if isinstance(document, list):
        at = rng.randrange(len(document))
        return [*document[:at], _spoil(rng, document[at]), *document[at + 1 :]]
    name = rng.choice([*document, "unknown"])
    return {**document, name: _spoil(rng, document.get(name))}


def json_bodies(rng: random.Random, target: Target) -> Ended:
    """JSON that is sound, spoilt, damaged, cut off, packed wrongly or nested too deep."""
    path, document = _document(rng)
    if rng.random() < 0.7:
        document = _spoil(rng, document)
    body = json.dumps(document, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    kind, headers = rng.random(), {}
    if kind < 0.25:
        body = mutated(rng, body)
    elif kind < 0.3:
        depth = rng.choice([100, 10_000])
        body = b'{"QUESTION": ' + b"[" * depth + b"]" * depth + b"}"
    elif kind < 0.4:
        headers = {"Content-Encoding": rng.choice(["gzip", "deflate", "br"])}
        body = rng.choice([body, gzip.compress(body), mutated(rng, gzip.compress(body))])
    reply = _exchange(target.http_url, _request(path, body, headers=headers), wait_s=DEADLINE_S)
    return _judged(reply, is_whole=True)


def binary_bodies(rng: random.Random, target: Target) -> Ended:
    """The binary extension: raw tensors behind a JSON head, with sizes that need not fit."""
    contents = [texts_tensor(text_of(rng, 40).encode()), texts_tensor(text_of(rng).encode())]
    if rng.random() < 0.5:
        contents[rng.randrange(2)] = mutated(rng, contents[rng.randrange(2)])
    columns = []
    for name, content in zip(("QUESTION", "CONTEXT"), contents, strict=True):
        size: Any = len(content) if rng.random() < 0.7 else rng.choice([0, -1, len(content) + 9, 2**40, "8", None, 1.5])
        column = {"name": name, "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": size}}
        columns.append(column)
    document: dict[str, Any] = {"inputs": columns}
    if rng.random() < 0.3:
        document["parameters"] = {"binary_data_output": rng.choice([True, False, 1, "yes"])}
    head = json.dumps(document).encode()
    length = len(head) if rng.random() < 0.8 else rng.choice([0, -1, 5, len(head) + 50, 2**40, "x"])
    headers = {"Inference-Header-Content-Length": str(length), "Content-Type": "application/octet-stream"}
    reply = _exchange(
        target.http_url, _request(f"{MODEL}/infer", head + b"".join(contents), headers=headers), wait_s=DEADLINE_S
    )
    return _judged(reply, is_whole=True)


def requests(rng: random.Random, target: Target) -> Ended:
    """Other paths, methods and headers; bodies that are shorter or longer than they say."""
    body = b"" if rng.random() < 0.5 else text_of(rng, rng.randrange(200)).encode()
    headers: dict[str, str] = {}
    if rng.random() < 0.3:
        headers["Content-Length"] = str(rng.choice([0, len(body) + 10, -1, 2**63, "x"]))
    if rng.random() < 0.1:
        headers["Transfer-Encoding"] = "chunked"
    method = rng.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "NONE"])
    content = _request(rng.choice(PATHS), body, method=method, headers=headers)
    return _judged(_exchange(target.http_url, content, wait_s=REPLY_S), is_whole=False)


def noise(rng: random.Random, target: Target) -> Ended:
    """Bytes of any kind on any port: noise, HTTP damaged or cut off, HTTP/2's preface and then noise."""
    sound = _request(*(lambda path, document: (path, json.dumps(document).encode()))(*_document(rng)))
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    content = rng.choice(
        [
            rng.randbytes(rng.randrange(1, 2000)),
            mutated(rng, sound),
            sound[: rng.randrange(len(sound))],
            preface + bytes(3) + b"\x04" + bytes(5) + rng.randbytes(rng.randrange(200)),
            b"\x16\x03\x01" + rng.randbytes(200),
        ]
    )
    url = rng.choice([target.grpc_url, target.http_url, target.http_url, target.metrics_url])
    return _judged(_exchange(url, content, wait_s=REPLY_S / 4), is_whole=False)


HTTP_PROBES: dict[str, tuple[Probe, int]] = {
    "HTTP: JSON": (json_bodies, 15),
    "HTTP: binary": (binary_bodies, 7),
    "HTTP: requests": (requests, 4),
    "bytes on sockets": (noise, 4),
}
"""Each kind with its share."""
