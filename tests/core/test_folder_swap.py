"""A folder is replaced in one step, by one process at a time."""

import signal
import subprocess
import sys
import threading

import pytest

from spanqa import folder_swap
from spanqa.folder_swap import replace_folder, sole_writer

COUNTING = """
import sys
from pathlib import Path
from spanqa.folder_swap import sole_writer, swap_folder
folder = Path(sys.argv[1])
for _ in range(25):
    with sole_writer(folder):
        count = int((folder / "count").read_text()) + 1
        swap_folder(folder, lambda new: (new / "count").write_text(str(count)), own_files=["count"])
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from spanqa import folder_swap
folder_swap.shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
folder_swap.replace_folder(Path(sys.argv[1]), lambda new: (new / "count").write_text("1"), own_files=["count"])
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "count").write_text("0")
    return tmp_path / "folder"


def test_processes_that_replace_one_folder_take_turns(folder):
    processes = [subprocess.Popen([sys.executable, "-c", COUNTING, str(folder)]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (folder / "count").read_text() == "75"
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


def test_there_is_no_moment_without_the_folder(folder):
    """On this file system names change places: a reader that looks without pause always finds one."""
    seen, done = [], threading.Event()

    def look():
        while not done.is_set():
            seen.append(folder.is_dir())

    reader = threading.Thread(target=look)
    reader.start()
    for count in range(200):
        replace_folder(folder, lambda new, count=count: (new / "count").write_text(str(count)), own_files=["count"])
    done.set()
    reader.join()
    assert len(seen) > 200
    assert all(seen)


def test_a_kill_before_the_old_one_is_deleted_leaves_the_new_one_and_is_mended_by_the_next(folder):
    done = subprocess.run([sys.executable, "-c", KILLED, str(folder)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert (folder / "count").read_text() == "1"
    assert len(list(folder.parent.iterdir())) == 2
    with sole_writer(folder):
        assert [path.name for path in folder.parent.iterdir()] == ["folder"]


def test_names_that_cannot_change_places_are_renamed_one_by_one(folder, monkeypatch):
    monkeypatch.setattr(folder_swap, "_exchange", lambda *_: False)
    replace_folder(folder, lambda new: (new / "count").write_text("1"), own_files=["count"])
    assert (folder / "count").read_text() == "1"
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]
