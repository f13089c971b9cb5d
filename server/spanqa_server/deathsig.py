"""Run by file: become another program that gets SIGTERM when the process that started this one ends, however it ends.

`python deathsig.py PARENT_PID PROGRAM ARGUMENTS...`. Doing it between fork and exec in the parent would run Python
code in a copy of a process with gRPC's threads, which may deadlock.

An argument that is HIDDEN stands for the next of the variables HIDDEN_VARIABLE0, HIDDEN_VARIABLE1 and so on: the
program stops at its first instruction, and `hidden_arguments` puts it there. Where this machine forbids that, this
process stops itself and, once it goes on, gives the arguments openly.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h. The setting survives exec; it is tied to the thread that started us."""
PTRACE_TRACEME = 0
"""From sys/ptrace.h: whoever started us is told of the exec, and holds the program before its first instruction."""
HIDDEN = "--hidden-argument"
"""Triton knows no such option: one that is left would end it, and not leave it unlocked."""
HIDDEN_VARIABLE = "SPANQA_HIDDEN_ARGUMENT_"


def _revealed(command: list[str]) -> list[str]:
    """Give the command with its hidden arguments, and take their variables away."""
    names = [f"{HIDDEN_VARIABLE}{number}" for number in range(command.count(HIDDEN))]
    values = iter([os.environ.pop(name) for name in names])
    return [next(values) if argument == HIDDEN else argument for argument in command]


def main() -> None:
    """Ask for the signal, make sure that the parent still lives, and become the program."""
    parent, *command = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != int(parent):
        raise SystemExit(1)
    if HIDDEN in command and libc.ptrace(PTRACE_TRACEME, 0, None, None):
        os.kill(os.getpid(), signal.SIGSTOP)
        command = _revealed(command)
    os.execv(command[0], command)  # noqa: S606 (no shell wanted)


if __name__ == "__main__":
    main()
