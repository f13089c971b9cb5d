"""Scenarios of processes that are killed, stopped, restarted and rolled over."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from fault_command import ServeCommand
from fault_setting import (
    PACE_S,
    RECOVERY_S,
    RELOAD_S,
    TIMEOUT_S,
    Load,
    Setting,
    Verdict,
    is_running,
    rolling_over,
    stop_timed,
    stopped,
    wait_until,
)
from table_model import add_same_version

from spanqa import contract
from spanqa_server.server import Server

KILL_PACE_S = 4.0
"""The load is spread so that it lasts about this long for each kill."""
EVENTS = ("restart", "roll-over")
"""What happens once beside the kills."""
SHORT_CHARS = 1200
"""Contexts up to here fit the ensemble, which takes 16 windows."""
STOPPED_S = 10.0
STOPS_S = (1.2, 2.0, 3.0, STOPPED_S)


def _kill(server: Server, model: str, setting: Setting) -> float | None:
    """Kill one of a model's processes and give the seconds until it is replaced; None where it is not in time."""
    before = [stub for stub in server.stubs() if stub.model == model]
    n_recoveries, victim = server.n_recoveries, setting.rng.choice(before)
    os.kill(victim.pid, signal.SIGKILL)

    def is_replaced() -> bool:
        now = [stub for stub in server.stubs() if stub.model == model and stub.pid != victim.pid]
        return server.n_recoveries > n_recoveries and len(now) >= len(before)

    return wait_until(is_replaced, 30)


def _roll_over(server: Server, setting: Setting, verdict: Verdict) -> None:
    n_reloads, version, start = server.n_reloads, add_same_version(setting.repository), time.monotonic()
    server.request_reload()
    took = wait_until(lambda: server.n_reloads > n_reloads, RELOAD_S)
    verdict.require(took is not None, f"version {version} was not rolled in within {RELOAD_S:g} s")
    verdict.figures["roll-over s"] = round(time.monotonic() - start, 1)


def kills(setting: Setting, verdict: Verdict) -> None:
    """Stubs of every kind killed at random moments, a restart and a roll-over, under all questions and both entries."""
    models = sorted({contract.PREPROCESS, contract.ENCODER, contract.POSTPROCESS, contract.QUESTION_ANSWERING})
    pace_s = max(PACE_S, setting.n_kills * KILL_PACE_S / len(setting.items))
    short = [place for place, (_, context) in enumerate(setting.items) if len(context) < SHORT_CHARS]
    items, expected = [setting.items[i] for i in short], [setting.expected[i] for i in short]
    events = [*EVENTS, *(models[number % len(models)] for number in range(setting.n_kills))]
    setting.rng.shuffle(events)
    server = setting.server()
    server.start()
    port = server.settings.grpc_port
    recoveries: list[float] = []
    try:
        load = Load(server.url, setting.items, setting.expected, pace_s=pace_s, endless=True)
        staged = Load(server.url, items, expected, pace_s=4 * pace_s, endless=True, model_name=contract.ENSEMBLE)
        with load, staged:
            for event in events:
                load.wait_for_more(setting.rng.randrange(1, 32))
                time.sleep(setting.rng.random())
                if event == "restart":
                    start = time.monotonic()
                    server.stop()
                    server = setting.server(grpc_port=port)
                    server.start()
                    verdict.figures["restart s"] = round(time.monotonic() - start, 1)
                elif event == "roll-over":
                    _roll_over(server, setting, verdict)
                else:
                    took = _kill(server, event, setting)
                    verdict.require(took is not None, f"a killed process of {event} was not replaced")
                    recoveries.append(30.0 if took is None else took)
            load.wait_for_more(max(0, len(setting.items) - load.n_answered), timeout_s=3600)
        staged.judge(verdict, name="through the ensemble")
        load.judge(verdict)
        verdict.require(load.n_answered >= len(setting.items), "not every question was asked")
        stop_timed(server, verdict)
    finally:
        server.stop()
    verdict.figures["kills"] = len(recoveries)
    longest = max(recoveries, default=0.0)
    verdict.figures["longest recovery s"] = round(longest, 1)
    verdict.require(longest <= RECOVERY_S, f"a recovery took {longest:.1f} s, allowed are {RECOVERY_S:g}")


def together(setting: Setting, verdict: Verdict) -> None:
    """Every Python process killed at once, then again during a roll-over."""
    with setting.serving(verdict) as server, Load(server.url, setting.items, setting.expected, endless=True) as load:
        load.wait_for_more()
        seconds = _kill_all(server, load, verdict)
        verdict.figures["recovery s"] = round(seconds, 1)
        verdict.require(seconds <= RECOVERY_S, f"the recovery took {seconds:.1f} s, allowed are {RECOVERY_S:g}")
        if setting.rolls:
            with rolling_over(server, setting, verdict):
                time.sleep(setting.rng.uniform(0.5, 1.5))
                verdict.figures["recovery amid a roll-over s"] = round(_kill_all(server, load, verdict), 1)
            load.wait_for_more()
    load.judge(verdict)


def _kill_all(server: Server, load: Load, verdict: Verdict) -> float:
    """Kill every Python process and give the seconds until questions are answered again."""
    killed = {stub.pid for stub in server.stubs()}
    models = {stub.model for stub in server.stubs()}
    start = time.monotonic()
    for pid in killed:
        with suppress(ProcessLookupError):  # a roll-over may have ended it
            os.kill(pid, signal.SIGKILL)
    took = wait_until(lambda: {stub.model for stub in server.stubs() if stub.pid not in killed} >= models, 60)
    verdict.require(took is not None, "a killed process was not replaced")
    load.wait_for_more()
    return time.monotonic() - start


def triton(setting: Setting, verdict: Verdict) -> None:
    """Triton itself killed, amid questions and during a roll-over."""
    with setting.serving(verdict) as server, Load(server.url, setting.items, setting.expected, endless=True) as load:
        for during_roll_over in (False, True):
            load.wait_for_more()
            if during_roll_over:
                add_same_version(setting.repository)
                server.request_reload()
                time.sleep(setting.rng.uniform(0.2, 0.8))
            n_recoveries, start = server.n_recoveries, time.monotonic()
            os.kill(server.triton_pid, signal.SIGKILL)
            took = wait_until(lambda before=n_recoveries: server.n_recoveries > before, 30)
            load.wait_for_more()
            verdict.require(took is not None and took <= RECOVERY_S, f"Triton was back after {took} s")
            name = "recovery amid a roll-over s" if during_roll_over else "recovery s"
            verdict.figures[name] = round(time.monotonic() - start, 1)
    load.judge(verdict)


def sigterm(setting: Setting, verdict: Verdict) -> None:
    """SIGTERM to `spanqa serve` amid questions, then kill -9 to the next, started on the same port."""
    command = ServeCommand(setting.repository)
    port = command.url.rpartition(":")[2]
    try:
        with Load(command.url, setting.items, setting.expected, endless=True) as load:
            for number in (signal.SIGTERM, signal.SIGKILL):
                load.wait_for_more()
                triton_pid = command.triton_pid()
                if setting.rolls:
                    add_same_version(setting.repository)
                    command.process.send_signal(signal.SIGHUP)
                    time.sleep(setting.rng.uniform(0.2, 0.8))
                start = time.monotonic()
                command.process.send_signal(number)
                status = command.process.wait(TIMEOUT_S)
                if number == signal.SIGTERM:
                    verdict.figures["SIGTERM to end s"] = round(time.monotonic() - start, 1)
                    verdict.require(status == 0, f"the exit status after SIGTERM is {status}")
                    lost = [line for line in command.said if "before every accepted question" in line]
                    verdict.require(not lost, f"said {lost}")
                ended = wait_until(lambda pid=triton_pid: not is_running(pid), 20)
                verdict.require(ended is not None, f"Triton outlived its server after {number.name}")
                command.__exit__()
                command = ServeCommand(setting.repository, f"--grpc-port={port}")
            load.wait_for_more()
        load.judge(verdict)
    finally:
        pid = command.process.pid
        command.__exit__()
    left = list(Path("/dev/shm").glob(f"spanqa_{pid}_*"))  # noqa: S108 (POSIX shared memory lives there)
    verdict.require(not left, f"left {left}")


def stopped_stubs(setting: Setting, verdict: Verdict) -> None:
    """Processes stopped with SIGSTOP for a while, and a roll-over while the main entry's is for the longest time.

    After a second Triton gives up the requests of such a process, which answers them once it goes on: these answers
    must not become those of the next requests.
    """
    with setting.serving(verdict) as server, Load(server.url, setting.items, setting.expected, endless=True) as load:
        for seconds in STOPS_S:
            for model in (contract.ENCODER, contract.QUESTION_ANSWERING):
                load.wait_for_more()
                pid = next(stub.pid for stub in server.stubs() if stub.model == model)
                with stopped(pid, seconds):
                    if (seconds, model) == (STOPS_S[-1], contract.QUESTION_ANSWERING):
                        n_reloads = server.n_reloads
                        add_same_version(setting.repository)
                        server.request_reload()
                load.wait_for_more(100)
        took = wait_until(lambda: server.n_reloads > n_reloads, 60)
        verdict.require(took is not None, "the roll-over never ended")
        verdict.figures["recoveries"] = server.n_recoveries
        load.wait_for_more()
    load.judge(verdict)


def stopped_triton(setting: Setting, verdict: Verdict) -> None:
    """Triton stopped with SIGSTOP for 10 s, a roll-over during the second time."""
    with setting.serving(verdict) as server, Load(server.url, setting.items, setting.expected, endless=True) as load:
        load.wait_for_more()
        with stopped(server.triton_pid, STOPPED_S):
            pass
        load.wait_for_more()
        if setting.rolls:
            with rolling_over(server, setting, verdict):
                time.sleep(setting.rng.uniform(0.5, 1.5))
                with stopped(server.triton_pid, STOPPED_S):
                    pass
            load.wait_for_more()
        verdict.figures["recoveries"] = server.n_recoveries
    load.judge(verdict)


KILL_SCENARIOS = {
    "kills": kills,
    "all-stubs-at-once": together,
    "triton": triton,
    "sigterm": sigterm,
    "stopped-stubs": stopped_stubs,
    "stopped-triton": stopped_triton,
}
