"""The command loads a subcommand only when it is called, and says in one sentence what is wrong."""

import errno
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from spanqa import __version__, cli
from spanqa.errors import InputError

HEAVY = ["numpy", "tokenizers", "torch", "onnx", "onnxruntime", "tritonclient", "grpc", "lightning", "transformers"]


def spanqa(*arguments, blocked=()):
    """Run the command in a process of its own where the blocked packages cannot be imported."""
    code = "\n".join(
        [
            "import sys",
            *(f"sys.modules[{name!r}] = None" for name in blocked),
            "from spanqa.cli import main",
            f"sys.exit(main({list(arguments)!r}))",
        ]
    )
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)


def test_help_needs_nothing_but_the_standard_library():
    done = spanqa("--help", blocked=HEAVY)
    assert (done.returncode, done.stderr) == (0, "")
    for name, command in cli.COMMANDS.items():
        assert name in done.stdout
        assert command.help in done.stdout


def test_help_imports_no_subcommand():
    code = (
        "import sys\nfrom spanqa.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted(n for n in sys.modules if n.startswith('spanqa')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "['spanqa', 'spanqa.cli', 'spanqa.errors']"


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"spanqa {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["asks"], ["--loud"]])
def test_an_unknown_command_exits_with_2_and_names_the_known_ones(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert "error: " in message
    if arguments == ["asks"]:
        assert "'asks'" in message
        assert "'ask'" in message


def test_a_missing_extra_is_one_sentence_that_names_it():
    done = spanqa("train", "-e", "spec.yaml", "-r", "results", blocked=["torch", "omegaconf", "lightning"])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("spanqa: error: `spanqa train` needs the package ")
    assert line.endswith("which is not installed: pip install 'spanqa[training]'")


@pytest.fixture
def command(monkeypatch):
    """Puts a subcommand made of one function into the table."""

    def put(run, configure=lambda parser: None):
        module = SimpleNamespace(configure=configure, run=run)
        monkeypatch.setitem(sys.modules, "spanqa_fake_command", module)
        monkeypatch.setitem(cli.COMMANDS, "fake", cli.Command(module="spanqa_fake_command", help="fake it", extra="x"))

    return put


def test_arguments_after_the_command_are_its_own(command):
    seen = []

    def configure(parser):
        parser.add_argument("words", nargs="*")
        parser.add_argument("--version", type=int)

    command(lambda args: seen.append((args.words, args.version)) or 7, configure)
    assert cli.main(["fake", "a", "b=-1", "--version", "3"]) == 7
    assert seen == [(["a", "b=-1"], 3)]


def test_an_error_of_ours_is_one_line_and_exit_status_2(command, capsys):
    def run(args):
        raise InputError("the text is empty: send some")

    command(run)
    assert cli.main(["fake"]) == 2
    assert capsys.readouterr() == ("", "spanqa: error: the text is empty: send some\n")


def test_an_interrupt_exits_with_130(command):
    def run(args):
        raise KeyboardInterrupt

    command(run)
    assert cli.main(["fake"]) == 130


def test_a_module_of_ours_that_is_missing_is_not_blamed_on_an_extra(command):
    def run(args):
        raise ModuleNotFoundError("No module named 'spanqa_client.lost'", name="spanqa_client.lost")

    command(run)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["fake"])


def test_a_reader_that_goes_away_is_no_fault():
    code = (
        "import sys\nfrom types import SimpleNamespace\nfrom spanqa import cli\n"
        "run = lambda args: [print('x' * 70_000, flush=True) for _ in range(50)] and 0\n"
        "sys.modules['spanqa_fake'] = SimpleNamespace(configure=lambda parser: None, run=run)\n"
        "cli.COMMANDS['fake'] = cli.Command(module='spanqa_fake', help='fake it', extra='x')\n"
        "sys.exit(cli.main(['fake']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 0


def test_this_machine_is_supported():
    assert cli.unsupported_reason() is None


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 13, 0), (4, 0, 0)])
def test_another_python_is_one_sentence(monkeypatch, capsys, version):
    monkeypatch.setattr(sys, "version_info", (*version, "final", 0))
    monkeypatch.setattr(platform, "python_version", lambda: ".".join(map(str, version)))
    assert cli.main(["ask"]) == 2
    expected = f"Python {'.'.join(map(str, version))} is not supported: use Python 3.10, 3.11 or 3.12"
    assert capsys.readouterr().err == f"spanqa: error: {expected}\n"


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("win32", "AMD64"), ("linux", "aarch64")])
def test_another_platform_is_one_sentence(monkeypatch, capsys, system, machine):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert cli.main(["--help"]) == 2
    expected = f"spanqa: error: {system} on {machine} is not supported: use Linux on x86-64\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("libc", "refused"),
    [(("glibc", "2.31"), True), (("glibc", "2.35"), False), (("glibc", "2.100"), False), (("", ""), False)],
)
def test_an_old_glibc_is_one_sentence(monkeypatch, libc, refused):
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    reason = cli.unsupported_reason()
    assert (reason is not None) is refused
    if refused:
        assert reason == "glibc 2.31 is too old: use 2.35 or newer (Ubuntu 22.04, Debian 12)"


@pytest.mark.parametrize("value", ["-1e-3", "-2", "-.5", "-inf"])
def test_a_negative_number_is_an_options_value(command, value, capsys):
    """argparse alone takes -1e-3 for an option."""
    seen = []
    command(
        lambda args: seen.append((args.threshold, args.items)) or 0,
        configure=lambda parser: (
            parser.add_argument("--threshold", type=float),
            parser.add_argument("items", nargs="*"),
        ),
    )
    assert cli.main(["fake", "a=-1", "--threshold", value, "b"]) == 0
    assert seen == [(float(value), ["a=-1", "b"])]


def test_options_may_stand_between_overrides(command):
    """argparse alone loses b=2 of `a=1 -g 2 b=2`."""
    seen = []
    command(
        lambda args: seen.append((args.g, args.items)) or 0,
        configure=lambda parser: (
            parser.add_argument("-g", type=int),
            parser.add_argument("items", nargs="*"),
        ),
    )
    assert cli.main(["fake", "a=1", "-g", "2", "b=2", "~c", "+d=-1e-3"]) == 0
    assert seen == [(2, ["a=1", "b=2", "~c", "+d=-1e-3"])]


def test_a_mistyped_option_is_an_error_and_no_override(command, capsys):
    """The old toolkit's parser let it pass without a word."""
    command(lambda args: 0, configure=lambda parser: parser.add_argument("items", nargs="*"))
    with pytest.raises(SystemExit) as caught:
        cli.main(["fake", "a=1", "--reslts", "x"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --reslts" in capsys.readouterr().err


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_is_one_sentence_wherever_it_strikes(monkeypatch, capsys, code):
    def full(*_args):
        raise OSError(code, os.strerror(code), "network.onnx")

    monkeypatch.setattr("spanqa.cli._run", full)
    assert cli.main(["score", "a.json", "b.json"]) == 2
    said = capsys.readouterr().err
    assert said == f"spanqa: error: network.onnx: {os.strerror(code)}: make room there, or in TMPDIR, and try again\n"
