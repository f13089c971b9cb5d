"""Scenarios of damaged model files, a failing warm-up, a full disk, full shared memory and a clock that jumps."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from fault_clock import faked_clock
from fault_command import ServeCommand
from fault_damages import DAMAGES
from fault_setting import Load, Setting, Verdict, is_running, rolling_over, wait_until
from table_model import add_same_version

from spanqa import contract
from spanqa.startup import versions_in
from spanqa_server.errors import ServerError
from spanqa_server.server import Server
from spanqa_server.shared_memory import SHARED_MEMORY

RELOAD_S = 60.0
REFUSED_WITHIN_S = 30.0
FULL_S = 3.0
REFUSED_S = 5.0
"""How long a text that finds no shared memory is sent again."""
JUMPS_S = (3, 0, 86_400, -86_400, 0)
SETTLED_S = 2.0
STEP_S = 60
"""A jump of fewer seconds is one that machines make when they learn the time."""


def _require_sentence(text: str, verdict: Verdict, what: str) -> None:
    verdict.require("\n" not in text and "Traceback" not in text and len(text) > 20, f"{what}: said {text!r}")


def damaged_at_start(setting: Setting, verdict: Verdict) -> None:
    """Each damage at the start: one sentence, soon, and no process left."""
    longest = 0.0
    for what, damage in DAMAGES.items():
        folder = setting.repository.parent / "damaged"
        shutil.copytree(setting.repository, folder)
        damage(folder, versions_in(folder / contract.QUESTION_ANSWERING)[-1])
        start, server = time.monotonic(), Server(folder)
        try:
            server.start()
            verdict.failures.append(f"{what}: served")
        except ServerError as error:
            _require_sentence(str(error), verdict, what)
        finally:
            server.stop()
            longest = max(longest, time.monotonic() - start)
            shutil.rmtree(folder)
    verdict.figures.update({"damages": len(DAMAGES), "longest s": round(longest, 1)})
    verdict.require(longest < REFUSED_WITHIN_S, f"a damage was told after {longest:.0f} s")


def damaged_at_roll_over(setting: Setting, verdict: Verdict) -> None:
    """Each damage in a new version: one sentence, and the old version answers on; then a sound version is rolled in."""
    told: list[str] = []
    origin = setting.repository.parent / "sound"
    shutil.copytree(setting.repository, origin)
    with (
        Server(setting.repository, report=told.append) as server,
        Load(server.url, setting.items, setting.expected, endless=True) as load,
    ):
        load.wait_for_more()
        for what, damage in {**DAMAGES, "nothing": lambda *_: None}.items():
            _reset_to(origin, setting.repository)
            version = add_same_version(setting.repository)
            damage(setting.repository, version)
            told.clear()
            n_reloads = server.n_reloads
            server.request_reload()
            took = wait_until(lambda before=n_reloads: server.n_reloads > before, RELOAD_S)
            verdict.require(took is not None, f"{what}: the reload did not end within {RELOAD_S:g} s")
            load.versions.clear()
            load.wait_for_more(64)
            verdict.require(told, f"{what}: nothing was told")
            for line in told:
                _require_sentence(line, verdict, what)
            wanted = {str(version)} if what == "nothing" else {"1"}
            verdict.require(load.versions <= {"1", "2"}, f"{what}: versions {load.versions} answered")
            verdict.require(
                what == "nothing" or told[0].startswith("not reloaded"), f"{what}: told {told[:1]}, not that it failed"
            )
            if what == "nothing":
                verdict.require(wanted <= load.versions, f"the sound version does not answer: {told}")
    load.judge(verdict)
    verdict.figures["damages"] = len(DAMAGES)


def _reset_to(origin: Path, folder: Path) -> None:
    """Put back what a damaged version changed, the version that is served untouched."""
    for path in folder.glob("*/*"):
        if path.is_dir() and path.name.isdigit() and not (origin / path.parent.name / path.name).exists():
            shutil.rmtree(path)
    for config in origin.glob("*/config.pbtxt"):
        place = folder / config.parent.name / config.name
        place.unlink(missing_ok=True)
        shutil.copy2(config, place)


@contextlib.contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Leave no room on a file system while a block lasts."""
    path = folder / "fill"
    try:
        with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4096)
        yield
    finally:
        path.unlink()


def _can_mount() -> bool:
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and not subprocess.run(command, capture_output=True).returncode


def _serve_on_small(folder: str, size: str, setting: Setting, **options: dict[str, str]) -> ServeCommand:
    """Serve in a mount namespace of its own, where a folder is a small file system."""
    mount = f'mount -t tmpfs -o size={size} tmpfs {folder} && exec "$@"'
    return ServeCommand(setting.repository, before=["unshare", "--mount", "sh", "-c", mount, "sh"], **options)


def full_shared_memory(setting: Setting, verdict: Verdict) -> None:
    """A /dev/shm without room for some seconds: what cannot be answered is refused, and afterwards all is answered."""
    if not _can_mount():
        verdict.skipped = "mounting a small /dev/shm needs root"
        return
    with _serve_on_small(str(SHARED_MEMORY), "64m", setting) as command:
        inside = Path(f"/proc/{command.process.pid}/root/dev/shm")
        with Load(command.url, setting.items, setting.expected, endless=True) as load:
            load.wait_for_more()
            big = ("Who?", "word " * 390_000)
            for number in range(2):
                version = 0
                if number and setting.rolls:
                    version = add_same_version(setting.repository)
                    command.process.send_signal(signal.SIGHUP)
                with filled(inside), Load(command.url, [big], setting.expected, timeout_s=REFUSED_S) as refused:
                    time.sleep(FULL_S)
                    refused.wait_for_more(1, timeout_s=10)
                load.wait_for_more()
                if version:
                    ends = (f"version {version} of", "not reloaded")
                    told = wait_until(lambda ends=ends: any(end in line for line in command.said for end in ends), 60)
                    verdict.require(told is not None, f"the roll-over told nothing: {command.said}")
        load.judge(verdict)
        pid = command.triton_pid()
        verdict.figures["told"] = len(command.said)
        command.process.terminate()
        status = command.process.wait(60)
        verdict.require(status == 0, f"the exit status is {status}: {command.said[-2:]}")
        verdict.require(not is_running(pid), "Triton was left")


def full_disk(setting: Setting, verdict: Verdict) -> None:
    """The folder of the log and of what Triton reads without room: questions, a recovery and a roll-over meanwhile."""
    if not _can_mount():
        verdict.skipped = "mounting a small folder needs root"
        return
    small = tempfile.mkdtemp(prefix="spanqa-small-")
    try:
        with _serve_on_small(small, "8m", setting, env={"TMPDIR": small}) as command:
            inside = Path(f"/proc/{command.process.pid}/root{small}")
            with Load(command.url, setting.items, setting.expected, endless=True) as load:
                load.wait_for_more()
                with filled(inside):
                    load.wait_for_more(64)
                    version = add_same_version(setting.repository)
                    command.process.send_signal(signal.SIGHUP)
                    # What is rolled in frees the room of what it replaces, so that this may even succeed.
                    ends = (f"version {version} of", "not reloaded")
                    told = wait_until(lambda: any(end in line for line in command.said for end in ends), 30)
                    verdict.require(told is not None, f"the roll-over told nothing: {command.said}")
                    load.wait_for_more(64)
                for line in command.said:
                    _require_sentence(line, verdict, "a full disk")
                command.process.send_signal(signal.SIGHUP)
                load.versions.clear()
                done = wait_until(lambda: str(version) in load.versions, 30)
                verdict.require(
                    done is not None, f"with room again, version {version} is not rolled in: {command.said}"
                )
            load.judge(verdict)
            command.process.terminate()
            verdict.require(command.process.wait(60) == 0, f"did not stop well: {command.said[-2:]}")
    finally:
        os.rmdir(small)


def clock(setting: Setting, verdict: Verdict) -> None:
    """The wall clock jumps a day forth and back, for Triton and its Python processes."""
    with faked_clock() as jump:
        if jump is None:
            verdict.skipped = "there is no C compiler"
            return
        with setting.server() as server:
            with Load(server.url, setting.items, setting.expected, endless=True) as load:
                load.wait_for_more()
                for before, seconds in pairwise((0, *JUMPS_S)):
                    # A jump of a day amid a load has Triton wait for ever: the old version answers on, which is told.
                    is_step = abs(seconds - before) < STEP_S
                    with rolling_over(server, setting, verdict) if is_step else contextlib.nullcontext():
                        time.sleep(1.0)  # a roll-over has begun by then
                        jump(seconds)
                        load.wait_for_more(64)
                        time.sleep(SETTLED_S)
            load.judge(verdict)
            verdict.require(server.n_recoveries == 0, "something was taken for dead")
            start = time.monotonic()
            server.stop()  # told, not judged: after a jump some of Triton's own waits take longer
            verdict.figures["stop s"] = round(time.monotonic() - start, 1)


FILE_SCENARIOS = {
    "damaged-at-start": damaged_at_start,
    "damaged-at-roll-over": damaged_at_roll_over,
    "full-shared-memory": full_shared_memory,
    "full-disk": full_disk,
    "clock": clock,
}
