"""`make bench-train`: Foldstream's loop from disk against a plain PyTorch loop over tensors in memory.

python -m tests.benchmarks.train RESULT.json. Same model, same batches, same steps, one process; epochs by turns.
"""

import json
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from foldstream.cluster.coordinator import claim_run
from foldstream.storage.dataset import Dataset
from foldstream.training.config import TrainConfig, resolve_settings
from foldstream.training.folds import write_folds
from foldstream.training.loop import FoldTrainer, make_optimizer, make_scheduler
from foldstream.training.objective import make_model
from foldstream.training.process import Process, keep_freed_memory
from foldstream.training.run import RunFolder
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from ..datasets import write_dataset
from .rows import make_digits, make_table

EPOCHS = 6
CASES = {
    "digits-cnn, digits": ("digits-cnn", 60_000, make_digits, 10, (1, 28, 28), 128),
    "mlp, table": ("mlp", 300_000, make_table, 2, (64,), 256),
}


class PlainLoop:
    """What one writes by hand: tensors in memory, the batches' rows by index_select."""

    def __init__(self, trainer: FoldTrainer, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y, self.prepare = x, y, trainer.prepare
        self.model = make_model(trainer.job, 0)
        self.optimizer = make_optimizer(self.model, trainer.recipe)
        self.scheduler = make_scheduler(self.optimizer, trainer.recipe, trainer.updates * trainer.config.epochs)

    def epoch(self, batches: list[torch.Tensor]) -> None:
        self.model.train()
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


def compare(name: str, folder: Path) -> dict[str, Any]:
    """Rows a second of both loops, epoch by epoch."""
    model, count, make, classes, shape, batch_size = CASES[name]

    def shaped(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        x, y = make(start, stop)
        return x.reshape(-1, *shape), y

    dataset: Dataset = write_dataset(folder / "data", count, shaped, classes)
    recipe, own = resolve_settings(model, {})
    config = TrainConfig(model, 5, "stratified", EPOCHS, batch_size, recipe=recipe, model_settings=own)
    run = RunFolder(folder / "run")
    job = claim_run(run, dataset, config)
    write_folds(dataset, config.split, config.folds, config.seed, run.folds)
    trainer = FoldTrainer(job, run, 0, Process())
    plain = PlainLoop(trainer, *map(torch.from_numpy, shaped(0, count)))
    ours, theirs = [], []
    for epoch in range(EPOCHS):
        trainer.state.epoch = epoch
        trainer.stream.load_state_dict({"epoch": epoch, "step": 0})
        batches = [batch.id.clone() for batch in trainer.stream]
        rows = len(batches) * batch_size
        started = perf_counter()
        plain.epoch(batches)
        theirs.append(rows / (perf_counter() - started))
        started = perf_counter()
        trainer.train_epoch()
        ours.append(rows / (perf_counter() - started))
    same = all(map(torch.equal, plain.model.state_dict().values(), trainer.model.state_dict().values()))
    return {"foldstream": ours, "plain": theirs, "same weights": same}


def main(result: Path) -> None:
    keep_freed_memory()
    figures: dict[str, Any] = {}
    table = Table("", "torch threads", "plain, rows/s", "Foldstream, rows/s", "ratio", title="train")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for name in CASES:
            with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
                one = compare(name, Path(folder))
            ratio = median(o / t for o, t in zip(one["foldstream"][1:], one["plain"][1:], strict=True))
            figures[f"{name}, {threads} threads"] = {**one, "ratio": ratio}
            own, plain = median(one["foldstream"][1:]), median(one["plain"][1:])
            table.add_row(name, str(threads), f"{plain:,.0f}", f"{own:,.0f}", f"{ratio:.3f}")
    Console(width=100).print(table)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
