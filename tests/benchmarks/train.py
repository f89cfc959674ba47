"""`make bench-train`: Foldstream's loop from disk against a plain PyTorch loop over tensors in memory.

python -m tests.benchmarks.train RESULT.json. Same model, same batches, same steps, one process. The two take turns of
a fraction of a second, so that a machine whose speed changes slows both alike; and each epoch has models of its own,
because where their weights happen to lie in memory makes two copies of one loop differ by up to 3 %. What our reading
threads do while the plain loop has its turn counts as our time (measured with one torch thread, where all other CPU
time is theirs).
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any

import numpy as np
import torch
from foldstream.cluster.coordinator import claim_run
from foldstream.storage.dataset import Dataset
from foldstream.storage.machine import keep_freed_memory
from foldstream.training.batch import Batch
from foldstream.training.config import TrainConfig, resolve_settings
from foldstream.training.folds import write_folds
from foldstream.training.loop import FoldTrainer, make_optimizer, make_scheduler
from foldstream.training.objective import make_model
from foldstream.training.process import Process
from foldstream.training.run import RunFolder
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from ..datasets import write_dataset
from .rows import make_digits, make_table

EPOCHS = 4  # after one that is not counted
CASES = {
    "digits-cnn, digits": ("digits-cnn", 60_000, make_digits, 10, (1, 28, 28), 128, 2),
    "mlp, table": ("mlp", 300_000, make_table, 2, (64,), 256, 8),
}
"""Model, rows, what makes them, classes, shape, rows of a batch, batches of a turn."""


class PlainLoop:
    """What one writes by hand: tensors in memory, the batches' rows by index_select."""

    def __init__(self, trainer: FoldTrainer, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y, self.prepare = x, y, trainer.prepare
        self.model = make_model(trainer.job, 0)
        self.optimizer = make_optimizer(self.model, trainer.recipe)
        self.scheduler = make_scheduler(self.optimizer, trainer.recipe, trainer.updates * trainer.config.epochs)
        self.model.train()

    def train(self, batches: list[torch.Tensor]) -> None:
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


class Turns:
    """A trainer's stream that stops after every few batches, to let the plain loop train on the same ones."""

    def __init__(self, trainer: FoldTrainer, plain: PlainLoop, batches: int) -> None:
        self.stream, self.plain, self.batches = trainer.stream, plain, batches
        self.order = trainer.stream.order
        self.load_state_dict = trainer.stream.load_state_dict
        self.theirs = self.aside = self.stopped = 0.0
        """Seconds of the plain loop, CPU seconds of our reading threads meanwhile, and all seconds of its turns."""

    def __iter__(self) -> Iterator[Batch]:
        turn: list[torch.Tensor] = []
        for batch in self.stream:
            turn.append(batch.id.clone())
            yield batch
            if len(turn) == self.batches:
                self.let(turn)
                turn = []
        self.let(turn)

    def let(self, turn: list[torch.Tensor]) -> None:
        began, others = perf_counter(), process_time() - thread_time()
        started = perf_counter()
        self.plain.train(turn)
        ended = perf_counter()
        if torch.get_num_threads() == 1:
            self.aside += process_time() - thread_time() - others
        self.theirs += ended - started
        self.stopped += perf_counter() - began


def compare(name: str, folder: Path) -> dict[str, Any]:
    """Rows a second of both loops over all epochs but the first."""
    model, count, make, classes, shape, batch_size, turn = CASES[name]

    def shaped(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = make(start, stop)
        return x.reshape(-1, *shape), y

    dataset: Dataset = write_dataset(folder / "data", count, shaped, classes)
    recipe, own = resolve_settings(model, {})
    config = TrainConfig(model, 5, "stratified", EPOCHS, batch_size, recipe=recipe, model_settings=own)
    run = RunFolder(folder / "run")
    job = claim_run(run, dataset, config)
    write_folds(dataset, config.split, config.folds, config.seed, run.folds)
    tensors = [torch.from_numpy(array) for array in shaped(0, count)]
    epochs = []
    for epoch in range(EPOCHS + 1):
        trainer = FoldTrainer(job, run, 0, Process())
        plain = PlainLoop(trainer, *tensors)
        if epoch % 2:  # the other way round
            trainer = FoldTrainer(job, run, 0, Process())
        turns: Any = Turns(trainer, plain, turn)
        trainer.stream = turns
        trained = trainer.train_epoch()
        ours = trained["seconds"] - turns.stopped + turns.aside
        epochs.append((trained["rows"], ours, turns.theirs, turns.aside))
    rows, our, their, aside = (sum(column) for column in zip(*epochs[1:], strict=True))
    return {
        "rows/s": rows / our,
        "plain rows/s": rows / their,
        "ratio": their / our,
        "ratios of epochs": [theirs / ours for _, ours, theirs, _ in epochs],
        "CPU seconds read in the plain loop's turns": aside,
    }


def main(result: Path) -> None:
    keep_freed_memory()
    figures: dict[str, Any] = {}
    table = Table("", "torch threads", "plain, rows/s", "Foldstream, rows/s", "ratio", title="train")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name in CASES:
            with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
                one = compare(name, Path(folder))
            figures[f"{name}, {threads} threads"] = one
            table.add_row(
                name, str(threads), f"{one['plain rows/s']:,.0f}", f"{one['rows/s']:,.0f}", f"{one['ratio']:.3f}"
            )
            print(name, threads, one, flush=True)
    Console(width=100).print(table)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
