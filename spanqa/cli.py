"""The `spanqa` command: a table of subcommands, each imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from spanqa.errors import SpanqaError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One subcommand: the module that holds `configure(parser)` and `run(args)`, and one line of help."""

    module: str
    help: str
    extra: str


COMMANDS = {
    "import": Command(
        module="spanqa_training.commands.import_", help="turn a Hugging Face folder into a checkpoint", extra="training"
    ),
    "negatives": Command(
        module="spanqa_training.commands.negatives",
        help="make unanswerable questions from an answerable dataset",
        extra="training",
    ),
    "train": Command(module="spanqa_training.commands.train", help="train a checkpoint from a spec", extra="training"),
    "evaluate": Command(
        module="spanqa_training.commands.evaluate", help="score a checkpoint on a dataset, offline", extra="training"
    ),
    "build": Command(
        module="spanqa_build.commands.build", help="export a checkpoint into a model repository", extra="build"
    ),
    "serve": Command(module="spanqa_server.commands.serve", help="serve a model repository with Triton", extra="serve"),
    "ask": Command(module="spanqa_client.commands.ask", help="ask a server one question", extra="client"),
    "predict": Command(
        module="spanqa_client.commands.predict", help="answer a whole dataset through a server", extra="client"
    ),
    "score": Command(module="spanqa_client.commands.score", help="SQuAD metrics of a prediction file", extra="client"),
    "bench": Command(module="spanqa_client.commands.bench", help="measure a server with perf_analyzer", extra="client"),
    "demo": Command(module="spanqa_server.commands.demo", help="serve, ask, score and stop, in one go", extra="serve"),
}


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
    parser = argparse.ArgumentParser(
        prog="spanqa",
        description="Answers questions from text with an exact span, or says that there is no answer.",
        epilog=f"commands:\n{table}\n\n`spanqa COMMAND --help` tells the rest.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"spanqa {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _run(name: str, arguments: Sequence[str]) -> int:
    command = COMMANDS[name]
    try:
        module = importlib.import_module(command.module)
        parser = argparse.ArgumentParser(prog=f"spanqa {name}", description=command.help[0].upper() + command.help[1:])
        module.configure(parser)
        return int(module.run(parser.parse_args(arguments)))
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
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
