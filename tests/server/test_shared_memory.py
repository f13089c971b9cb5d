"""What killed servers leave in /dev/shm is swept, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from spanqa_server.shared_memory import RegionPrefix, sweep


def test_a_living_server_s_regions_stay_and_a_released_one_s_go(tmp_path: Path) -> None:
    regions = RegionPrefix(tmp_path / "run", tmp_path)
    (tmp_path / f"{regions.text}abc").write_bytes(b"x")
    assert sweep(tmp_path) == 0
    regions.release()
    assert list(tmp_path.iterdir()) == []


def test_two_servers_of_one_process_have_different_prefixes(tmp_path: Path) -> None:
    first, second = RegionPrefix(tmp_path, tmp_path), RegionPrefix(tmp_path, tmp_path)
    assert first.text != second.text
    first.release()
    second.release()


def test_a_killed_server_s_regions_are_swept_and_strangers_stay(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from spanqa_server.shared_memory import RegionPrefix\n"
        "folder = Path(sys.argv[1]); regions = RegionPrefix(folder, folder)\n"
        "(folder / f'{regions.text}abc').write_bytes(b'x'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    stranger = tmp_path / "spanqa_1_0_of_somebody_without_a_mark"
    stranger.write_bytes(b"x")
    assert len(list(tmp_path.iterdir())) == 3
    assert sweep(tmp_path) == 2
    assert list(tmp_path.iterdir()) == [stranger]
