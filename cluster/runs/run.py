"""Prepare and train a run: claim the folder, assign rows to folds, and train the folds that are not done.

Every step produces an artifact that is either committed or absent, so the same calls resume a run that was killed.
"""

from __future__ import annotations

import math
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ...storage.blocks.writer import remove_arrays
from ...storage.dataset import Dataset
from ...storage.errors import ConflictError, UsageError
from ...storage.fold_plan import open_plan
from ...storage.format.sequences import TOKENIZER
from ...storage.metrics.names import score_text
from ...storage.places.json_files import read_json, same_json, write_json
from ...storage.places.place import Place
from ...storage.programs.own_code import Code, collect_code, copy_code
from ...storage.tasks import Executor, Progress
from ...training.config import Execution, TrainConfig
from ...training.fitted.statistics import fit_plan, is_fitted
from ...training.fitted.strategies import is_image_alone, parse_fill
from ...training.ray.group import GroupRequest
from ...training.run import (
    RunFold,
    RunFolder,
    RunJob,
    best_folder,
    divergence_of,
    has_reached,
    load_job,
    waits_for_folds,
)
from ...training.splits.plan import make_plan
from .durable_schedule import DurableSchedule
from .initial import Initial, find_initial
from .schedule import Resources, TrainingUnit
from .status import FoldRecord

if TYPE_CHECKING:
    from .fold_mode import FoldMode

POLL_SECONDS = 0.5
CODE = "code:"  # before the names of files, among the names of what differs
OTHER_DATA = "the dataset is different"
LONGEST_VALUE = 60


@dataclass(frozen=True)
class Trainers:
    """How folds are trained: the fold mode, the resources of a unit of folds, the function that trains a schedule of
    units given what each attempt has to train, the number of passes over the data among which the folds are divided in
    fused mode, and the `most` units that it trains at once, if that is known."""

    mode: FoldMode
    required: Resources
    train: Callable[[DurableSchedule, Callable[[str], GroupRequest]], None]
    passes: int = 1
    most: int | None = None


def job_value(dataset: Dataset, config: TrainConfig, code: Code, initial: Initial) -> dict[str, Any]:
    """What `run.json` says of a run on a dataset. The run keeps copies of the user's code and of initial weights, so
    that it does not matter where they were."""
    kept = config.with_code(code.names, code.assets).model_copy(update={"init": initial.origin})
    schema = replace(dataset.schema, table=None) if is_image_alone(config.inputs) else dataset.schema
    return RunJob(str(dataset.place), dataset.identity, schema, kept, code.hashes, initial.hashes).to_json()


def is_complete(run: RunFolder, dataset: Dataset, config: TrainConfig) -> bool:
    """Whether the folder contains exactly this run, and the run is complete, or has diverged in a grid."""
    if not (run.summary.exists() or (run.job.exists() and divergence_of(run))):
        return False
    code, initial = collect_code(config.code, config.assets), find_initial(run, dataset, config)
    return same_json(read_json(run.job), job_value(dataset, config, code, initial))


def prepare_run(
    run: RunFolder,
    dataset: Dataset,
    config: TrainConfig,
    executor: Executor,
    progress: Progress,
    like: RunFolder | None = None,
) -> RunJob:
    """Assign rows to folds and claim the folder for this run, or check that it already contains this run. Anything
    fitted on the folds is copied from the run `like`, if given.

    Raises ConflictError, naming the differences, if the folder contains another run, and UsageError if the dataset
    cannot be split as requested.
    """
    code, initial = collect_code(config.code, config.assets), find_initial(run, dataset, config)
    value = job_value(dataset, config, code, initial)
    if run.job.exists():
        _claim_again(run, dataset, config, value)
        if not (run.summary.exists() or is_fitted(run.folds)):
            raise ConflictError(
                f"{run.root} was started by an earlier version, which standardized features using all rows, including "
                "held-out ones; choose another folder to train it again"
            )
        return load_job(run)
    # A plan without a job, or a part of the job, is what a kill has left.
    left = {run.folds.name, run.initial.name, run.code.name, TOKENIZER}
    if any(name not in left and not name.startswith(f".{run.job.name}.") for name in run.root.names()):
        raise ConflictError(f"{run.root} already contains something that is not a run; choose another folder")
    try:
        plan = make_plan(dataset, config.split, run.folds, config.least_rows, executor, progress)
    except UsageError:
        run.root.remove_if_empty()
        raise
    medians = parse_fill(config.missing).value == "median"
    fit_plan(dataset, plan, executor, progress, open_plan(like.folds) if like else None, medians)
    copy_code(code, run.code)
    if tokens := dataset.schema.tokens:
        copy_code(tokens.code_in(dataset.place), run.root / TOKENIZER)
    for name, weights in initial.files.items():
        (run.initial / name).write(weights.read_bytes())
    run.root.sync_folders()
    write_json(run.job, value)
    return load_job(run)


def _claim_again(run: RunFolder, dataset: Dataset, config: TrainConfig, value: dict[str, Any]) -> None:
    """Check that an existing run is the one described by `value`, or the same run with fewer epochs, which is extended.

    Raises ConflictError.
    """
    stored = RunJob.from_json(read_json(run.job))
    if config.epochs != stored.config.epochs and same_json(_with_length(stored, config), value):
        if config.epochs > stored.config.epochs:
            _reopen(run, value)
            return
        raise ConflictError(
            f"{run.root} is a run of {stored.config.epochs} epochs, which can be increased but not reduced to "
            f"{config.epochs}; use --epochs {stored.config.epochs} or more, or choose another folder"
        )
    differences = sorted({*_differences(stored.to_json(), value)})
    if OTHER_DATA in differences:  # other differences, e.g. in the schema, follow from it
        differences = [OTHER_DATA]
        if stored.identity in dataset.earlier:
            version = 1 + dataset.earlier.index(stored.identity)
            raise ConflictError(
                f"{run.root} was trained on version {version} of {dataset.place}, which has version {dataset.version} "
                f"now; give {dataset.place}@{version} to go on with the run, or train a new run with --init {run.root}"
            )
    if differences:
        raise ConflictError(
            f"{run.root} already contains another run: {'; '.join(differences[:4])}; choose another folder, or use the "
            "same options as that run"
        )


def _with_length(job: RunJob, config: TrainConfig) -> dict[str, Any]:
    """The contents of `run.json` for a run with the epochs of another configuration."""
    length = {"epochs": config.epochs, "restarts": config.restarts}
    return replace(job, config=job.config.model_copy(update=length)).to_json()


def _reopen(run: RunFolder, value: dict[str, Any]) -> None:
    """Extend a run, which may be complete, to more epochs: its folds are no longer done but keep their checkpoints.
    Until `run.json` is updated, it can still be completed with the original number of epochs."""
    run.summary.remove()
    for merged in (run.oof, run.holdout):
        remove_arrays(merged)
    for fold in range(len(open_plan(run.folds).models) + 1):
        run.fold(fold).done.remove()
    write_json(run.job, value)


def continue_config(run: RunFolder, config: TrainConfig) -> TrainConfig:
    """The configuration with which an existing run resumes, possibly for more epochs, in which case a schedule over all
    epochs restarts. For a new run, the unchanged configuration."""
    if not run.job.exists():
        return config
    stored = RunJob.from_json(read_json(run.job)).config
    longer = config.epochs > stored.epochs and config.recipe.spans_all_epochs
    return config.model_copy(update={"restarts": stored.restarts + (stored.epochs,) * longer})


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Describe the leaves in which two JSON values differ. Restarts of a schedule are determined by the epochs."""
    if same_json(old, new) or name == "restarts":
        return
    if isinstance(old, dict) and isinstance(new, dict) and name != "initial":
        for key in old.keys() | new.keys():
            yield from _differences(old.get(key), new.get(key), f"{CODE} {key}" if name == "code" else key)
        return
    if name.startswith(CODE):
        change = "is missing now" if new is None else "is new" if old is None else "has changed"
        yield f"the file {name.removeprefix(CODE).strip()} of the code {change}"
    else:
        descriptions = {"identity": OTHER_DATA, "initial": "the initial weights are different"}
        yield descriptions.get(name, f"{name} was {shorten(old)} and is now {shorten(new)}")


def shorten(value: object) -> str:
    """A value as text, shortened if necessary."""
    return textwrap.shorten(str(value), LONGEST_VALUE, placeholder="…")


def load_lanes(run: RunFolder, workers: int) -> tuple[int, int] | None:
    """The lanes and shares of an existing run; None for a new run. Raises UsageError if the number of workers does not
    divide the number of lanes."""
    if not run.job.exists():
        return None
    config = read_json(run.job)["config"]
    lanes = int(config["lanes"])
    if lanes % workers:
        divisors = ", ".join(str(n) for n in range(1, lanes + 1) if lanes % n == 0)
        raise UsageError(f"--workers {workers}: must divide the {lanes} lanes of this run; use one of {divisors}")
    return lanes, int(config["shares"])


def train_folds(
    root: RunFolder,
    folds: Mapping[str, RunFold],
    execution: Execution,
    trainers: Trainers,
    progress: Progress,
    until: int = 0,
    stage: str = "",
) -> None:
    """Train folds of the run at `root`, or of its candidates. `folds` maps names to folds; completed folds are
    skipped. Those of candidates pause after `until` epochs, and one that diverges drops out. `stage` names this in the
    journal of a search."""
    left = [name for name, one in folds.items() if not has_reached(one, until)]
    later = [name for name in left if waits_for_folds(folds[name])]
    first = [name for name in left if name not in later]
    passes = trainers.passes if trainers.mode.name == "fused" else len(left)
    units = make_units(first, passes, trainers.required)
    units |= make_units(later, passes, trainers.required, after=tuple(units))
    beside = ranks_beside(units, execution.world_size, trainers.most)

    def request(name: str) -> GroupRequest:
        members = tuple((str(folds[fold].run.root), folds[fold].fold) for fold in units[name].folds)
        return GroupRequest(name, members, trainers.required.gpus > 0, execution, *beside[name], until)

    with watch_folds(folds, progress, until):
        trainers.train(DurableSchedule(units, execution.max_retries, root.journal, stage), request)


def make_units(
    folds: Sequence[str], groups: int, required: Resources, after: tuple[str, ...] = ()
) -> dict[str, TrainingUnit]:
    """The units of scheduling: the folds in at most `groups` groups, each of which is trained in one pass, `after`
    other units."""
    if not folds:
        return {}
    groups = min(groups, len(folds))
    edges = [math.ceil(number * len(folds) / groups) for number in range(groups + 1)]  # the first ones start first
    members = [tuple(folds[first:last]) for first, last in pairwise(edges)]
    names = ["-to-".join(dict.fromkeys((group[0], group[-1]))).replace(" ", "-") for group in members]
    return {name: TrainingUnit(name, group, required, after) for name, group in zip(names, members, strict=True)}


def ranks_beside(
    units: Mapping[str, TrainingUnit], workers: int, most: int | None = None
) -> dict[str, tuple[int, int]]:
    """For each unit, the number of its first rank among all of the job, and how many ranks of other units may train at
    the same time, if each unit has `workers` ranks and at most `most` units train at once."""
    later = sum(bool(unit.after) for unit in units.values())  # they start when the others are done
    at_once = min(max(later, len(units) - later), most or len(units))
    return {name: (number % at_once * workers, (at_once - 1) * workers) for number, name in enumerate(units)}


def load_summary(run: RunFolder) -> dict[str, Any]:
    """The summary of a complete run."""
    summary: dict[str, Any] = read_json(run.summary)
    return summary


@contextmanager
def watch_folds(folds: Mapping[str, RunFold], progress: Progress, until: int = 0) -> Iterator[None]:
    """Report the progress of the folds, read from their folders, during training, which pauses after `until` epochs
    unless it is 0."""
    ended = threading.Event()
    records = {name: FoldRecord(one.run.fold(one.fold)) for name, one in folds.items()}

    def report() -> None:
        for name, record in records.items():
            record.refresh()
            if record.updated:
                over = record.done or 0 < until <= record.epochs
                report_fold(name, record, until or folds[name].job.config.epochs, over, progress)

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


def report_fold(name: str, record: FoldRecord, epochs: int, over: bool, progress: Progress) -> None:
    """Report the progress of a fold that has started, in hundredths of an epoch, and whether it is `over`."""
    done = 100 * epochs if over else min(round(100 * record.epochs), 100 * epochs - 1)
    remark = ""
    if record.history:
        last = record.history[-1]
        shown = [key for key in last if key in ("loss", "accuracy") or key.startswith("rmse")] or ["train_loss"]
        scores = ", ".join(f"{key} {score_text(last[key])}" for key in sorted(shown, reverse=True)[:2])
        waited = max(rank["data_wait"] / (sum(rank.values()) or 1.0) for rank in last["ranks"])
        remark = f"{scores}, {last['rows'] / last['seconds']:,.0f} rows/s, {waited:.0%} data wait"
    progress(name, done, 100 * epochs, remark)


def read_run(root: Place) -> tuple[RunFolder, dict[str, Any]]:
    """The folder and summary of a complete run, or of a grid's best candidate. Raises UsageError if the run is not
    complete."""
    run = RunFolder(best_folder(root))
    load_job(run)
    if not run.summary.exists():
        if reason := divergence_of(run):
            raise UsageError(
                f"{root} is not a complete run, as it has diverged in {reason}; start a new run in another folder, "
                "e.g. with a lower learning rate (--set lr=…)"
            )
        raise UsageError(f"{root} is not a complete run; run its 'foldstream train' command again to finish it")
    return run, load_summary(run)
