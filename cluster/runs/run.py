"""A run from its data to its score: claim the folder, assign folds, train those that are left, merge, sum up.

Every step is an artifact that is committed or absent, so a run that was killed goes on by the same calls.
"""

import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...storage.dataset import Dataset
from ...storage.errors import ConflictError, UsageError
from ...storage.files import names_in, read_json, same_json, write_atomic, write_json
from ...storage.object_path import AnyPath
from ...storage.tasks import Executor, Progress
from ...training.config import TrainConfig
from ...training.ray.group import GroupRequest
from ...training.run import RunFold, RunFolder, RunJob, best_folder, is_done, load_job
from ...training.splits.plan import make_plan
from ...training.zoo.factory import model_file, model_hash
from .coordinator import Coordinator
from .fold_mode import Execution, has_gpus
from .journal import Journal
from .schedule import Resources as Demand
from .schedule import Schedule, Unit
from .status import FoldRecord

POLL_SECONDS = 0.5
OTHER_DATA = "the data are not the same"
LONGEST_VALUE = 60


def plan_run(run: RunFolder, dataset: Dataset, config: TrainConfig, executor: Executor, progress: Progress) -> RunJob:
    """Assign the folds and make the folder this run's, or find that it is already.

    Raises ConflictError if it holds another job, and names what differs; UsageError if the data cannot be split so.
    """
    file, kept = model_file(config.model), config
    if file:  # the run keeps it, so that it does not matter where it was
        kept = replace(config, model=f"{file[0].name}:{file[1]}")
    data = str(dataset.place), dataset.identity, dataset.schema, dataset.statistics
    value = asdict(RunJob(*data, kept, model_hash(config.model)))
    if run.job.exists():
        differences = sorted({*_differences(read_json(run.job), value)})
        if OTHER_DATA in differences:  # its statistics follow from that
            differences = [OTHER_DATA]
        if differences:
            raise ConflictError(
                f"{run.root} holds another run: {'; '.join(differences[:4])}; choose another folder, or repeat that "
                "run's options"
            )
        return load_job(run)
    # A plan without a job is what a kill has left.
    if set(names_in(run.root)) - {"folds.zarr", file[0].name if file else ""}:
        raise ConflictError(f"{run.root} holds something that is not a run; choose another folder")
    try:
        make_plan(dataset, config.split, run.folds, config.batch_size, executor, progress)
    except UsageError:
        if isinstance(run.root, Path):
            with suppress(OSError):  # where something else is in it
                run.root.rmdir()
        raise
    if file:
        write_atomic(run.root / file[0].name, file[0].read_bytes())
    write_json(run.job, value)
    return load_job(run)


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Leaves in which two JSON values differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from _differences(old.get(key), new.get(key), key)
    elif not same_json(old, new):
        words = {"identity": OTHER_DATA, "model_hash": "the model's file has changed"}
        yield words.get(name, f"{name} was {shorten(old)}, now {shorten(new)}")


def shorten(value: object) -> str:
    """A value as text, which may be a long list."""
    return textwrap.shorten(str(value), LONGEST_VALUE, placeholder="…")


def begun_with(run: RunFolder, workers: int) -> tuple[int, int] | None:
    """The lanes and the shares of a run that exists, None for a new one. Raises UsageError if `workers` does not
    divide the lanes."""
    if not run.job.exists():
        return None
    config = read_json(run.job)["config"]
    lanes = int(config["lanes"])
    if lanes % workers:
        fitting = ", ".join(str(n) for n in range(1, lanes + 1) if lanes % n == 0)
        raise UsageError(f"--workers {workers} does not divide the {lanes} lanes of this run; use one of {fitting}")
    return lanes, int(config["shares"])


def train_folds(
    root: RunFolder, folds: Mapping[str, RunFold], epochs: int, execution: Execution, progress: Progress
) -> None:
    """Train folds, by their names, on the Ray cluster that is connected; those that are done are passed over.

    They are of the run at `root`, or of its candidates.
    """
    left = [name for name, one in folds.items() if not is_done(one.run.fold(one.fold))]
    units = plan_units(left, execution, has_gpus())

    def request(name: str) -> GroupRequest:
        unit, streams = units[name], (execution.memory, execution.cache)
        members = tuple((str(folds[fold].run.root), folds[fold].fold) for fold in unit.folds)
        use_gpu = unit.demand.gpus > 0
        return GroupRequest(name, members, execution.workers, use_gpu, *streams, execution.checkpoints)

    coordinator = Coordinator(
        Schedule(units, execution.max_retries), request, Journal(root.journal), execution.hang_seconds
    )
    with watch_folds(folds, epochs, progress):
        coordinator.run()


def plan_units(folds: Sequence[str], execution: Execution, use_gpu: bool) -> dict[str, Unit]:
    """What is trained by one Ray Train run each: all folds from one pass, or each by itself."""
    groups = [tuple(folds)] if execution.fold_mode == "fused" else [(fold,) for fold in folds]
    demand = Demand(execution.workers, execution.workers * use_gpu, execution.workers * (execution.memory or 0))
    names = ["-to-".join(dict.fromkeys((group[0], group[-1]))).replace(" ", "-") for group in groups]
    return {name: Unit(name, group, demand) for name, group in zip(names, groups, strict=True)}


def load_summary(run: RunFolder) -> dict[str, Any]:
    """The summary of a run that is complete."""
    summary: dict[str, Any] = read_json(run.summary)
    return summary


@contextmanager
def watch_folds(folds: Mapping[str, RunFold], epochs: int, progress: Progress) -> Iterator[None]:
    """Report the folds' progress, read from their folders, while they are trained."""
    ended = threading.Event()
    records = {name: FoldRecord(one.run.fold(one.fold)) for name, one in folds.items()}

    def report() -> None:
        for name, record in records.items():
            record.look()
            if record.heard:
                report_fold(name, record, epochs, progress)

    def watch() -> None:
        while not ended.wait(POLL_SECONDS):
            report()

    watcher = threading.Thread(target=watch, name="foldstream-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        report()


def report_fold(name: str, record: FoldRecord, epochs: int, progress: Progress) -> None:
    """Tell the progress of a fold that has begun, in hundredths of an epoch."""
    done = 100 * epochs if record.done else min(round(100 * record.epochs), 100 * epochs - 1)
    remark = ""
    if record.history:
        last = record.history[-1]
        shown = [key for key in last if key in ("loss", "accuracy") or key.startswith("rmse")] or ["train_loss"]
        scores = ", ".join(f"{key} {last[key]:.4f}" for key in sorted(shown, reverse=True)[:2])
        waited = max(rank["data_wait"] / (sum(rank.values()) or 1.0) for rank in last["ranks"])
        remark = f"{scores}, {last['rows'] / last['seconds']:,.0f} rows/s, {waited:.0%} data wait"
    progress(name, done, 100 * epochs, remark)


def read_run(root: AnyPath) -> tuple[RunFolder, dict[str, Any]]:
    """A complete run's folder and summary, or those of a grid's best candidate. Raises UsageError where it is not
    complete."""
    run = RunFolder(best_folder(root))
    load_job(run)
    if not run.summary.exists():
        raise UsageError(f"{root} is not a complete run; run its «foldstream train» command again to finish it")
    return run, load_summary(run)
