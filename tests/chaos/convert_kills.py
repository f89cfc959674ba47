"""Kills conversions at random moments drawn from a seed: python -m tests.chaos.convert_kills KIND COUNT SEED.

KIND is csv or images. Each kill hits either the command with all of its processes, or one of the workers of a Dask
cluster on which it converts. One target may be killed several times in a row. Then the same command runs to completion,
and its output must equal that of an undisturbed run.
"""

import csv
import gzip
import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
import psutil
from distributed import LocalCluster
from foldstream.pipeline.target.claim import SPEC
from foldstream.pipeline.target.receipts import RECEIPTS
from foldstream.storage.format.manifest import MANIFEST, WORK
from foldstream.storage.places.json_files import content_hash, read_json
from PIL import Image

from .processes import (
    Deadline,
    assert_session_ended,
    convert_command,
    dask_workers,
    finish,
    kill_session,
    start,
)

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits" / "train.csv.gz"
SOURCE_BYTES = 45_000_000
IN_A_ROW = 3
# The output with which each stage begins. A run that resumes skips some stages after `start`.
CSV_SIGNS = {
    "start": "",
    "cut": "open: ",
    "write": "cut: ",
    "scan": "sample: ",
    "rewrite": "scan: ",
    "commit": "convert: ",
}
IMAGE_SIGNS = {"start": "", "write": "list: ", "commit": "convert: "}


@dataclass(frozen=True)
class Quiet:
    """A source and its undisturbed conversion: the hash of each file, and the seconds that each stage took."""

    source: Path
    files: dict[str, str]
    seconds: dict[str, float]


@dataclass(frozen=True)
class Kill:
    """One kill: its victim, the seconds since the command's start, the stage, and what had been written by then."""

    source: str
    whom: str
    seconds: float
    stage: str
    receipts: int
    committed: bool

    def __str__(self) -> str:
        state = "committed" if self.committed else f"{self.receipts} receipts"
        return f"{self.source:13} {self.whom:6} at {self.seconds:5.2f} s in {self.stage:7} {state:11}"


def make_csv(folder: Path) -> list[Path]:
    """Two files of repeated example digits: one compressed, one plain with a last row that the sample misses.

    That row contains a 300, which does not fit into the uint8 that the sample suggests, so all shards are rewritten.
    """
    with gzip.open(EXAMPLE, "rb") as file:
        header, rows = file.readline(), file.read()
    text = header + rows * (SOURCE_BYTES // len(rows))
    fitting, misleading = folder / "fits.csv.gz", folder / "misleads.csv"
    fitting.write_bytes(gzip.compress(text, 1))
    first_row = rows.partition(b"\n")[0]
    misleading.write_bytes(text + first_row.rpartition(b",")[0] + b",300\n")
    return [misleading, fitting]


def make_images(folder: Path) -> list[Path]:
    """A folder of digits as PNG files, a few of which are truncated: shards with such files are written twice."""
    root = folder / "images"
    with gzip.open(EXAMPLE, "rt") as file:
        for number, (label, *pixels) in enumerate(islice(csv.reader(file), 1, None)):
            image = io.BytesIO()
            Image.fromarray(np.array(pixels, np.uint8).reshape(28, 28)).save(image, "png")
            (root / label).mkdir(parents=True, exist_ok=True)
            data = image.getvalue()
            (root / label / f"{number:05d}.png").write_bytes(data[:90] if number % 1000 == 7 else data)
    return [root]


KINDS = {"csv": make_csv, "images": make_images}


def signs_of(source: Path) -> dict[str, str]:
    """The stages of a source's conversion, with the output that marks the start of each."""
    return IMAGE_SIGNS if source.is_dir() else CSV_SIGNS


def hashes(root: Path) -> dict[str, str]:
    """The hash of every file under a folder, by relative path. Folders are included, so that empty ones are noticed."""
    return {
        str(path.relative_to(root)): content_hash(path.read_bytes()) if path.is_file() else "folder"
        for path in sorted(root.rglob("*"))
    }


def await_sign(process: subprocess.Popen[bytes], log: Path, sign: str) -> bool:
    """Wait until a command has printed a sign. Returns False if the command ends first."""
    deadline = Deadline()
    while sign not in log.read_text():
        if process.poll() is not None:
            return False
        deadline.check(sign)
        time.sleep(0.005)
    return True


def convert_quietly(source: Path, root: Path) -> Quiet:
    """Convert without kills, and remove the result."""
    log = root.with_suffix(".log")
    process = start(convert_command(source, root), log)
    begins = {stage: time.monotonic() for stage, sign in signs_of(source).items() if await_sign(process, log, sign)}
    finish(process, log)
    # Waiting for a sign that never comes lasts until the end of the run. Such a stage does not occur for this source.
    ends = [*list(begins.values())[1:], time.monotonic()]
    seconds = {stage: end - begin for (stage, begin), end in zip(begins.items(), ends, strict=True)}
    files = hashes(root)
    shutil.rmtree(root)
    return Quiet(source, files, seconds)


def stages_ahead(quiet: Quiet, root: Path) -> dict[str, str]:
    """The stages that a run will go through, given what exists at `root`, with their signs."""
    spec, signs, stages = root / WORK / SPEC, signs_of(quiet.source), list(quiet.seconds)
    if spec.exists() and not quiet.source.is_dir():
        first = "write" if read_json(spec)["sampled"] else "rewrite"
        return {"start": "", **{stage: signs[stage] for stage in stages[stages.index(first) :]}, first: ""}
    return {stage: signs[stage] for stage in stages}


def strike(quiet: Quiet, root: Path, log: Path, draws: np.random.Generator, dask: str) -> Kill | None:
    """Start the command, and kill it, or one of the workers on which it converts, at a random moment. Returns None if
    it ends first."""
    ahead = stages_ahead(quiet, root)
    stage = str(draws.choice(list(ahead)))
    delay = draws.uniform(0, quiet.seconds[stage])
    of_worker, which = draws.random() < 1 / 3, int(draws.integers(1 << 30))
    options = ["--dask", dask] if of_worker else []
    process, started = start([*convert_command(quiet.source, root), *options], log), time.monotonic()
    try:
        if not await_sign(process, log, ahead[stage]):
            return None
        with suppress(subprocess.TimeoutExpired):
            process.wait(delay)
            return None
        workers = dask_workers() if of_worker else []
        seconds, printed = time.monotonic() - started, log.read_text()
        receipts, committed = len(list((root / WORK / RECEIPTS).glob("*.json"))), (root / MANIFEST).exists()
        if workers:
            with suppress(psutil.NoSuchProcess):
                workers[which % len(workers)].kill()
            finish(process, log)
    finally:
        kill_session(process)
    assert_session_ended(process.pid)
    reached = [name for name, sign in ahead.items() if sign in printed][-1]
    return Kill(quiet.source.name, "worker" if workers else "group", seconds, reached, receipts, committed)


def strike_in_a_row(quiet: Quiet, root: Path, draws: np.random.Generator, most: int, dask: str) -> list[Kill]:
    """Kill conversions to one target several times, then let one complete, and compare its files."""
    log, kills = root.with_suffix(".log"), list[Kill]()
    for _ in range(min(most, int(draws.integers(1, IN_A_ROW + 1)))):
        kill = strike(quiet, root, log, draws, dask)
        kills += [kill] if kill else []
        if kill is None or kill.whom == "worker" or kill.committed:
            break
    if not kills or kills[-1].whom == "group":
        finish(start(convert_command(quiet.source, root), log), log)
    found = hashes(root)
    differing = sorted(name for name, _ in found.items() ^ quiet.files.items())
    assert not differing, f"after {'; '.join(map(str, kills))}: {differing}"
    shutil.rmtree(root)
    return kills


def strike_conversions(
    folder: Path, kind: str, wanted: int, seed: int, report: Callable[[str], None] = lambda line: None
) -> list[Kill]:
    """Kill conversions of each source in turn until there were `wanted` kills.

    Raises AssertionError if a conversion leaves other files than the undisturbed one.
    """
    draws = np.random.default_rng(seed)
    quiets = [convert_quietly(source, folder / "quiet.zarr") for source in KINDS[kind](folder)]
    for quiet in quiets:
        stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in quiet.seconds.items())
        report(f"undisturbed, {quiet.source.name}: {stages} s")
    kills: list[Kill] = []
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster:
        for number in count():
            if len(kills) == wanted:
                return kills
            quiet, target = quiets[number % len(quiets)], folder / f"target-{number}.zarr"
            for kill in strike_in_a_row(quiet, target, draws, wanted - len(kills), cluster.scheduler_address):
                kills.append(kill)
                report(f"{len(kills):2} target {number:2}: {kill} -> the same {len(quiet.files)} files")
    raise AssertionError("unreachable")


def main(kind: str, wanted: int, seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="convert-kills-") as name:
        kills = strike_conversions(Path(name), kind, wanted, seed, lambda line: print(line, flush=True))
    stages = Counter(kill.stage for kill in kills)
    workers = sum(kill.whom == "worker" for kill in kills)
    print(f"{len(kills)} kills, {workers} of a single worker: {dict(stages)}; every result equals the undisturbed one")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
