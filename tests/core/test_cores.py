"""A limit of processor time counts as fewer cores, wherever the kernel says it."""

import os

import pytest

from spanqa.cores import usable_cores


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))


@pytest.fixture
def groups(tmp_path):
    """Writes a tree of control groups; gives what `usable_cores` takes."""

    def write(membership, **files):
        (tmp_path / "membership").write_text(membership)
        for name, content in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path / "groups", tmp_path / "membership"

    return write


@pytest.mark.parametrize(
    ("membership", "files", "count"),
    [
        ("0::/\n", {}, 64),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 64),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "9900000 100000\n"}, 64),
        ("0::/a.slice/b.service\n", {"a.slice/b.service/cpu.max": "max 100000", "a.slice/cpu.max": "300000 100000"}, 3),
        ("0::/kubepods/of/the/node\n", {"cpu.max": "400000 100000"}, 4),
        ("0::/../../elsewhere\n", {"cpu.max": "400000 100000"}, 4),
        ("0::/\n", {"cpu.max": "what\n"}, 64),
        ("0::/\n", {"cpu.max": "100000 0\n"}, 64),
        (
            "5:memory:/x\n4:cpu,cpuacct:/docker/1\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "500000", "cpu/cpu.cfs_period_us": "100000"},
            5,
        ),
        ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, 64),
    ],
)
def test_the_smallest_limit_counts(cores, groups, membership, files, count):
    assert usable_cores(*groups(membership, **files)) == count


def test_without_control_groups_all_cores_count(cores, tmp_path):
    assert usable_cores(tmp_path / "none", tmp_path / "none") == 64


def test_here_there_is_one_at_least():
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
