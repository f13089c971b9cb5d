"""A program's arguments that stand in no list of processes.

Linux shows everybody the arguments that a program was started with, and its environment to its own user alone (proc(5):
cmdline, environ). Triton takes the secret that locks its interfaces as an argument only. So the secret travels in the
environment; while the kernel holds the new program before its first instruction, the pointers of its arguments are
turned to the texts there, and those of its environment away from them: its own children inherit nothing of it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from spanqa_server.deathsig import HIDDEN, HIDDEN_VARIABLE
from spanqa_server.errors import ServerLostError

PTRACE_DETACH = 17
"""From sys/ptrace.h."""
START_STACK = 25
"""Place in /proc/PID/stat, counted from the state: where the stack began, with the number of arguments (proc(5))."""
POINTER = struct.Struct("@P")
LONGEST_TEXT = 131_072
"""Linux's MAX_ARG_STRLEN: no argument or variable is longer."""
EMPTY_VARIABLE = "SPANQA_ARGUMENTS"
"""A variable without a secret, which the pointers of those with one are turned to."""


def hidden_variables(arguments: Sequence[str]) -> dict[str, str]:
    """Give the environment variables that carry arguments past the list of processes."""
    return {EMPTY_VARIABLE: "hidden"} | {f"{HIDDEN_VARIABLE}{n}": argument for n, argument in enumerate(arguments)}


def start_hidden(process: subprocess.Popen[bytes]) -> bool:
    """Give a program that `deathsig` starts its hidden arguments and let it run; in the thread that started it.

    Args:
        process: The program, whose command holds `HIDDEN` for each of its hidden arguments.

    Returns:
        Whether they are hidden: not where this machine forbids ptrace(2) or the program ended at once.

    Raises:
        ServerLostError: If the program's memory cannot be written though ptrace(2) is allowed; it is killed then.
    """
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        process.returncode = os.waitstatus_to_exitcode(status)
        return False
    if os.WSTOPSIG(status) != signal.SIGTRAP:
        os.kill(process.pid, signal.SIGCONT)
        return False
    try:
        with Path(f"/proc/{process.pid}/mem").open("r+b", buffering=0) as memory:
            _turn_pointers(memory, _start_of_stack(process.pid))
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
        if libc.ptrace(PTRACE_DETACH, process.pid, None, None):
            raise OSError(ctypes.get_errno(), f"ptrace(PTRACE_DETACH) in {threading.current_thread().name}")
    except OSError as error:
        process.kill()
        raise ServerLostError(
            f"the secret that locks Triton cannot be kept out of the list of processes: {error}: mount /proc as usual"
        ) from error
    return True


def _start_of_stack(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return int(fields[START_STACK])


def _turn_pointers(memory: BinaryIO, stack: int) -> None:
    """Turn the pointers: first come the number of arguments, theirs, a null, those of the environment, a null."""
    n_arguments = _pointers(memory, stack, 1)[0]
    places = [stack + POINTER.size * (1 + number) for number in range(n_arguments)]
    hidden = [place for place in places if _text(memory, place) == HIDDEN.encode()]
    place = places[-1] + 2 * POINTER.size
    variables: dict[bytes, int] = {}
    while _pointers(memory, place, 1)[0]:
        name, _, _ = _text(memory, place).partition(b"=")
        variables[name] = place
        place += POINTER.size
    empty = _pointers(memory, variables[EMPTY_VARIABLE.encode()], 1)[0]
    for number, argument in enumerate(hidden):
        name = f"{HIDDEN_VARIABLE}{number}".encode()
        text = _pointers(memory, variables[name], 1)[0] + len(name) + 1
        _write(memory, argument, text)
        _write(memory, variables[name], empty)


def _pointers(memory: BinaryIO, place: int, count: int) -> list[int]:
    memory.seek(place)
    return [int(value) for (value,) in POINTER.iter_unpack(memory.read(count * POINTER.size))]


def _write(memory: BinaryIO, place: int, pointer: int) -> None:
    memory.seek(place)
    memory.write(POINTER.pack(pointer))


def _text(memory: BinaryIO, place: int) -> bytes:
    """The text that the pointer at a place points to; a read stops where the stack ends."""
    memory.seek(_pointers(memory, place, 1)[0])
    text = b""
    while b"\0" not in text and len(text) < LONGEST_TEXT:
        part = memory.read(256)
        if not part:
            break
        text += part
    return text.partition(b"\0")[0]
