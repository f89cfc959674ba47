"""`make bench-predict`: prediction by one worker and by two, and in one process, of the same rows by the same models.

python -m tests.benchmarks.predict RESULT.json. Each worker has one torch thread. The rate is that of the steady part:
from when each worker has predicted some shards, with the models loaded, until the last shards, when a worker may be
alone. All runs share one Ray cluster, whose start does not count, and must write the same bytes. One worker and two
take turns, because other programs may share the machine; if these take the cores, the rows per second of CPU time still
tell whether two workers hinder each other.
"""

import gzip
import json
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from statistics import median
from time import perf_counter

import foldstream as fs
import numpy as np
import psutil
from foldstream.cluster.ray.job_cluster import ray_cluster
from foldstream.storage.dataset import Dataset
from foldstream.storage.format import layout as layouts

from .record import machine, write_section

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "train.csv.gz"
REPEATED, TRAINED, SHARD_BYTES, ROUNDS = 6, 2_000, 512 << 10, 3
WARM = 4  # shards of each worker before the steady part


def prepare(folder: Path) -> tuple[Path, Dataset]:
    """A run of two folds, and the dataset to predict: digits, over and over, in many shards for their size."""
    few, many = folder / "few.csv", folder / "many.csv"
    header, *digits = gzip.decompress(DIGITS.read_bytes()).decode().splitlines(keepends=True)
    few.write_text("".join([header, *digits[:TRAINED]]))
    many.write_text("".join(line.partition(",")[2] for line in [header, *(digits * REPEATED)]))
    fs.convert_csv(few, folder / "few.zarr", label="label", shape=(1, 28, 28))
    fs.train(folder / "few.zarr", folder / "run", model="digits-cnn", folds=2, epochs=1)
    layouts.SHARD_BYTES = SHARD_BYTES
    return folder / "run", fs.convert_csv(many, folder / "many.zarr", like=folder / "few.zarr")


def cpu_seconds() -> float:
    """CPU time of all workers so far."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.name().startswith("ray::"):
                total += sum(process.cpu_times()[:2])
    return total


def steady_rates(run: Path, dataset: Dataset, out: Path, workers: int) -> tuple[float, float]:
    """Rows per second of the steady part, and rows per second of CPU time."""
    seen: list[tuple[int, float, float]] = []

    def note(stage: str, done: int, total: int, remark: str = "") -> None:
        if stage == "predict":
            seen.append((done, perf_counter(), cpu_seconds()))

    fs.predict(run, dataset, out, workers=workers, listener=fs.Listener(progress=note))
    rows, seconds, cpu = np.subtract(seen[-1 - workers], seen[WARM * workers]).tolist()
    return rows / seconds, rows / cpu


def main(result: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-predict-") as name, ray_cluster(2):
        folder = Path(name)
        run, dataset = prepare(folder)
        fs.predict(run, dataset, folder / "first.csv", workers=2)  # it loads torch and the models in both workers
        rates: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
        for _ in range(ROUNDS):
            for workers, found in rates.items():
                found.append(steady_rates(run, dataset, folder / f"{workers}.csv", workers))
                print(f"workers: {workers}, {found[-1][0]:,.0f} rows/s, {found[-1][1]:,.0f} per CPU second", flush=True)
        fs.predict(run, dataset, folder / "0.csv", workers=0)
        if len({(folder / f"{workers}.csv").read_bytes() for workers in (0, 1, 2)}) > 1:
            raise SystemExit("the predictions differ")
    one, two = (np.median(found, axis=0).tolist() for found in rates.values())
    ratios = [second / first for (first, _), (second, _) in zip(*rates.values(), strict=True)]
    figures = {"rates": rates, "ratio": median(ratios)}
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")
    what = f"{len(dataset):,} digits in {dataset.layout.shards} shards, `digits-cnn`, 2 folds"
    lines = [
        f"`make bench-predict` on {machine()}: {what}, the same bytes.",
        "",
        "| workers | rows/s, median of three | rows per second of CPU time | two are |",
        "|---|---:|---:|---:|",
        f"| 1 | {one[0]:,.0f} | {one[1]:,.0f} | |",
        f"| 2 | {two[0]:,.0f} | {two[1]:,.0f} | "
        f"{median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f}) |",
        "",
    ]
    write_section("predict", lines)
    print(*lines, sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
