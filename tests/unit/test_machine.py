"""What this machine gives to one process: cores and memory within control groups."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from foldstream.cluster.dask.executor import local_threads
from foldstream.storage import machine
from foldstream.storage.dataset import Dataset
from foldstream.storage.machine import this_machine
from foldstream.training.stream.batch import Rank

MANY = 1 << 62  # what version 1 has where nothing limits the memory
VERSION_1 = "9:cpu,cpuacct:/docker/one\n4:memory:/docker/one\n1:name=systemd:/docker/one\n"
TREES = {
    "2": ("0::/pod/one\n", {"pod/one/cpu.max": "200000 100000", "pod/one/memory.max": "1000"}, (2, 1000)),
    "2, a parent": (
        "0::/pod/one\n",
        {"pod/one/cpu.max": "max 100000", "pod/cpu.max": "150000 50000", "pod/memory.max": "77", "cpu.max": "900 100"},
        (3, 77),
    ),
    "2, the root of a container": ("0::/\n", {"cpu.max": "250000 100000", "memory.max": "max"}, (2.5, math.inf)),
    "2, no limits": ("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, (math.inf, math.inf)),
    "1": (
        VERSION_1,
        {
            "cpu/docker/one/cpu.cfs_quota_us": "50000",
            "cpu/docker/one/cpu.cfs_period_us": "100000",
            "memory/docker/one/memory.limit_in_bytes": "500",
        },
        (0.5, 500),
    ),
    "1, a parent and its other name": (
        VERSION_1,
        {
            "cpu,cpuacct/docker/one/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/docker/one/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/docker/cpu.cfs_quota_us": "400000",
            "cpu,cpuacct/docker/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": str(MANY),
        },
        (4, MANY),
    ),
    "1, the root of a container": (
        VERSION_1,
        {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"},
        (3, math.inf),
    ),
    "both": (
        VERSION_1 + "0::/docker/one\n",
        {"unified/docker/cpu.max": "100000 100000", "memory/docker/one/memory.limit_in_bytes": "8"},
        (1, 8),
    ),
    "none": ("", {}, (math.inf, math.inf)),
}


@pytest.fixture
def mounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "own")
    this_machine.cache_clear()
    yield tmp_path
    this_machine.cache_clear()


@pytest.mark.parametrize(("groups", "files", "limits"), TREES.values(), ids=TREES)
def test_cores_and_memory_are_those_of_the_control_groups(
    mounts: Path, groups: str, files: dict[str, str], limits: tuple[float, float]
) -> None:
    for name, text in {"own": groups, **files}.items():
        (mounts / name).parent.mkdir(parents=True, exist_ok=True)
        (mounts / name).write_text(text + "\n")
    assert machine.cgroup_limits(groups, mounts) == limits
    assert this_machine().cores == max(1, int(min(limits[0], 64)))
    assert this_machine().memory == min(limits[1], psutil.virtual_memory().total)


def test_threads_and_their_memory_follow_the_control_group(mounts: Path, digits: Dataset) -> None:
    """64 threads on two cores would each have had a 64th of the memory."""
    for name, text in {"own": "0::/\n", "cpu.max": "200000 100000\n", "memory.max": str(8 << 30)}.items():
        (mounts / name).write_text(text)
    assert (local_threads(), Rank().thread_count(digits)) == (2, 2)
    assert Rank().memory_bound() == 1 << 30
