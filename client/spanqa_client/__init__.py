"""Asking a spanqa server, and scoring answers with SQuAD's metrics."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spanqa_client.answer import Answer, Span
    from spanqa_client.async_client import AsyncQAClient
    from spanqa_client.client import QAClient
    from spanqa_client.contexts import ContextAnswer, ContextAnswers
    from spanqa_client.security import ConnectionSettings

__all__ = ["Answer", "AsyncQAClient", "ConnectionSettings", "ContextAnswer", "ContextAnswers", "QAClient", "Span"]

_MODULES = {
    "Answer": "answer",
    "AsyncQAClient": "async_client",
    "ConnectionSettings": "security",
    "ContextAnswer": "contexts",
    "ContextAnswers": "contexts",
    "QAClient": "client",
    "Span": "answer",
}


def __getattr__(name: str) -> Any:
    # On first use: the metrics must not pay for gRPC.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
