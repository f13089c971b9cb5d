"""Batches that are killed or interrupted: what is complete stays, and the run that goes on does the rest, once."""

import os
import random
import signal
import time

import pytest
from pyarrow import parquet

N_ROWS = 800
ROWS_PER_PART = 25
LONGEST_S = 20


@pytest.fixture
def arguments(write_lines, rows, folder, repository):
    lines = [rows(number) for number in range(N_ROWS)]
    lines[120] = "{broken"
    lines[777] = rows(776)
    path = write_lines(lines)
    return [path, "-o", folder.path, "--repository", repository, "--workers", 1, "--rows-per-part", ROWS_PER_PART]


ANSWERED = [f"q{number}" for number in range(N_ROWS) if number not in (120, 777)]


def require_group_ends(process):
    """The worker processes end with the one that started them, however it ended."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail(f"worker processes are left after {LONGEST_S} s")


def test_a_batch_that_is_killed_again_and_again_answers_every_row_once(arguments, folder, started, wait_for, batch):
    chance = random.Random(7)
    n_killed = 0
    for n_parts in (0, 3, 12):
        process = started(*arguments, "--workers", 2, "--resume")

        def is_moment(n_parts=n_parts):
            return (folder.path / "run.json").exists() and len(folder.parts) >= n_parts

        wait_for(is_moment, process)
        time.sleep(chance.random() * 0.02)
        process.kill()
        n_killed += process.wait() == -signal.SIGKILL
        require_group_ends(process)
        done = folder.ids()  # every part is whole
        assert len(done) == len(set(done))
        assert set(done) <= set(ANSWERED)
    assert n_killed >= 2
    n_before = len(folder.ids())
    status, summary, _ = batch(*arguments, "--resume", "--json")
    assert status == 1
    assert (summary["read"], summary["answered"], summary["failed"]) == (N_ROWS, N_ROWS - 2, 2)
    assert summary["answered_before"] == n_before
    assert folder.ids() == ANSWERED
    assert {failure["row"] for failure in folder.failures()} == {120, 777}
    folder.require_once(ANSWERED)


def test_ctrl_c_keeps_what_is_answered(arguments, folder, started, wait_for, batch):
    process = started(*arguments, "--workers", 2, "--quiet")
    wait_for(lambda: len(folder.parts) >= 4, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process
    out, err = process.communicate(timeout=LONGEST_S)
    assert (process.returncode, out, err) == (130, "", "spanqa: interrupted\n")
    require_group_ends(process)
    summary = folder.summary()
    assert not summary["complete"]
    assert summary["read"] == summary["answered"] + summary["failed"] < N_ROWS
    assert len(folder.ids()) == summary["answered"] >= 4 * ROWS_PER_PART - 1
    assert batch(*arguments, "--resume")[0] == 1
    folder.require_once(ANSWERED)


def test_a_part_that_was_damaged_is_named(arguments, folder, batch):
    assert batch(*arguments)[0] == 1
    part = folder.parts[3]
    part.write_bytes(part.read_bytes()[:-10])
    status, _, err = batch(*arguments, "--resume")
    assert status == 2
    assert f"{part}: cannot be read" in err
    assert "delete it, and its rows are answered again" in err
    part.unlink()
    assert batch(*arguments, "--resume")[0] == 1
    assert folder.ids() == ANSWERED


def test_what_is_done_is_not_written_again(arguments, folder, batch):
    assert batch(*arguments)[0] == 1
    before = {part.name: part.stat().st_mtime_ns for part in folder.parts}
    assert batch(*arguments, "--resume")[0] == 1
    assert {part.name: part.stat().st_mtime_ns for part in folder.parts} == before


def test_a_disk_without_room_is_one_sentence(arguments, folder, batch, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet, "write_table", full)
    status, _, err = batch(*arguments)
    assert status == 2
    assert "part-00000.parquet: cannot be written: No space left on device" in err
    assert err.count("\n") == 1
    monkeypatch.undo()
    assert batch(*arguments, "--resume")[0] == 1
    folder.require_once(ANSWERED)
