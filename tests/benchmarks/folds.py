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

import numpy as np
import torch
import zarr
from foldstream.storage.places.json_files import read_json
from foldstream.training.zoo.networks import digits_cnn, mlp
from rich.console import Console
from rich.markdown import Markdown
from torch.nn import functional

from .record import machine, write_section

FOLDS, BATCH = 5, 128
CASES = {"digits-cnn": 10, "mlp": 30}
"""Epochs of each model."""
FACTORIES = {"digits-cnn": digits_cnn, "mlp": mlp}
RATES = {"digits-cnn": (0.006, 0.02), "mlp": (0.003, 0.01)}
"""Learning rate and weight decay."""
PLAIN, FUSED = "plain PyTorch loop, data in memory", "Foldstream, fused"
MODES = {
    FUSED: ["--fold-mode", "fused", "--workers", "2"],
    "Foldstream, runs one after another, two workers each": ["--fold-mode", "runs", "--workers", "2"],
    "Foldstream, two runs at once, one worker each": ["--fold-mode", "runs", "--workers", "1"],
}


def plain(model: str, dataset: Path) -> float:
    """A loop as one would write it by hand, one fold after the other. Returns the accuracy on all held-out rows."""
    arrays = zarr.open_group(dataset, mode="r")
    x, y = (torch.from_numpy(np.asarray(arrays[name][...])) for name in ("x", "y"))  # type: ignore[index]
    y, mean, std = y.long(), x.float().mean(), x.float().std()
    fold_of = torch.randperm(len(x), generator=torch.Generator().manual_seed(0)) % FOLDS
    hits = sum(plain_fold(model, x, y, fold_of, fold, mean, std) for fold in range(FOLDS))
    return hits / len(x)


def plain_fold(
    name: str, x: torch.Tensor, y: torch.Tensor, fold_of: torch.Tensor, fold: int, mean: torch.Tensor, std: torch.Tensor
) -> int:
    torch.manual_seed(fold)
    (lr, weight_decay), epochs, model = RATES[name], CASES[name], FACTORIES[name]((1, 28, 28), 10)
    rows, held_out = (torch.nonzero(fold_of != fold)[:, 0], torch.nonzero(fold_of == fold)[:, 0])
    steps = len(rows) // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps * epochs + 1)
    hits = 0
    for _ in range(epochs):
        model.train()
        order = rows[torch.randperm(len(rows))]
        for batch in torch.split(order[: steps * BATCH], BATCH):
            loss = functional.cross_entropy(model((x[batch].float() - mean) / std), y[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            scheduler.step()
        model.eval()
        with torch.inference_mode():
            parts = [model((x[part].float() - mean) / std).argmax(1) == y[part] for part in torch.split(held_out, 512)]
        hits = int(torch.cat(parts).sum())
    return hits


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
    loop = [sys.executable, "-m", "foldstream.tests.benchmarks.folds", "--plain", model, str(dataset)]
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
    if sys.argv[1] == "--plain":
        print(plain(sys.argv[2], Path(sys.argv[3])))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
