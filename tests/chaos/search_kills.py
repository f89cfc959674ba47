"""Kills searches: python -m tests.chaos.search_kills COUNT SEED DATASET.

At each of COUNT moments drawn from SEED, the command with all of its processes gets SIGKILL, and is then run again. The
search must end with the same candidates, stopped at the same rungs with the same scores, and with the same weights, as
an undisturbed one: those of finished candidates in all bytes of their files, and those in the checkpoints of stopped
ones.
"""

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import safetensors.numpy
from foldstream.cluster.search.record import read_results, read_search
from foldstream.storage.places.json_files import read_json
from foldstream.storage.places.locate import Location, locate
from foldstream.training.run import RunFolder

from .fold_kills import training
from .processes import Deadline, kill_session

FOLDS = 2
DEFINITION = """
trials = 8
width = 5
reduction = 2
rungs = [{ folds = 1, epochs = 1 }, { folds = 2, epochs = 2 }]

[space]
lr = { low = 1e-3, high = 1e9, log = true }
dropout = [0.0, 0.3]
"""
"""Two waves, of which some candidates diverge."""


def command(dataset: Location, run: Path, *options: str) -> list[str]:
    """The command that searches settings of digits-cnn, which uses random numbers and batch norm."""
    definition = run.with_suffix(".toml")
    definition.write_text(DEFINITION)
    fixed = ["--folds", str(FOLDS), "--epochs", "4", "--batch-size", "64", "--model", "digits-cnn", "--workers", "0"]
    fixed += ["--set", "optimizer=SGD", "--search", str(definition)]
    return [sys.executable, "-m", "foldstream.cli", "train", str(dataset), str(run), *fixed, *options]


def epochs_done(run: Path) -> float:
    """The epochs that all folds of all candidates have trained."""
    files = run.glob("candidates/*/folds/*/progress.json")
    return sum(float(read_json(locate(file))["epochs"]) for file in files)


def result(run: Path) -> tuple[Any, ...]:
    """What a search has drawn, decided and found, and the weights of all candidates."""
    root = locate(run)
    record = read_search(root)
    assert record is not None
    results, weights = read_results(root, record), {}
    failed = {number for (number, _), one in results.items() if one.failure}  # they leave weights of any step
    for trial, name in record.names().items():
        for number in range(FOLDS if trial not in failed else 0):
            fold = RunFolder(root / "candidates" / name).fold(number)
            if fold.weights.exists():
                weights[name, number] = [fold.weights.read_bytes()]
            elif stored := [one for one in fold.checkpoints.names() if one.startswith("epoch-")]:
                tensors = safetensors.numpy.load((fold.checkpoints / stored[-1]).read_bytes())
                weights[name, number] = [tensors[one].tobytes() for one in sorted(tensors) if one.startswith("model.")]
    return record.trials, record.passes, results, weights, read_json(root / "grid.json")["best"]


def disturb(dataset: Location, run: Path, epochs: float, options: list[str]) -> str:
    """Run a command, kill it once so many epochs are done, and run it again. Returns what happened."""
    log, arguments = run.with_suffix(".log"), command(dataset, run, *options)
    with training(arguments, log) as process:
        deadline = Deadline()
        while process.poll() is None and epochs_done(run) < epochs:
            deadline.check(f"{epochs} epochs in {run}")
            time.sleep(0.005)
        done = epochs_done(run)
        kill_session(process)
    ended = process.returncode == 0
    assert ended or process.returncode == -signal.SIGKILL, log.read_text()
    with training(arguments, log) as process:
        assert process.wait() == 0, log.read_text()
    return f"{'ended before the kill' if ended else 'killed'} at {done:.2f} epochs"


def main(count: int, seed: int, dataset: Path) -> None:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="search-kills-") as name:
        root = Path(name)
        subprocess.run(command(dataset, root / "quiet"), check=True, stdout=subprocess.DEVNULL)
        expected, total = result(root / "quiet"), epochs_done(root / "quiet")
        for number in range(count):
            every = draw.choice(["1 epoch", "5 steps", "2 epochs"])
            options = ["--fold-mode", draw.choice(["fused", "runs"]), "--checkpoint-every", every]
            what = disturb(dataset, root / f"{number}", draw.random() * total, options)
            assert result(root / f"{number}") == expected, f"kill {number}: {what}"
            print(f"{number:2} {options[1]:5} {every:8} {what} -> the same candidates, rungs and weights", flush=True)
    print(f"{count} kills of a search, seed {seed}: every result equals the undisturbed search")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
