"""Rolling a running Triton to the newest build on disk without losing a request, and without mixing two builds."""

from __future__ import annotations

import time
from collections.abc import Sequence

from spanqa import contract
from spanqa_server.control import Control
from spanqa_server.drain import GONE
from spanqa_server.errors import ServerLostError
from spanqa_server.repository import ENTRIES, ModelFolder, config_of, is_of_build
from spanqa_server.view import View

POLL_S = 0.05
READY = "READY"


def ready_versions(control: Control) -> dict[str, set[int]]:
    """Give the versions that Triton answers with, by model.

    Raises:
        ServerLostError: If Triton does not say.
    """
    found: dict[str, set[int]] = {}
    for (name, version), state in control.states().items():
        if state == READY:
            found.setdefault(name, set()).add(version)
    return found


def roll_over(control: Control, view: View, new: Sequence[ModelFolder], *, timeout_s: float) -> None:
    """Load the newest versions beside those that answer now, pass the questions on to them, and unload the old.

    The main entry calls encoders of its own version by number. So those are loaded first, beside the old ones; then
    the entry, which Triton replaces once the new one is ready; and the old ones go when the old entry has answered
    what it had accepted. Loading an ensemble makes Triton load its stages as they lie on disk, which takes the old
    ones away: so it comes last, and is away itself for as long; our client asks again.

    Args:
        control: The connection to Triton.
        view: What Triton reads; where this fails, whoever calls must make it show what then answers.
        new: The models as they lie on disk.
        timeout_s: How long each old entry may take to answer what it has accepted.

    Raises:
        ServerLostError: If Triton cannot load a model; the old entries then go on.
        RepositoryError: If the files cannot be read; the old entries then go on.
    """
    before = ready_versions(control)
    changed = {model.name: model.version for model in new if before.get(model.name) != {model.version}}
    workers = [name for name in changed if name not in ENTRIES]
    view.show(new, beside=before)
    for name in workers:
        control.load(name, config_json=_config_json(view, name, view.versions_of(name)))
    if contract.QUESTION_ANSWERING in changed:
        version = changed[contract.QUESTION_ANSWERING]
        control.load(
            contract.QUESTION_ANSWERING, config_json=_config_json(view, contract.QUESTION_ANSWERING, {version})
        )
        _wait_until_gone(control, contract.QUESTION_ANSWERING, timeout_s, but=version)
    view.show(new)
    if contract.ENSEMBLE in changed:
        control.unload(contract.ENSEMBLE)
        _wait_until_gone(control, contract.ENSEMBLE, timeout_s)
        control.load(contract.ENSEMBLE)
    # Triton loads nothing where files and configuration are as at its last load: so the version is named here too.
    for name in workers:
        control.load(name, config_json=_config_json(view, name, {changed[name]}))
    for name in before.keys() - {model.name for model in new}:
        control.unload(name)


def _config_json(view: View, name: str, versions: set[int]) -> str | None:
    """The configuration in view, but serving these versions; None for a model that is not ours: it knows itself."""
    from google.protobuf import json_format

    if not is_of_build(name):
        return None
    config = config_of(view.folder / name)
    config.version_policy.specific.versions.extend(sorted(versions))
    return str(json_format.MessageToJson(config, preserving_proto_field_name=True))


def _wait_until_gone(control: Control, name: str, timeout_s: float, *, but: int | None = None) -> None:
    """Wait until every version of a model but one has answered what it had accepted."""
    deadline = time.monotonic() + timeout_s
    while any(
        state not in GONE for (model, version), state in control.states().items() if model == name and version != but
    ):
        control.check_goes_on()
        if time.monotonic() > deadline:
            raise ServerLostError(
                f"the old {name} has not answered all that it accepted within {timeout_s:g} s: reload once more to "
                "finish"
            )
        time.sleep(POLL_S)
