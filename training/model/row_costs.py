"""A short measurement of the cost of a row for one worker: the time to read it, and to train one model on it."""

from dataclasses import dataclass, replace
from itertools import chain, count, repeat
from time import perf_counter
from typing import Any

import torch

from ...storage.programs.user_code import add_error_notes
from ..run import RunJob, mixing_of
from ..stream.batch import ALONE, Batch, Rank
from ..stream.device import to_device
from ..stream.filters import EveryRow
from ..stream.single import TrainStream
from .objective import Normalizer, autocast, make_inputs, make_model, make_objective
from .optimizer import make_optimizer

MEASURED_SECONDS = 1.0  # of reading, and again of training
WARM_UP_STEPS = 3


@dataclass(frozen=True)
class RowCosts:
    """Seconds per row."""

    reading: float
    training: float


def measure_row_costs(job: RunJob, rank: Rank = ALONE) -> RowCosts:
    """Read a run's data for a second, then train its model for another second, on the GPU if this machine has one.

    Nothing is written.
    """
    config, dataset = job.config, job.open_data()
    stream = TrainStream(dataset, EveryRow(dataset.layout), mixing_of(config), rank)
    reading, batch = _time_reading(stream)
    with add_error_notes():
        return RowCosts(reading, _time_steps(job, batch.x, batch.y) / len(batch.id))


def _time_reading(stream: TrainStream) -> tuple[float, Batch]:
    """Seconds per row, over as many epochs as it takes, and a batch.

    The first batch is not timed, because it loads compiled code.
    """
    batches = chain.from_iterable(repeat(stream))
    batch, rows, started = next(batches), 0, perf_counter()
    while perf_counter() - started < MEASURED_SECONDS:
        batch = next(batches)
        rows += len(batch.id)
    return (perf_counter() - started) / rows, batch


def _time_steps(job: RunJob, x: Any, y: torch.Tensor) -> float:
    """Seconds per training step on one batch, `x` with its labels `y`."""
    dataset = job.open_data()
    statistics = replace(dataset.statistics, class_rows=dataset.class_totals)  # of all rows: nothing is scored
    recipe, device = job.config.recipe, torch.device("cuda" if torch.cuda.is_available() else "cpu")
    inputs = make_inputs(job.schema, job.config, statistics)
    model, prepare = make_model(job, 0, inputs).to(device), Normalizer(inputs).to(device)
    objective, optimizer = make_objective(job, statistics).to(device), make_optimizer(model, recipe)
    started = perf_counter()
    for step in count(1 - WARM_UP_STEPS):
        with autocast(device, recipe.precision):
            loss = objective(model(prepare(to_device(x, device))), y.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()  # waits for the GPU
        if step == 0:
            started = perf_counter()
        elif step > 0 and perf_counter() - started > MEASURED_SECONDS:
            return (perf_counter() - started) / step
    raise AssertionError("unreachable")
