"""All commands on the full digits: seconds of each, out-of-fold accuracy, training rows per second.

Run by `make bench-digits`: python digits.py FOLDER RESULT.json
"""

import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).parents[2]


def timed(*arguments: str) -> float:
    """Run one foldstream command and return its seconds."""
    started = perf_counter()
    subprocess.run([str(ROOT / ".venv/bin/foldstream"), *arguments], check=True)
    return perf_counter() - started


def main(source: Path, result: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-digits-") as folder:
        data, run, out = (f"{folder}/{name}" for name in ("digits.zarr", "run", "submission.csv"))
        train, test = str(source / "train.csv.gz"), str(source / "test.csv.gz")
        seconds = {
            "convert": timed("convert", "csv", train, data, "--label", "label", "--shape", "1,28,28"),
            "train": timed("train", data, run, "--folds", "5", "--epochs", "10", "--workers", "2"),
            "predict": timed("predict", run, test, out),
        }
        summary = json.loads(Path(run, "summary.json").read_text())
        keep = result.parent / "submission-digits.csv"
        keep.parent.mkdir(parents=True, exist_ok=True)
        keep.write_bytes(Path(out).read_bytes())
        with open(out) as file:
            rows = sum(1 for _ in csv.reader(file)) - 1
    figures = {
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "seconds": {**seconds, "total": sum(seconds.values())},
        "out_of_fold": summary["out_of_fold"],
        "last epoch, training rows/s": [round(e["rows"] / e["seconds"]) for e in summary["folds"]],
        "predictions": rows,
    }
    result.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
