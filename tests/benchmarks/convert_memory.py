"""`make bench-convert-memory`: peak memory of converting 1 GB and 10 GB of CSV, 10 GB under a limit of 2 GB, and
10,000 and 100,000 images.

python -m tests.benchmarks.convert_memory RESULT.json [csv|images]. The figure is the sum of the proportional set sizes
of all processes of the command, in which shared pages count once. The limit is set with a control group (version 1 or
2), which requires root.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from ..chaos.convert_kills import make_images
from ..chaos.processes import convert_command, session_processes
from .memory import limited
from .rows import EXAMPLE

SMALL, LARGE = 10**9, 10**10
FEW, MANY = 10_000, 100_000
LIMIT = 2 * 10**9
SAMPLE_SECONDS = 0.05
LISTING_SECONDS = 1.0  # listing the processes takes longer than reading their memory
ROLES = {"distributed.Scheduler": "scheduler", "distributed.Nanny": "nanny", "spawn_main": "worker", "cli": "command"}


def write_digits(target: Path, size: int) -> None:
    """The example's digits, repeated up to `size` bytes."""
    with gzip.open(EXAMPLE, "rb") as file:
        header, rows = file.readline(), file.read()
    with open(target, "wb") as out:
        out.write(header)
        while out.tell() < size:
            out.write(rows)


def repeat_images(folder: Path, target: Path, count: int) -> None:
    """Hard-link the files of a folder with class folders repeatedly, until there are `count` files."""
    files = [path for path in sorted(folder.rglob("*.png")) if path.stat().st_size > 100]
    for number in range(count):
        source = files[number % len(files)]
        link = target / source.parent.name / f"{number:06d}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, link)


def role(process: psutil.Process) -> str:
    """The role of a process of the command."""
    with suppress(psutil.NoSuchProcess):
        line = " ".join(process.cmdline())
        return next((name for sign, name in ROLES.items() if sign in line), "other")
    return "other"


def held_bytes(pid: int) -> tuple[int, int]:
    """The proportional set size of a process, and its anonymous part. Zeros for a process that has ended."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        sizes = {name: int(value.split()[0]) * 1024 for name, value in (line.split(":") for line in lines)}
        return sizes["Pss"], sizes["Pss_Anon"]
    return 0, 0


def watch(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """The peak memory of a command until it ends, and its distribution among processes at that moment."""
    figures: dict[str, Any] = {"peak_bytes": 0, "peak_anonymous_bytes": 0, "at_peak": {}}
    roles: dict[int, str] = {}
    listed = 0.0
    started = monotonic()
    while process.poll() is None:
        if monotonic() - listed > LISTING_SECONDS:
            roles = {one.pid: role(one) for one in session_processes(process.pid)}
            listed = monotonic()
        held = {pid: held_bytes(pid) for pid in roles}
        total = sum(size for size, _ in held.values())
        if total > figures["peak_bytes"]:
            figures["at_peak"] = {f"{roles[pid]} {pid}": size for pid, (size, _) in held.items() if size}
            figures["peak_bytes"] = total
        anonymous = sum(size for _, size in held.values())
        figures["peak_anonymous_bytes"] = max(figures["peak_anonymous_bytes"], anonymous)
        sleep(SAMPLE_SECONDS)
    return {"seconds": monotonic() - started, **figures}


def run(source: Path, out: Path, group: Path | None = None) -> dict[str, Any]:
    """Run the conversion command, in a control group if one is given. If it fails, its output is returned."""

    def enter() -> None:
        if group:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    log = out.with_suffix(".log")
    with open(log, "wb") as file:
        process = subprocess.Popen(
            convert_command(source, out), start_new_session=True, stdout=file, stderr=file, preexec_fn=enter
        )
    figures = watch(process)
    psutil.wait_procs(session_processes(process.pid), timeout=60)
    shutil.rmtree(out, ignore_errors=True)
    return {**figures, "failure": log.read_text() if process.returncode else None}


def measure_csv(folder: Path) -> dict[str, Any]:
    small, large, out = folder / "small.csv", folder / "large.csv", folder / "out.zarr"
    write_digits(small, SMALL)
    write_digits(large, LARGE)
    figures = {"CSV, 1 GB": run(small, out), "CSV, 10 GB": run(large, out)}
    with limited(LIMIT) as group:
        figures[f"CSV, 10 GB, limit {LIMIT / 1e9:.0f} GB"] = run(large, out, group)
    return figures


def measure_images(folder: Path) -> dict[str, Any]:
    (images,) = make_images(folder)
    figures = {}
    for count in (FEW, MANY):
        source = folder / f"{count}"
        repeat_images(images, source, count)
        figures[f"images, {count:,} files"] = run(source, folder / "out.zarr")
    return figures


KINDS = {"csv": measure_csv, "images": measure_images}


def main(result: Path, kinds: list[str]) -> None:
    figures: dict[str, Any] = {}
    for kind in kinds or KINDS:
        with tempfile.TemporaryDirectory(prefix="bench-convert-memory-") as name:
            figures |= KINDS[kind](Path(name))
    table = Table("source", "s", "peak, MB", "peak anonymous, MB", "at the peak, MB", title="memory of conversion")
    for case, one in figures.items():
        parts = ", ".join(f"{who.split()[0]} {size / 1e6:,.0f}" for who, size in sorted(one["at_peak"].items()))
        peaks = (f"{one[kind] / 1e6:,.0f}" for kind in ("peak_bytes", "peak_anonymous_bytes"))
        table.add_row(case, "failed" if one["failure"] else f"{one['seconds']:,.1f}", *peaks, parts)
    Console(width=120).print(table)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")
    if failures := [f"{case}:\n{one['failure']}" for case, one in figures.items() if one["failure"]]:
        raise SystemExit("\n".join(failures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
