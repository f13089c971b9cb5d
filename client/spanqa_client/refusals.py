"""What a failed call means: whether it passes, whether another server may answer, and which of our errors it is."""

from __future__ import annotations

from dataclasses import dataclass

from spanqa_client.errors import (
    BadRequest,
    ClientError,
    ProtocolError,
    ServerFault,
    ServerUnavailable,
    Timeout,
    TrustError,
)
from spanqa_client.steps import CallFailed

# What Triton calls internal and passes: a process died, a connection ended, no room in /dev/shm, a sudden stop.
_PASSING_FAULTS = (
    "stub",
    "not healthy",
    "rst_stream",
    "shared memory pool",
    "server not ready",
    "expected a single response, got 0",  # there was no shared memory left for the response
)
_OUR_ERRORS: dict[str, type[ClientError]] = {
    "UNAVAILABLE": ServerUnavailable,
    "NOT_FOUND": ServerUnavailable,
    "DEADLINE_EXCEEDED": Timeout,
    "INVALID_ARGUMENT": BadRequest,
    "OUT_OF_RANGE": BadRequest,
    "RESOURCE_EXHAUSTED": BadRequest,
    "UNIMPLEMENTED": ProtocolError,
}
# gRPC's and BoringSSL's words for handshakes that fail, and what each means.
_HANDSHAKES = (
    ("certificate has expired", "the server's certificate has expired: it must be renewed there"),
    ("certificate is not yet valid", "the server's certificate is not valid yet: look at the clocks of both machines"),
    (
        "hostname verification check failed",
        "the server's certificate is for another name: ask by a name that stands in it, or give that name as the "
        "authority",
    ),
    (
        "certificate_verify_failed",
        "the server's certificate is signed by nobody who is trusted here: give the CA that signed it",
    ),
    ("wrong_version_number", "the server does not speak TLS: ask it without, or give the port that does"),
    ("security handshaker", "gRPC does not take the certificates or the key given here: look at these files"),
    ("handshake failed", "no TLS connection comes about"),
)
_RESTRICTED = "protocol is restricted"
"""Triton's words where `--grpc-restricted-protocol` asks for a header that did not come; it calls that unavailable."""
_ENDED = ("socket closed", "connection reset", "broken pipe")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What is to be done about a failed call.

    Args:
        error: What it is raised as, in the end.
        cause: gRPC's own error.
        passes: Whether the same request may succeed in a moment; answering twice does no harm.
        is_final: Whether no other server would answer it either.
        is_absent: Whether no server was there at all.
        ends_without_a_word: Whether the connection was ended as soon as it was made.
    """

    error: ClientError
    cause: Exception
    passes: bool = False
    is_final: bool = False
    is_absent: bool = False
    ends_without_a_word: bool = False

    def as_insecure(self, fault: str) -> Judgement:
        """Give the judgement of a connection whose two sides do not agree about TLS.

        Args:
            fault: What is wrong, with the server's address.
        """
        return Judgement(error=TrustError(fault), cause=self.cause)


def judged(url: str, failed: CallFailed, *, timeout_s: float, has_answered: bool) -> Judgement:
    """Judge a failed call.

    Args:
        url: The server's address.
        failed: What failed.
        timeout_s: The time that the call was given.
        has_answered: Whether the model has answered before, here or on another server.
    """
    code, details, cause = failed.code, failed.details or "no details", failed.cause
    words = details.lower()
    if failed.is_closed:
        return Judgement(error=ClientError("the client was closed while it was asking"), cause=cause, is_final=True)
    if code == "UNAVAILABLE":
        return _of_unavailable(url, details, cause)
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return Judgement(error=TrustError(_without_credentials(url, details)), cause=cause)
    kind = _OUR_ERRORS.get(code, ServerFault)
    if kind is Timeout:
        late = Timeout(f"no answer from {url} within {timeout_s:g} s: allow more time, or ask less at once")
        return Judgement(error=late, cause=cause, is_absent=True)
    if code == "NOT_FOUND":
        away = kind(f"{url} does not have the model: {details}")
        return Judgement(error=away, cause=cause, passes=has_answered)  # the model is being loaded again
    if kind is BadRequest:
        # Triton fails a whole batch for one text that its sender cut off; this client never sends such a one.
        passes = code == "INVALID_ARGUMENT" and "incomplete string data" in words
        return Judgement(error=kind(details), cause=cause, passes=passes, is_final=not passes)
    passes = (
        (code == "INTERNAL" and any(fault in words for fault in _PASSING_FAULTS))
        or (code == "UNKNOWN" and "stream removed" in words)  # a connection lost halfway
        or code == "CANCELLED"  # not by this client, which would be closed: a server that stops cancels its calls
    )
    return Judgement(error=kind(f"{url}: {code}: {details}"), cause=cause, passes=passes, is_final=not passes)


def is_restricted(details: str) -> bool:
    """Whether Triton refused a call for want of a header, which its details say alone."""
    return _RESTRICTED in details.lower()


def _of_unavailable(url: str, details: str, cause: Exception) -> Judgement:
    words = details.lower()
    if is_restricted(details):
        return Judgement(error=TrustError(_without_credentials(url, details)), cause=cause)
    for mark, meaning in _HANDSHAKES:
        if mark in words:
            told = f"{url}: {meaning} ({_reason(details)})"
            return Judgement(error=TrustError(told), cause=cause)
    return Judgement(
        error=ServerUnavailable(f"{url}: UNAVAILABLE: {details}"),
        cause=cause,
        passes=True,
        is_absent=True,
        ends_without_a_word=any(mark in words for mark in _ENDED),
    )


def _without_credentials(url: str, details: str) -> str:
    return f"{url} wants other credentials than it was given, such as a token or its header: {details}"


def _reason(details: str) -> str:
    """What gRPC says last: the rest of its chain of causes helps nobody."""
    last = details.removesuffix(": OK").rpartition("routines:")[2].rpartition("error: ")[2]
    return last.removeprefix("OPENSSL_internal:")
