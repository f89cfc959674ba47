"""`make bench-folds`: five folds trained by Foldstream in each mode, and by a plain PyTorch loop with data in memory.

python -m tests.benchmarks.folds DIGITS RESULT.json [CASE…]. Each contender is a separate command that uses all cores,
timed from start to end, including Ray's startup and loading the data. The plain loop runs first and last, and its time
is the mean of both runs, because the speed of these machines varies.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foldstream.storage.places.json_files import read_json
from rich.console import Console
from rich.markdown import Markdown

from .plain_loop import BATCH, FOLDS
from .record import machine, write_section

CASES = {"digits-cnn": 10, "mlp": 30}
"""Epochs of each model."""
PLAIN, FUSED = "plain PyTorch loop, data in memory", "Foldstream, fused"
MODES = {
    FUSED: ["--fold-mode", "fused", "--workers", "2"],
    "Foldstream, runs one after another, two workers each": ["--fold-mode", "runs", "--workers", "2"],
    "Foldstream, two runs at once, one worker each": ["--fold-mode", "runs", "--workers", "1"],
}


def timed(command: Sequence[str]) -> tuple[float, str]:
    """Run a command. Returns its seconds and the last line of its output."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return seconds, done.stdout.strip().splitlines()[-1]


def train(model: str, dataset: Path, run: Path, options: Sequence[str]) -> dict[str, Any]:
    """Train with Foldstream. Returns the seconds, the accuracy, and the bytes read in each epoch."""
    common = ["--model", model, "--epochs", str(CASES[model]), "--batch-size", str(BATCH), "--folds", str(FOLDS)]
    command = [sys.executable, "-m", "foldstream.cli", "train", str(dataset), str(run), *common, *options]
    seconds, _ = timed(command)
    read = [epoch["read_bytes"] for epoch in read_json(run / "folds" / "0" / "done.json")["history"]]
    accuracy = read_json(run / "summary.json")["out_of_fold"]["accuracy"]
    return {"seconds": seconds, "accuracy": accuracy, "read_bytes": read}


def measure(model: str, dataset: Path, folder: Path) -> dict[str, Any]:
    """Run all contenders on one model."""
    plain = [sys.executable, "-m", "tests.benchmarks.plain"]
    loop = [*plain, "train", str(dataset), model, str(CASES[model])]
    first, accuracy = timed(loop)
    figures: dict[str, Any] = {PLAIN: {"rounds": [first], "accuracy": float(accuracy)}}
    for number, (mode, options) in enumerate(MODES.items()):
        figures[mode] = train(model, dataset, folder / f"{model}-{number}", options)
        print(model, mode, f"{figures[mode]['seconds']:.1f} s", flush=True)
    last, _ = timed(loop)
    figures[PLAIN] |= {"rounds": [first, last], "seconds": (first + last) / 2}
    print(model, PLAIN, f"{first:.1f} s, {last:.1f} s", flush=True)
    return figures


def lines(model: str, figures: dict[str, Any], stored: int) -> list[str]:
    """The table of one model as Markdown."""
    loop = figures[PLAIN]["seconds"]
    table = [f"**{model}**, {FOLDS} folds, {CASES[model]} epochs:", "", "| | s | of the plain loop | accuracy |"]
    table.append("|---|---:|---:|---:|")
    for name, one in figures.items():
        table.append(f"| {name} | {one['seconds']:.1f} | {one['seconds'] / loop:.2f} | {one['accuracy']:.4f} |")
    first, *rest = figures[FUSED]["read_bytes"]
    reads = f"In fused mode, the first epoch of all folds read {first:,.0f} of the {stored:,} bytes of the blocks"
    return [*table, "", f"{reads}, the others at most {max(rest, default=0):,.0f}: blocks stayed in memory.", ""]


def main(digits: Path, result: Path, cases: Sequence[str]) -> None:
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-folds-") as name:
        folder, dataset = Path(name), Path(name, "digits.zarr")
        convert = ["csv", str(digits / "train.csv.gz"), str(dataset), "--label", "label", "--shape", "1,28,28"]
        timed([sys.executable, "-m", "foldstream.cli", "convert", *convert])
        shards = read_json(dataset / "manifest.json")["shards"]
        stored = sum(sum(shard["lengths"].values()) for shard in shards)
        for model in cases or CASES:
            figures[model] = measure(model, dataset, folder)
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_text(json.dumps(figures, indent=2) + "\n")
    text = [line for model, one in figures.items() for line in lines(model, one, stored)]
    Console(width=110).print(Markdown("\n".join(text)))
    if set(figures) == set(CASES):
        write_section("folds", [f"`make bench-folds` on {machine()}.", "", *text])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
