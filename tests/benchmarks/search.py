"""`make bench-search`: a grid of 16 candidates on the digits, and searches over the same 16: the best out-of-fold
accuracy and the seconds of training of each.

python -m tests.benchmarks.search FOLDER RESULT.json [ROWS]

With all rows, the figures go to docs/benchmarks.md. The training seconds are those in which something was trained, from
the journals; the others are of the whole call, with merges and reports.
"""

import gzip
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import foldstream as fs
from foldstream.cluster.runs.journal import Journal
from foldstream.cluster.search.costs import seconds_of_stages
from foldstream.storage.places.json_files import read_json
from foldstream.storage.places.locate import locate
from foldstream.training.run import SEARCH, RunFolder
from rich.console import Console
from rich.table import Table

from .record import machine, write_section

ALL_ROWS = 60_000
SPACE = {"lr": [0.0003, 0.001, 0.003, 0.01], "hidden": [64, 256], "dropout": [0.0, 0.2]}
OPTIONS: dict[str, Any] = {"model": "mlp", "folds": 3, "epochs": 9, "batch_size": 128, "progress": False}
OPTIONS |= {"fold_mode": "fused"}
REDUCTIONS = (2, 3, 4)


def train(function: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
    """The figures of a grid or a search."""
    started = perf_counter()
    run = function(*arguments, **options, **OPTIONS)
    seconds, root = perf_counter() - started, locate(arguments[1])
    training = sum(seconds_of_stages(Journal(RunFolder(root).journal)).values())
    figures = {"seconds": seconds, "training": training, "accuracy": run.metrics["accuracy"]}
    if (trials := run.trials).empty:
        figures["best"] = run.best.place.name
    else:
        facts = read_json(root / SEARCH)["facts"]
        figures |= {"best": str(trials.loc[facts["best"], [*SPACE]].to_dict()), "rows saved": facts["saved"]}
        figures["last rungs"] = trials["rung"].value_counts().sort_index().to_dict()
    print(arguments[1].name, figures, flush=True)
    return figures


def main(source: Path, result: Path, rows: int = ALL_ROWS) -> None:
    result.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=result.parent) as name:
        folder = Path(name)
        with gzip.open(source / "train.csv.gz", "rt") as text:
            (folder / "digits.csv").write_text("".join(line for line, _ in zip(text, range(rows + 1), strict=False)))
        data = fs.convert(
            folder / "digits.csv", folder / "digits.zarr", label="label", shape=(1, 28, 28), progress=False
        )
        fs.train(data, folder / "warm", settings={"hidden": 64}, **{**OPTIONS, "epochs": 1})  # loads compiled code
        grid = train(fs.train, data, folder / "grid", settings=SPACE)
        searches = {
            reduction: train(
                fs.search, data, folder / f"by-{reduction}", space=SPACE, sampler="grid", reduction=reduction
            )
            for reduction in REDUCTIONS
        }
    figures = {"rows": len(data), "grid": grid, "searches": searches, "machine": machine()}
    result.write_text(json.dumps(figures, indent=2, default=float) + "\n")
    table = Table("", "accuracy", "training, s", "of the grid's", "whole call, s")
    for title, one in rows_of(figures):
        table.add_row(title, *one)
    Console(width=120).print(table)
    if rows == ALL_ROWS:
        write_section("search", lines(figures))


def rows_of(figures: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The rows of the table: a title and the figures."""
    grid = figures["grid"]
    named = {"grid": grid} | {f"search, 1 in {key} goes on": one for key, one in figures["searches"].items()}
    return [(title, [f"{one['accuracy']:.4f}", *_seconds(one, grid)]) for title, one in named.items()]


def _seconds(one: dict[str, Any], grid: dict[str, Any]) -> list[str]:
    return [f"{one['training']:.1f}", f"{one['training'] / grid['training']:.2f}", f"{one['seconds']:.1f}"]


def lines(figures: dict[str, Any]) -> list[str]:
    """The section of docs/benchmarks.md."""
    return [
        f"`make bench-search` on {figures['machine']}: {figures['rows']:,} digits, `mlp`, 3 folds, 9 epochs, 16",
        "candidates (four learning rates, two widths, two dropouts), all in one pass.",
        "",
        "| | best out-of-fold accuracy | training, s | of the grid's | whole call, s |",
        "|---|---:|---:|---:|---:|",
        *(f"| {title} | {' | '.join(values)} |" for title, values in rows_of(figures)),
        "",
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:4]))
