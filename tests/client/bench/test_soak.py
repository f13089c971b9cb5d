"""Memory is that of who listens on a port, and growth is a line's."""

import contextlib
import mmap
import os
import socket
import subprocess
import sys

import pytest

from spanqa.errors import InputError
from spanqa_client.bench.generator import Outcome
from spanqa_client.bench.periods import growth_percent, period_from_outcomes, period_line, summary_from_periods
from spanqa_client.bench.processes import is_local, listener, memory
from spanqa_client.bench.soak import LineFile, Watch


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_listener_of_a_port_is_found(address):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listening:
        try:
            listening.bind((address, 0))
        except OSError:
            pytest.skip(f"{address} is not there")
        port = listening.getsockname()[1]
        assert listener(port) is None
        listening.listen()
        assert listener(port) == os.getpid()


def test_a_listener_is_found_whatever_its_process_closes_meanwhile():
    """The list of a process's files is read by a file of its own, which is gone when its number comes up."""
    with contextlib.ExitStack() as held:
        low = held.enter_context(open(os.devnull))
        listening = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        assert low.fileno() < listening.fileno()
        low.close()  # the next file takes its number, which is listed before the socket's
        assert listener(listening.getsockname()[1]) == os.getpid()


def test_only_this_machine_is_local():
    assert is_local("localhost")
    assert is_local("127.0.0.1")
    assert not is_local("192.0.2.1")  # kept for examples
    assert not is_local("no.such.host.invalid")
    assert Watch("192.0.2.1:8001").look() is None


def test_memory_is_that_of_a_process_and_its_descendants_and_of_what_they_share(tmp_path):
    before = memory(os.getpid())
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()  # the grandchild is there
        with_children = memory(os.getpid())
        child.communicate(b"\n")
    assert with_children.n_processes == before.n_processes + 2
    assert with_children.resident_bytes > before.resident_bytes + 2_000_000
    path = f"/dev/shm/spanqa-test-{os.getpid()}"
    with open(path, "w+b") as file:
        os.unlink(path)
        file.write(bytes(1 << 20))
        file.flush()
        with mmap.mmap(file.fileno(), 1 << 20):
            mapped = memory(os.getpid())
    assert mapped.shared_bytes - before.shared_bytes == 1 << 20
    assert memory(child.pid) is None


def test_growth_is_that_of_a_line_without_the_first_tenth():
    settled = [(float(at), 1000.0 if at else 1.0) for at in range(10)]
    assert growth_percent(settled) == pytest.approx(0)
    assert growth_percent([(float(at), 100.0 + at) for at in range(21)]) == pytest.approx(100 * 17 / 103)
    assert growth_percent([(1.0, 5.0), (2.0, None), (3.0, 5.0), (4.0, 6.0)]) is None
    assert growth_percent([(float(at), 0.0) for at in range(9)]) is None


def test_a_period_in_which_nothing_was_answered_is_a_line_too():
    one = period_from_outcomes(
        [Outcome(due_s=0, sent_s=0, done_s=1, error="UNAVAILABLE: away")] * 2, 3725.0, 10.0, None
    )
    assert period_line(one).split() == ["1:02:05", "0.0", "-", "-", "2", "-", "-", "UNAVAILABLE:", "away"]
    summary = summary_from_periods([one])
    assert (summary.n_errors, summary.p99_ms, summary.resident_growth_percent) == (2, None, None)
    assert summary_from_periods([]).questions_per_s == 0


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        LineFile(tmp_path / "file" / "soak.jsonl")
