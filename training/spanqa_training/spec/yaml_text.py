"""YAML as people mean it: a safe loader in which only true and false are booleans, and 1e-3 is a number."""

from __future__ import annotations

import re
from typing import Any

import yaml

from spanqa_training.errors import SpecError

_PLAIN = {
    # YAML 1.2's core schema: 1.1 reads `no` as false, 12:30 as 750 and 1e-3 as text.
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
}


class _Loader(yaml.SafeLoader):
    """A safe loader with those scalars that refuses a key given twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 as its base declares it

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


for _tag, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), list(_first))


def value_from_yaml(text: str) -> Any:
    """Read one YAML document.

    Returns:
        Mappings, lists, texts, numbers, true, false and null.

    Raises:
        SpecError: Naming the line, and the usual mend.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 the loader is a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1} column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SpecError(f"{where}not valid YAML: {problem}{_mend(text, mark)}") from error
    except RecursionError as error:
        raise SpecError("not valid YAML: it is nested too deeply") from error


def _mend(text: str, mark: Any) -> str:
    line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
    if "???" in line and "{" in line:
        return ': write "???" in quotes between braces, or give the key a line of its own'
    if "\t" in line:
        return ": indent with spaces, not tabs"
    return ""
