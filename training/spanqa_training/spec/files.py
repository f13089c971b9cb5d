"""Spec files: YAML with `${...}`, `???` and `key=value` overrides to a checked Spec, and back."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from spanqa_training.errors import SpecError
from spanqa_training.optimization.schedules import CONSTANT
from spanqa_training.spec.old_keys import apply_rules
from spanqa_training.spec.schema import Spec
from spanqa_training.spec.yaml_text import value_from_yaml

KEY_OF_ENCRYPTION = "encryption_key"
_MISSING = "???"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSpec:
    """A spec as read.

    Args:
        spec: What it says.
        given: Full names of the keys that the file and the overrides give.
        encryption_key: The key of the checkpoint, in the form that -k takes; never part of the spec that is saved.
    """

    spec: Spec
    given: frozenset[str]
    encryption_key: str | None = dataclasses.field(default=None, repr=False)


def load_spec(
    path: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    uses: Collection[str],
    warn: Callable[[str], None],
) -> LoadedSpec:
    """Read a spec and apply overrides.

    Args:
        path: A YAML file; None for the defaults alone. `${...}` refers to other keys; `???` must be overridden.
        overrides: `key=value`, also written `+key=value`; `~key` takes a key out. Later ones win.
        uses: The sections and keys at the top that the command reads; the others may hold `???`.
        warn: Told what the command does not read, and what is read under another name.

    Raises:
        SpecError: Naming the key, what is allowed and what to do.
    """
    config = _parse(path)
    rated = _has_rate(config)
    for override in overrides:
        _apply(config, override)
    values = _resolved(config, path)
    try:
        apply_rules(values, warn)
        _keep_rate(values, rated)
        key = values.pop(KEY_OF_ENCRYPTION, None)
        for unused in [name for name in values if name in _fields() and name not in uses]:
            warn(f"{unused} is not read by this command")
            del values[unused]
        for name, value in _leaves(values):
            if value == _MISSING:
                raise SpecError(f"{name} is ???, a value that must be given: add {name}=... to the command")
        spec = typing.cast(Spec, _built(Spec, values, ""))
    except SpecError as error:
        raise SpecError(f"{path}: {error}" if path else str(error)) from error
    return LoadedSpec(
        spec=spec,
        given=frozenset(name for name, _ in _leaves(values)),
        encryption_key=None if key in (None, _MISSING) else str(key),
    )


def spec_yaml(spec: Spec) -> str:
    """The resolved spec as YAML, every default written out."""
    return OmegaConf.to_yaml(OmegaConf.create(_plain(spec)))


def is_same_spec(saved: str, spec: str) -> bool:
    """Say whether two resolved specs as YAML ask for the same; keys that are newer than the saved one have defaults."""
    if saved == spec:
        return True
    try:
        filled = OmegaConf.merge(OmegaConf.create(_plain(Spec())), OmegaConf.create(saved))
    except OmegaConfBaseException:
        return False
    return OmegaConf.to_yaml(filled) == spec


def _plain(spec: Spec) -> dict[str, Any]:
    """A spec as YAML has it: dicts, and lists in place of tuples."""
    return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(spec))))


def _fields() -> set[str]:
    return {field.name for field in dataclasses.fields(Spec)}


def _parse(path: str | Path | None) -> DictConfig:
    if path is None:
        return OmegaConf.create({})
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise SpecError(f"{path}: no such spec: `spanqa download_specs -o DIR` writes the shipped ones") from error
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as a spec: {error}") from error
    try:
        values = value_from_yaml(text)
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error
    if values is None:
        return OmegaConf.create({})
    if not isinstance(values, dict):
        raise SpecError(f"{path}: a spec is a mapping of keys, such as trainer: and training_ds:")
    return OmegaConf.create(values)


def _apply(config: DictConfig, override: str) -> None:
    """Apply `key=value`, Hydra's `+key=value` and `++key=value`, or `~key` and `~key=value`."""
    key, equals, value = override.lstrip("+").partition("=")
    remove = key.startswith("~")
    key = key.removeprefix("~")
    if not key or key != key.strip() or key.startswith("-") or not (equals or remove):
        # Only the part before the equals sign is shown: the value may be a key.
        raise SpecError(f"{key + equals!r} is not an override: write key=value, such as optim.lr=1e-4")
    try:
        if remove:
            parent, _, leaf = key.rpartition(".")
            node = OmegaConf.select(config, parent) if parent else config
            if not isinstance(node, DictConfig) or leaf not in node:
                raise SpecError("the spec holds no such key to take out")
            node.pop(leaf)
            return
        OmegaConf.update(config, key, value_from_yaml(value), merge=False, force_add=True)
    except SpecError as error:
        raise SpecError(f"{key}: the override cannot be applied: {error}") from error
    except Exception as error:  # OmegaConf raises several kinds, and TypeError for a key below a plain value
        raise SpecError(f"{key}: the override cannot be applied: {type(error).__name__}: check the key") from error


def _resolved(config: DictConfig, path: str | Path | None) -> dict[str, Any]:
    """The values of a config with every `${...}` followed, into the defaults too."""
    defaults = OmegaConf.create(_plain(Spec()))
    try:
        full = OmegaConf.to_container(OmegaConf.merge(defaults, config), resolve=True)
    except OmegaConfBaseException as error:
        place = f"{error.full_key}: " if error.full_key else ""
        raise SpecError(f"{path}: {place}{str(error).splitlines()[0]}") from error
    given = OmegaConf.to_container(config, resolve=False)
    return typing.cast(dict[str, Any], _kept(full, given))


def _kept(full: Any, given: Any) -> Any:
    """The part of `full` whose keys are in `given`; a `???` stays one, though a merge gives way to the default."""
    if isinstance(given, dict) and isinstance(full, dict):
        return {key: _kept(full[key], inner) for key, inner in given.items()}
    return _MISSING if given == _MISSING else full


def _has_rate(config: DictConfig) -> bool:
    """Whether a file has a section of the optimiser, under either of its names."""
    return any(isinstance(OmegaConf.select(config, key), DictConfig) for key in ("optim", "model.optim"))


def _keep_rate(values: dict[str, Any], rated: bool) -> None:
    """Make the rate constant where the optimiser's section names no schedule.

    NeMo 1.x made none then (`nemo/core/optim/lr_scheduler.py`, `prepare_lr_scheduler`).
    """
    optim = values.get("optim")
    if isinstance(optim, dict) and optim.get("sched", {} if not rated else None) is None:
        optim["sched"] = dict(CONSTANT)


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _built(kind: type, values: Any, prefix: str) -> Any:
    if values is None:
        return kind()
    if not isinstance(values, dict):
        raise SpecError(f"{prefix}: expected keys below it, got {values!r}")
    hints = typing.get_type_hints(kind)
    made = {}
    for key, value in values.items():
        place = f"{prefix}.{key}" if prefix else str(key)
        if key not in hints:
            raise SpecError(f"{place}: no such key: {_nearest(str(key), hints)}")
        made[key] = _converted(hints[key], value, place)
    return kind(**made)


def _nearest(key: str, siblings: Collection[str]) -> str:
    near = difflib.get_close_matches(key, siblings, n=1, cutoff=0.6)
    elsewhere = [name for name in _all_keys(Spec) if name.rpartition(".")[2] == key]
    if near or elsewhere:
        return f"did you mean {(near or elsewhere)[0]}?"
    return f"allowed here: {', '.join(siblings)}"


def _all_keys(kind: type, prefix: str = "") -> Iterator[str]:
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from _all_keys(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _converted(hint: Any, value: Any, place: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _built(typing.cast(type, hint), value, place)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = (one for one in typing.get_args(hint) if one is not type(None))
        if value is None:
            return None
    try:
        if hint is bool and isinstance(value, bool):
            return value
        if hint is int and not isinstance(value, bool) and int(value) == float(value):
            return int(value)
        if hint is float and not isinstance(value, bool):
            if not math.isfinite(float(value)):
                raise SpecError(f"{place}: must be a finite number, got {value!r}")
            return float(value)
        if hint is str and isinstance(value, str | int) and not isinstance(value, bool):
            return str(value)
        if typing.get_origin(hint) is dict and isinstance(value, dict):
            return value
        if typing.get_origin(hint) is tuple:
            items = value if isinstance(value, list) else [value]
            return tuple(_converted(typing.get_args(hint)[0], item, place) for item in items if item is not None)
    except (TypeError, ValueError, OverflowError):
        pass
    raise SpecError(f"{place}: expected {getattr(hint, '__name__', hint)}, got {value!r}")
