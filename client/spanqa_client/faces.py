"""Methods of a face made of the logic's: the same arguments and documentation, the steps carried out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from functools import WRAPPER_ASSIGNMENTS
from typing import Any, Concatenate, ParamSpec, TypeVar

from spanqa_client.steps import Steps

P = ParamSpec("P")
T = TypeVar("T")
_RESULT = "return"


def blocking(logic: Callable[Concatenate[Any, P], Steps[T]]) -> Callable[Concatenate[Any, P], T]:
    """Make a method that waits for the result.

    Args:
        logic: A method of `Asking`; the class has one as `_asking`.
    """

    def method(self: Any, *args: P.args, **keywords: P.kwargs) -> T:
        asking = self._asking
        result: T = asking.connection.run(logic(asking, *args, **keywords))
        return result

    return _documented(method, logic)


def awaiting(logic: Callable[Concatenate[Any, P], Steps[T]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Make a method that is awaited; arguments as `blocking`."""

    async def method(self: Any, *args: P.args, **keywords: P.kwargs) -> T:
        asking = self._asking
        result: T = await asking.connection.run(logic(asking, *args, **keywords))
        return result

    return _documented(method, logic)


def _documented(method: Any, logic: Any) -> Any:
    for name in WRAPPER_ASSIGNMENTS:
        setattr(method, name, getattr(logic, name))
    # What comes out of the steps is the method's result, also for `help`.
    result = str(logic.__annotations__[_RESULT]).removeprefix("Steps[").removesuffix("]")
    method.__annotations__ = {**logic.__annotations__, _RESULT: result}
    method.__signature__ = inspect.signature(logic).replace(return_annotation=result)
    return method
