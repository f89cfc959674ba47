"""`make bench-ensemble`: three models on the digits with the same folds, and their ensembles by each method.

python -m tests.benchmarks.ensembles DIGITS.csv RESULT.json [FOLDS [EPOCHS]]. Prints the out-of-fold accuracy and loss
of each, and the seconds that it takes, and writes them to docs/benchmarks.md.
"""

import json
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import foldstream as fs
from rich.console import Console
from rich.markdown import Markdown

from .record import machine, write_section

Method = Literal["greedy", "nnls", "mean", "stack"]
MODELS = "digits-cnn", "article-cnn", "mlp"
METHODS: tuple[Method, ...] = ("greedy", "nnls", "mean", "stack")


def figures_of(name: str, made: Any, seconds: float) -> dict[str, Any]:
    """The figures of a run or an ensemble."""
    metrics, rows = made.metrics, made.summary["out_of_fold_rows"]
    return {"name": name, "rows": rows, "accuracy": metrics["accuracy"], "loss": metrics["loss"], "seconds": seconds}


def measure(source: Path, folder: Path, folds: int, epochs: int) -> list[dict[str, Any]]:
    """Train the three models, and make an ensemble by each method."""
    fs.convert_csv(source, folder / "digits.zarr", label="label", shape=(1, 28, 28))
    found, runs = list[dict[str, Any]](), list[Path]()
    for model in MODELS:
        runs.append(folder / model)
        started = perf_counter()
        run = fs.train(folder / "digits.zarr", runs[-1], model=model, folds=folds, epochs=epochs, progress=False)
        found.append(figures_of(runs[-1].name, run, perf_counter() - started))
    for method in METHODS:
        started = perf_counter()
        made = fs.ensemble(runs, folder / method, method=method)
        weights = ", ".join(f"{weight:.3f}" for weight in made.weights.values())
        of_method = figures_of(f"ensemble, {method}", made, perf_counter() - started)
        found.append({**of_method, "weights": weights})
    return found


def main(source: Path, result: Path, folds: int = 3, epochs: int = 5) -> None:
    with tempfile.TemporaryDirectory(prefix="foldstream-bench-") as scratch:
        rows = measure(source, Path(scratch), folds, epochs)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(
        json.dumps({"machine": machine(), "folds": folds, "epochs": epochs, "rows": rows}, indent=2) + "\n"
    )
    held = int(rows[0]["rows"])
    text = [
        f"`make bench-ensemble` on {machine()}: {held:,} digits, {folds} folds, {epochs} epochs.",
        "",
        "| what | out-of-fold accuracy | loss | weights | seconds |",
        "|---|---:|---:|---|---:|",
        *(
            f"| {row['name']} | {row['accuracy']:.4f} | {row['loss']:.4f} | {row.get('weights', '')} | "
            f"{row['seconds']:.1f} |"
            for row in rows
        ),
    ]
    Console(width=120).print(Markdown("\n".join(text)))
    write_section("ensembles", text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
