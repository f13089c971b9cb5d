"""Signatures of TensorRT's functions, read from what pybind11 writes into their docstrings."""

import inspect
import re
from functools import cache

_HEAD = re.compile(r"^(?:\d+\. )?(\w*)\((.*)\) -> (.+)$")
_CAN_BE = {
    "int": lambda value: hasattr(value, "__index__"),
    "typing.SupportsInt": lambda value: hasattr(value, "__int__"),
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "tuple": lambda value: isinstance(value, tuple),
    "list": lambda value: isinstance(value, list),
    "buffer": lambda value: isinstance(value, bytes | bytearray | memoryview),
    "typing_extensions.Buffer": lambda value: isinstance(value, bytes | bytearray | memoryview),
}


def signatures(function):
    """Every overload, without `self`, as (Signature, name of the class it returns)."""
    return _signatures_in(function.__doc__ or "")


@cache
def _signatures_in(text):
    found = []
    for line in text.splitlines():
        head = _HEAD.match(line)
        if head and "*args, **kwargs" not in line:
            texts = _split(head[2])
            parameters = [_parameter(text, index) for index, text in enumerate(texts)]
            found.append((inspect.Signature(parameters[1:]), head[3].rpartition(".")[2]))
    return found


def bind(bindings, name, function, args, kwargs):
    """Give the class that a call returns; a TypeError where no overload takes the arguments."""
    overloads = signatures(function)
    for signature, returns in overloads:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            continue
        if all(_takes(bindings, signature.parameters[key].annotation, value) for key, value in bound.arguments.items()):
            return returns
    raise TypeError(f"{name}{args}{kwargs} fits none of {[str(signature) for signature, _ in overloads]}")


def _split(text):
    """Split at the commas that are in no bracket."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in "[(<{") - (sign in "])>}")
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts if part.strip()]


def _parameter(text, index):
    declared, _, default = text.partition(" = ")
    name, _, annotation = declared.partition(": ")
    unnamed = re.fullmatch(r"arg\d+", name)
    return inspect.Parameter(
        name,
        inspect.Parameter.POSITIONAL_ONLY if unnamed or not index else inspect.Parameter.POSITIONAL_OR_KEYWORD,
        annotation=annotation,
        default=default or inspect.Parameter.empty,
    )


def _takes(bindings, annotation, value):
    if annotation in _CAN_BE:
        return _CAN_BE[annotation](value)
    kind = getattr(bindings, annotation.rpartition(".")[2], None)
    if not isinstance(kind, type):
        return True
    # pybind11 makes shapes of sequences.
    return isinstance(value, kind) or (kind is bindings.Dims and isinstance(value, tuple | list))
