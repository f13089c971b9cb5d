"""What one server takes on: limits that its operator sets in config.pbtxt, beside the settings that the build seals."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path

from spanqa import contract
from spanqa.errors import SettingsError
from spanqa.manifest import MIN_CONTEXT_BYTES, Artefact, Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of the main entry, each a parameter of its config.pbtxt under the same name.

    Args:
        max_context_bytes: Longest question and longest context, in UTF-8 bytes.
        max_windows: Most windows of one request, all its rows together.
        max_queued_requests: Most requests that are accepted and not yet answered; one more is refused at once.
        max_queue_age_s: Longest time that a request may wait for its turn; where those before it are expected to take
            longer it is refused at once. Long documents take turns of their own and are not counted.
        max_long_requests: Most requests with long documents that are accepted and not yet answered.
        tokenizer_cache_bytes: Memory for the word pieces of contexts that were asked about before; 0 keeps none.
    """

    max_context_bytes: int = contract.DEFAULT_MAX_CONTEXT_BYTES
    max_windows: int = 32_768
    max_queued_requests: int = 1024
    max_queue_age_s: int = 30
    max_long_requests: int = 16
    tokenizer_cache_bytes: int = 4_000_000

    def __post_init__(self) -> None:
        for name, value in self.parameters().items():
            least = LEAST.get(name, 1)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise SettingsError(f"{name} is {value!r}: give a whole number, {least:,} or more")

    def parameters(self) -> dict[str, int]:
        """Each limit by its name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


CONFIG_FILE = "config.pbtxt"
LEAST = {"max_context_bytes": MIN_CONTEXT_BYTES, "tokenizer_cache_bytes": 0}
"""The lowest value of a limit where that is not 1."""
NAMES = tuple(field.name for field in fields(Limits))
_VALUE = re.compile(
    rb'(parameters\s*\{\s*key:\s*"(?:' + "|".join(NAMES).encode() + rb')"\s*value\s*\{\s*string_value:\s*)"[^"\n]*"'
)
_WHOLE_NUMBER = re.compile(r"\s*[0-9]{1,18}\s*")


def limits_from_config(config: str, manifest: Manifest) -> Limits:
    """Read the limits from a model's configuration; one that is not there has its default.

    Args:
        config: The configuration as Triton hands it to a model: JSON, its parameters as {NAME: {"string_value": TEXT}}.
        manifest: Has the longest context of repositories that were built when it was no parameter.

    Raises:
        SettingsError: If one is no whole number, or too low.
    """
    parameters = json.loads(config).get("parameters", {})
    chosen = {} if manifest.max_context_bytes is None else {"max_context_bytes": manifest.max_context_bytes}
    for name in parameters.keys() & set(NAMES):
        text = parameters[name]["string_value"]
        if not _WHOLE_NUMBER.fullmatch(text):
            least = LEAST.get(name, 1)
            raise SettingsError(f"config.pbtxt: {name} is {text!r}: give a whole number, {least:,} or more")
        chosen[name] = int(text)
    try:
        return Limits(**chosen)
    except SettingsError as error:
        raise SettingsError(f"config.pbtxt: {error}") from error


def config_artefact(path: Path) -> Artefact:
    """Describe a configuration as the manifest holds it: the values of the limits, which are the operator's, left out.

    Raises:
        OSError: If it cannot be read.
    """
    content = _VALUE.sub(rb'\1""', path.read_bytes())
    return Artefact(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
