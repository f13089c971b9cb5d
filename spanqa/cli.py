"""The `spanqa` command: a table of subcommands, each imported only when it is called."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from spanqa.errors import SpanqaError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""No space, a quota, a limit of file sizes: where it strikes is chance, even in a library's temporary file."""
_NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|-inf", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One subcommand: the module that holds `configure(parser)` and `run(args)`, and one line of help."""

    module: str
    help: str
    extra: str


def _command(room: str, module: str, help_: str) -> Command:
    package = {"serve": "server"}.get(room, room)
    return Command(module=f"spanqa_{package}.commands.{module}", help=help_, extra=room)


COMMANDS = {
    "download_specs": _command("training", "download_specs", "write the shipped specs into a folder"),
    "check-data": _command("training", "check_data", "print a dataset's statistics and every defect"),
    "negatives": _command("training", "negatives", "make unanswerable questions from an answerable dataset"),
    "import": _command("training", "import_", "take over weights: Hugging Face, Megatron-LM, NeMo"),
    "adapt": _command("training", "adapt", "adapt a checkpoint's language to a domain by its plain text"),
    "train": _command("training", "train", "train a checkpoint from a spec"),
    "finetune": _command("training", "finetune", "train a checkpoint further"),
    "evaluate": _command("training", "evaluate", "score a checkpoint on a dataset, offline, or a server"),
    "infer": _command("training", "infer", "answer a dataset offline"),
    "export": _command("build", "export", "export a checkpoint: ONNX, a model repository, Hugging Face"),
    "infer_onnx": _command("build", "infer_onnx", "answer a dataset offline with an exported ONNX"),
    "build": _command("build", "build", "export a checkpoint into a model repository"),
    "check-repository": Command(
        module="spanqa_build.commands.check_repository",
        help="hold a model repository against its manifest, with what serving has installed",
        extra="serve",
    ),
    "rollback-repository": Command(
        module="spanqa_build.commands.rollback_repository",
        help="go back to a model repository's version before, with what serving has installed",
        extra="serve",
    ),
    "serve": _command("serve", "serve", "serve a model repository with Triton"),
    "health": _command("serve", "health", "ask a server a question, for probes: exit status 0 where it answers"),
    "ask": _command("client", "ask", "ask a server one question, about a text or a collection"),
    "batch": _command("client", "batch", "answer files of questions in Parquet, by a server, a repository or on Ray"),
    "predict": _command("client", "predict", "answer a whole dataset through a server"),
    "score": _command("client", "score", "SQuAD metrics of a prediction file"),
    "index": _command("retrieval", "index", "make a collection of documents that can be asked, or bring it up to date"),
    "search": _command("retrieval", "search", "find the passages of a collection that fit a query"),
    "evaluate-collection": _command("retrieval", "evaluate", "measure a collection on questions with known answers"),
    "bench": _command("client", "bench", "load a server: throughput, latency, knee, two runs compared, hours of it"),
    "plan-capacity": _command("client", "plan_capacity", "how many replicas a load and a latency goal need"),
    "demo": _command("serve", "demo", "serve, ask, score and stop, in one go"),
}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others are."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USER_ERROR, f"spanqa: error: {message}: `{self.prog} --help` tells more\n")


def unsupported_reason() -> str | None:
    """Say in one sentence why spanqa cannot run here, or None where it can."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        return f"Python {platform.python_version()} is not supported: use Python 3.10, 3.11 or 3.12"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"{sys.platform} on {platform.machine()} is not supported: use Linux on x86-64"
    libc, version = platform.libc_ver()
    if libc == "glibc" and tuple(map(int, version.split(".")[:2])) < (2, 35):
        return f"glibc {version} is too old: use 2.35 or newer (Ubuntu 22.04, Debian 12)"
    return None


def _parser() -> argparse.ArgumentParser:
    from spanqa import __version__

    width = max(map(len, COMMANDS))
    table = "\n".join(f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items())
    parser = _Parser(
        prog="spanqa",
        description="Answers questions from text with an exact span, or says that there is no answer.",
        epilog=f"commands:\n{table}\n\n`spanqa COMMAND --help` tells the rest.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"spanqa {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _with_negative_numbers(arguments: Sequence[str]) -> list[str]:
    """Join `--threshold -1e-3` to `--threshold=-1e-3`: argparse takes -1e-3 for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1].startswith("--") and "=" not in joined[-1] and _NEGATIVE_NUMBER.fullmatch(argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _run(name: str, arguments: Sequence[str]) -> int:
    command = COMMANDS[name]
    try:
        module = importlib.import_module(command.module)
        parser = _Parser(prog=f"spanqa {name}", description=command.help[0].upper() + command.help[1:])
        module.configure(parser)
        # Intermixed: options may stand between the key=value overrides of a spec.
        return int(module.run(parser.parse_intermixed_args(_with_negative_numbers(arguments))))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package.startswith("spanqa"):
            raise
        hint = f"pip install 'spanqa[{command.extra}]'"
        raise SpanqaError(f"`spanqa {name}` needs the package {package}, which is not installed: {hint}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: The arguments after the program's name; the process's own by default.

    Returns:
        The exit status: 0, 2 for an error that the user can mend, 130 when interrupted.
    """
    reason = unsupported_reason()
    if reason:
        print(f"spanqa: error: {reason}", file=sys.stderr)
        return EXIT_USER_ERROR
    args = _parser().parse_args(argv)
    try:
        return _run(args.command, args.arguments)
    except SpanqaError as error:
        print(f"spanqa: error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("spanqa: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"spanqa: error: {where}{error.strerror}: make room there, or in TMPDIR, and try again", file=sys.stderr)
        return EXIT_USER_ERROR


if __name__ == "__main__":
    raise SystemExit(main())
