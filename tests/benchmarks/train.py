"""`make bench-train`: Foldstream's loop from disk, compared with a plain PyTorch loop over tensors in memory.

python -m tests.benchmarks.train RESULT.json. Both use the same model, batches and steps in one process. They take turns
of a fraction of a second, so that changes in the machine's speed affect both alike. The placement of weights and rows
in memory makes two copies of the same loop differ by up to 3 %, so each measured epoch has its own process, and the
mean is reported. Foldstream gets no memory to keep decoded blocks in, so every block is read and decoded in every
epoch. The CPU time of Foldstream's reading threads during the plain loop's turns counts as Foldstream's time (measured
with one torch thread, where all other CPU time is theirs).
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from math import ceil
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any

import numpy as np
import torch
from foldstream.cluster.runs.run import prepare_run
from foldstream.storage.dataset import open_dataset
from foldstream.storage.machine import keep_freed_memory
from foldstream.storage.places.locate import locate
from foldstream.storage.tasks import SerialExecutor, silent
from foldstream.training.config import Execution, TrainConfig
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.model.objective import make_model
from foldstream.training.model.optimizer import make_optimizer, make_scheduler, parameter_groups
from foldstream.training.run import RunFolder, RunJob, folds_of
from foldstream.training.settings import resolve_settings
from foldstream.training.splits.split import Split
from foldstream.training.stream.batch import Batch
from foldstream.training.stream.single import TrainStream
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from ..datasets import write_dataset
from .rows import make_digits, make_table

PROCESSES = 6  # for each case; every other one creates the plain loop first
PLAIN = ("default", "same")  # plain loops with torch's default optimizer, and with Foldstream's
CASES = {
    "digits-cnn, digits": ("digits-cnn", 60_000, make_digits, 10, (1, 28, 28), 128, 2),
    "mlp, table": ("mlp", 300_000, make_table, 2, (64,), 256, 8),
}
"""Model, rows, the function that makes them, classes, sample shape, batch size, batches per turn."""


class PlainLoop:
    """A loop as one would write it by hand: tensors in memory, batches by index_select. `seconds` counts its turns.

    It uses torch's default optimizer or, to compare everything else, Foldstream's.
    """

    def __init__(self, trainer: FoldTrainer, tensors: Sequence[torch.Tensor], default: bool) -> None:
        (self.x, self.y), fold = tensors, trainer.folds[0]
        job, steps = fold.run_fold.job, fold.state.steps
        recipe = job.config.recipe
        self.model, self.prepare = make_model(job, 0, fold.learner.prepare.inputs), fold.learner.prepare
        self.optimizer = make_optimizer(self.model, recipe)
        if default:
            groups = parameter_groups(self.model, recipe)
            self.optimizer = getattr(torch.optim, recipe.optimizer)(groups, lr=recipe.lr)
        self.scheduler = make_scheduler(self.optimizer, recipe, ceil(steps / recipe.accumulate) * job.config.epochs)
        self.model.train()
        self.seconds = 0.0

    def train(self, batches: list[torch.Tensor]) -> None:
        started = perf_counter()
        total = torch.zeros(())
        for rows in batches:
            x, y = self.x.index_select(0, rows), self.y.index_select(0, rows)
            loss = functional.cross_entropy(self.model(self.prepare(x)), y.long())
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.scheduler.step()
            total += loss.detach()
        total.item()
        self.seconds += perf_counter() - started


class Turns:
    """A trainer's stream that pauses every few batches, so that the plain loops can train on the same batches."""

    def __init__(self, trainer: FoldTrainer, plain: Sequence[PlainLoop], batches: int) -> None:
        assert isinstance(trainer.stream, TrainStream)
        self.stream, self.plain, self.batches = trainer.stream, plain, batches
        self.load_state_dict, self.group_shape = trainer.stream.load_state_dict, trainer.stream.group_shape
        self.aside = self.stopped = 0.0
        """CPU seconds of Foldstream's reading threads during the plain loops' turns, and the seconds of these turns."""

    def __len__(self) -> int:
        return len(self.stream)

    def __iter__(self) -> Iterator[Batch]:
        turn: list[torch.Tensor] = []
        for batch in self.stream:
            turn.append(batch.id)
            yield batch
            if len(turn) == self.batches:
                self.let(turn)
                turn = []
        self.let(turn)

    def let(self, turn: list[torch.Tensor]) -> None:
        began, others = perf_counter(), process_time() - thread_time()
        for plain in self.plain:
            plain.train(turn)
        if torch.get_num_threads() == 1:
            self.aside += process_time() - thread_time() - others
        self.stopped += perf_counter() - began


def rows_of(case: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a case from `start` to `stop`: x in the shape of the model's input, and y."""
    _, _, make, _, shape, _, _ = CASES[case]
    x, y = make(start, stop)
    return x.reshape(-1, *shape), y


def claim(case: str, folder: Path) -> tuple[RunFolder, RunJob]:
    """The run of five folds on the case's dataset in a folder."""
    model, _, _, _, _, batch_size, _ = CASES[case]
    recipe, own = resolve_settings(model, {})
    config = TrainConfig(model=model, split=Split(), epochs=2, batch_size=batch_size, recipe=recipe, model_settings=own)
    run = RunFolder(locate(folder / "run"))
    return run, prepare_run(run, open_dataset(folder / "data"), config, SerialExecutor(), silent)


def prepare(case: str, folder: Path) -> None:
    """Write a case's dataset and folds."""
    _, count, _, classes, _, _, _ = CASES[case]
    write_dataset(folder / "data", count, partial(rows_of, case), classes)
    claim(case, folder)


def compare(case: str, folder: Path, plain_first: bool) -> dict[str, float]:
    """Train one epoch with Foldstream alone, and one in turns. Returns its rows, and the seconds of each loop."""
    run, job = claim(case, folder)
    tensors = [torch.from_numpy(array) for array in rows_of(case, 0, CASES[case][1])]
    least = FoldTrainer(folds_of(job, run, [0]), Process()).stream.memory_needed
    trainer = FoldTrainer(folds_of(job, run, [0]), Process(), Execution(memory=least))
    plain = [PlainLoop(trainer, tensors, default) for default in (True, False)]
    if plain_first:
        trainer = FoldTrainer(folds_of(job, run, [0]), Process(), Execution(memory=least))
    trainer.train_pass(trainer.folds)
    state = trainer.folds[0].state
    state.epoch, state.step = state.epoch + 1, 0
    turns: Any = Turns(trainer, plain, CASES[case][-1])
    trainer.placement.stream = turns
    trainer.folds[0].reports.pause *= 3  # seconds of all three loops, and so every second of ours
    foldstream = trainer.train_pass(trainer.folds) - turns.stopped + turns.aside
    default, same = (one.seconds for one in plain)
    return {
        "rows": trainer.folds[0].rows,
        "foldstream": foldstream,
        "default": default,
        "same": same,
        "aside": turns.aside,
    }


def measure(case: str, threads: int, folder: Path) -> dict[str, Any]:
    """Run `compare` in several processes. Returns rows per second, ratios, and the ratios of each process."""
    command = [sys.executable, "-m", "foldstream.tests.benchmarks.train", "--one", case, str(threads), str(folder)]
    epochs = []
    for number in range(PROCESSES):
        done = subprocess.run([*command, str(number % 2)], check=True, capture_output=True, text=True)
        epochs.append(json.loads(done.stdout.splitlines()[-1]))
    sums = {key: sum(epoch[key] for epoch in epochs) for key in epochs[0]}
    return {
        "rows/s": {name: sums["rows"] / sums[name] for name in ("foldstream", *PLAIN)},
        "ratio": {name: sums[name] / sums["foldstream"] for name in PLAIN},
        "of processes": {name: sorted(epoch[name] / epoch["foldstream"] for epoch in epochs) for name in PLAIN},
        "CPU seconds read in the plain loops' turns": sums["aside"],
    }


def main(result: Path, cases: Sequence[str]) -> None:
    figures: dict[str, Any] = {}
    table = Table("", "torch threads", "Foldstream, rows/s", "plain loop", "ratio", "same optimizer", "ratio")
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
            prepare(case, Path(folder))
            for threads in (1, 2):
                figures[f"{case}, {threads} threads"] = one = measure(case, threads, Path(folder))
                print(case, threads, one, flush=True)
                speeds, ratio = one["rows/s"], one["ratio"]
                cells = [f"{speeds['foldstream']:,.0f}"]
                for name in PLAIN:
                    cells += [f"{speeds[name]:,.0f}", f"{ratio[name]:.3f}"]
                table.add_row(case, str(threads), *cells)
    Console(width=120).print(table)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        keep_freed_memory()
        torch.set_num_threads(int(sys.argv[3]))
        print(json.dumps(compare(sys.argv[2], Path(sys.argv[4]), sys.argv[5] == "1")))
    else:
        main(Path(sys.argv[1]), sys.argv[2:] or list(CASES))
