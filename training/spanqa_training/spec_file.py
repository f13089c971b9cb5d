"""Spec files: YAML with `${...}` and `???` to a checked Spec, and back."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spanqa_training.errors import SpecError
from spanqa_training.spec import Spec


def load_spec(path: str | Path, overrides: Sequence[str] = (), *, model: str | None = None) -> Spec:
    """Read a spec and apply `key=value` overrides.

    Args:
        path: A YAML file. `${...}` refers to other keys; `???` must be overridden.
        overrides: Such as `optim.lr=1e-4`; later ones win.
        model: Replaces `restore_from`.

    Raises:
        SpecError: Naming the key and what is allowed.
    """
    config = _parse(Path(path), overrides)
    if model is not None:
        config.restore_from = model
    try:
        values = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise SpecError(f"{path}: {str(error).splitlines()[0]}") from error
    for key, value in _leaves(values):
        if value == "???":
            raise SpecError(f"{path}: {key} is ???, a value that must be given: add {key}=... to the command")
    return typing.cast(Spec, _built(Spec, values, ""))


def spec_yaml(spec: Spec) -> str:
    """The resolved spec as YAML, every default written out."""
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(spec)))


def _parse(path: Path, overrides: Sequence[str]) -> DictConfig:
    try:
        config = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise SpecError(f"{path}: no such spec") from error
    except Exception as error:  # YAML errors come from several libraries
        raise SpecError(f"{path}: not a YAML spec: {' '.join(str(error).split())}") from error
    if not isinstance(config, DictConfig):
        raise SpecError(f"{path}: a spec is a mapping of keys, such as trainer: and training_ds:")
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals or not key or key[0] in "+~-":
            raise SpecError(f"{override!r} is not an override: write key=value, such as optim.lr=1e-4")
        try:
            config.merge_with_dotlist([override])
        except Exception as error:
            raise SpecError(f"{override!r} cannot be applied: {str(error).splitlines()[0]}") from error
    return config


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _built(kind: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise SpecError(f"{prefix}: expected keys below it, got {values!r}")
    hints = typing.get_type_hints(kind)
    made = {}
    for key, value in values.items():
        place = f"{prefix}.{key}" if prefix else str(key)
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"allowed here: {', '.join(hints)}"
            raise SpecError(f"{place}: no such key: {hint}")
        made[key] = _converted(hints[key], value, place)
    return kind(**made)


def _converted(hint: Any, value: Any, place: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _built(typing.cast(type, hint), value, place)
    try:
        if hint is bool and isinstance(value, bool):
            return value
        if hint is int and not isinstance(value, bool) and int(value) == float(value):
            return int(value)
        if hint is float and not isinstance(value, bool):
            return float(value)
        if hint is str and isinstance(value, str | int):
            return str(value)
        if typing.get_origin(hint) is tuple:
            items = value if isinstance(value, list) else [value]
            return tuple(_converted(typing.get_args(hint)[0], item, place) for item in items)
    except (TypeError, ValueError):
        pass
    raise SpecError(f"{place}: expected {getattr(hint, '__name__', hint)}, got {value!r}")
