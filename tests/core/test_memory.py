"""Memory given back is really given back, and shared memory that is left is told."""

import subprocess
import sys

from spanqa import memory
from spanqa.memory import has_shared_memory

CODE = """
from pathlib import Path
from spanqa.memory import release_free_memory

def resident_mib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

blocks = [b"%d" % number * 30_000 for number in range(600)]
keep = blocks[-1]
before = resident_mib()
del blocks
release_free_memory()
print(before - resident_mib())
"""


def test_what_is_free_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 40


def test_shared_memory_is_there_until_more_is_asked_for_than_the_system_has(monkeypatch, tmp_path):
    assert has_shared_memory(1)
    assert not has_shared_memory(1 << 60)
    monkeypatch.setattr(memory, "SHARED_MEMORY", tmp_path / "missing")
    assert has_shared_memory(1 << 60)
