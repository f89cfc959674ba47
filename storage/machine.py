"""Cores and memory of this machine, within the limits of this process's control group."""

import ctypes
import gc
import logging
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath

import psutil

from .errors import UsageError

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
STREAM_PART = 8
"""All streams of training data on a machine may together hold one part in eight of its memory."""
UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class Machine:
    """The number of cores that this process may use, and the memory in bytes."""

    cores: int
    memory: int


@cache
def this_machine() -> Machine:
    """This machine, within the limits of this process's control groups and of those above them.

    A limit of 2.5 cores counts as two, and one of half a core as one.
    """
    quota, memory = cgroup_limits(_read(OWN_CGROUPS), CGROUPS)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(max(1, int(min(allowed, quota))), int(min(psutil.virtual_memory().total, memory)))


def stream_memory() -> int:
    """Memory limit in bytes for all streams of training data on this machine together."""
    return this_machine().memory // STREAM_PART


@dataclass(frozen=True)
class Sharing:
    """How the processes that stream training data share a machine: as many `ranks` as may be there at once, of all runs
    of a job, of which `own` belong to the same run as this one; and the `number` of this one among all of them."""

    number: int = 0
    ranks: int = 1
    own: int = 1

    def part_of(self, budget: int, needed: int = 0) -> int:
        """This rank's part of a budget of the machine: an equal one. A rank that cannot do with that takes what it
        needs, but never more than it would get if its run were alone.

        Example:
            >>> Sharing(ranks=16).part_of(1600), Sharing(ranks=16).part_of(1600, needed=150)
            (100, 150)
        """
        return max(budget // self.ranks, min(needed, budget // self.own))


def cgroup_limits(groups: str, mounts: Path) -> tuple[float, float]:
    """Limits of cores and of memory in bytes: the lowest of this process's control groups and of every group that
    contains them, of cgroup versions 1 and 2. Infinity means no limit.

    Args:
        groups: The groups, as in /proc/self/cgroup.
        mounts: Where control groups are mounted, e.g. /sys/fs/cgroup.
    """
    lines = [line.split(":", 2)[1:] for line in groups.splitlines()]
    cores = min(map(_core_limit, _group_folders(lines, mounts, "cpu")), default=math.inf)
    return cores, min(map(_memory_limit, _group_folders(lines, mounts, "memory")), default=math.inf)


def _group_folders(lines: list[list[str]], mounts: Path, controller: str) -> Iterator[Path]:
    """The folders of all groups that may limit a controller. Some may not exist."""
    for controllers, path in lines:
        names = controllers.split(",")
        version_1 = [controller, controllers] if controller in names else []  # "cpu" or "cpu,cpuacct"
        group = PurePath(path)
        for mount in version_1 if controllers else ["", "unified"]:  # version 2, alone or beside version 1
            for above in (group, *group.parents):
                yield mounts / mount / above.relative_to("/")


def _core_limit(group: Path) -> float:
    limit = _read(group / "cpu.max") or f"{_read(group / 'cpu.cfs_quota_us')} {_read(group / 'cpu.cfs_period_us')}"
    quota, _, period = limit.partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else math.inf  # else "max" or -1


def _memory_limit(group: Path) -> float:
    limit = _read(group / "memory.max") or _read(group / "memory.limit_in_bytes")
    return int(limit) if limit.isdigit() else math.inf


def _read(file: Path) -> str:
    """The text of a file, empty if it cannot be read."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def parse_bytes(text: str | int | None) -> int | None:
    """Parse a number of bytes: 2000000, "500MB", "1.5 GiB"; None stays None. Raises ValueError."""
    if text is None:
        return None
    if not isinstance(text, int | str) or isinstance(text, bool):
        raise ValueError("must be a whole number of bytes, or text such as 500MB or 2GiB")
    compact = str(text).replace(" ", "").upper()
    digits = compact.rstrip("BKMGTI")
    unit = compact[len(digits) :] or "B"
    try:
        return int(float(digits) * UNITS[unit])
    except (ValueError, KeyError):
        raise ValueError("must be a number of bytes, such as 500MB or 2GiB") from None


def size_text(size: float) -> str:
    """A number of bytes in decimal units, as disks and networks have them: 999 bytes, 1.5 kB, 1.05 TB."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.2f} TB"


def check_bytes(text: str | int | None, option: str) -> int | None:
    """`parse_bytes`, but raises a UsageError that names the option."""
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}") from None


def end_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends for any reason (Linux only)."""
    with suppress(AttributeError):  # another system
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection while modules are imported: they leave no garbage, but collection takes a third of
    the time it takes to import torch and Ray. Later collections ignore what exists now, until `gc.unfreeze()`."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


@contextmanager
def logging_from(level: int, name: str) -> Iterator[None]:
    """Let a library's logger write only messages of this level or above."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


PR_SET_PDEATHSIG = 1  # an option of Linux's prctl
TRIM_THRESHOLD, MMAP_MAX = -1, -4  # names of mallopt(3)


def keep_freed_memory() -> None:
    """Ask the C library to keep freed memory instead of returning it to the system (glibc only).

    Memory freed by one step or task is reused by the next. Otherwise the system clears every page each time, which
    takes a sixth of the training time of a small network on a CPU and a quarter of the time of a conversion.
    """
    _mallopt({TRIM_THRESHOLD: 2**31 - 1, MMAP_MAX: 0})


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """`keep_freed_memory` in this context only: when it ends, free memory is returned to the system."""
    keep_freed_memory()
    try:
        yield
    finally:
        _mallopt({TRIM_THRESHOLD: 128 << 10, MMAP_MAX: 1 << 16})  # glibc's defaults
        with suppress(AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _mallopt(options: dict[int, int]) -> None:
    with suppress(AttributeError):  # another C library
        for name, value in options.items():
            ctypes.CDLL(None).mallopt(name, value)
