"""Errors inside a Triton model as responses: the sender's faults explained, ours told by an id, never a traceback."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

from spanqa import logs
from spanqa.errors import InputError, OverloadError, SpanqaError

_OUTAGES = ("not healthy", "no available versions", "not ready", "unavailable", "not found", "shutting down")
"""What Triton says of a model that died or is being loaded again: asking again helps."""


class CancelledError(SpanqaError):
    """The sender cancelled the request."""


class EncoderError(SpanqaError):
    """The encoder did not answer.

    Args:
        message: What Triton said.
        outage: Whether asking again later can help.
    """

    def __init__(self, message: str, *, outage: bool) -> None:
        super().__init__(message)
        self.outage = outage


def is_outage(message: str) -> bool:
    """Whether an error message of Triton's speaks of a model that is gone for the moment."""
    lowered = message.lower()
    return any(words in lowered for words in _OUTAGES)


def _id_of(request: Any) -> str | None:
    """Give the id that a request's sender chose, or None."""
    return str(request.request_id()) if hasattr(request, "request_id") else None


def error_response(pb_utils: Any, error: Exception, request_id: str | None = None) -> Any:
    """Make the response to a request that failed.

    Args:
        pb_utils: Triton's module for Python models.
        error: Why it failed.
        request_id: The id that the request's sender chose, which the log then names beside the fault.

    Returns:
        INVALID_ARG with the sentence for the sender's faults, CANCELLED, UNAVAILABLE while there is too much to do or
        the encoder is away, and INTERNAL with an id for everything else, whose traceback goes to the server's log under
        that id.
    """
    codes = pb_utils.TritonError
    if isinstance(error, InputError):
        answer = codes(str(error), codes.INVALID_ARG)
    elif isinstance(error, CancelledError):
        answer = codes(str(error), codes.CANCELLED)
    elif isinstance(error, OverloadError):
        answer = codes(str(error), codes.UNAVAILABLE)
    elif isinstance(error, EncoderError) and error.outage:
        answer = codes(f"the encoder is away for a moment ({error}): ask again", codes.UNAVAILABLE)
    else:
        fault = uuid.uuid4().hex[:12]
        logs.write("error", "fault", f"fault {fault}", fault=fault, trace=logs.trace_of(error), request_id=request_id)
        reason = str(error) if isinstance(error, SpanqaError) else "an unexpected error"
        answer = codes(f"{reason} (fault {fault}: the server's log says more)", codes.INTERNAL)
    return pb_utils.InferenceResponse(error=answer)


def guarded(pb_utils: Any, step: Callable[[Any], list[Any]], request: Any) -> Any:
    """Answer one request with the tensors that a step makes of it, or with its error."""
    try:
        return pb_utils.InferenceResponse(output_tensors=step(request))
    except Exception as error:  # every fault is told to whom it concerns
        return error_response(pb_utils, error, _id_of(request))


def guarded_together(
    pb_utils: Any, step: Callable[[Sequence[Any]], list[list[Any]]], requests: Sequence[Any]
) -> list[Any]:
    """Answer requests by one step for all of them; where that fails, one by one, so that a fault is its own request's.

    Args:
        pb_utils: Triton's module for Python models.
        step: Makes the output tensors of each of some requests.
        requests: The requests; one at least.
    """
    if len(requests) > 1:
        try:
            return [pb_utils.InferenceResponse(output_tensors=tensors) for tensors in step(requests)]
        except Exception as error:  # told below, to whom it concerns
            reason = logs.said(error)
            logs.write("warning", "one_by_one", f"{len(requests)} requests together: {reason}: one by one")
    return [guarded(pb_utils, lambda one: step([one])[0], request) for request in requests]
