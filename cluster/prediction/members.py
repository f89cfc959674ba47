"""What predicts: a complete run, an ensemble of several runs with their weights, or a run on the predictions of
others, which predict first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...storage.dataset import Dataset
from ...storage.errors import ConflictError, ForeignError
from ...storage.format.schema import Schema
from ...storage.places.json_files import content_hash, read_json
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...training.run import ENSEMBLE, STACKER, RunFolder, RunJob, load_job
from ...training.settings import check_ensemble
from ..runs.run import read_run

if TYPE_CHECKING:
    from ...training.model.prediction import Models


@dataclass(frozen=True)
class Members:
    """The complete runs that predict together, with their weights: a run itself has the weight 1. `root` is the folder
    of their merged predictions, and `stamp` identifies all of them. The features of a run may be predictions of runs
    `below`."""

    root: RunFolder
    runs: tuple[RunFolder, ...]
    jobs: tuple[RunJob, ...]
    weights: tuple[float, ...]
    stamp: bytes
    below: tuple[Members, ...] = ()

    @property
    def first(self) -> RunFolder:
        """The run whose tokenizer reads texts, which all members share."""
        return self.below[0].first if self.below else self.runs[0]

    @property
    def job(self) -> RunJob:
        """The job by which rows are converted and scored: the first one that takes all the columns that any takes."""
        return next((job for job in self.jobs if job.schema.table), self.jobs[0])

    @property
    def schema(self) -> Schema:
        """The schema of the rows that are predicted."""
        stacked = self.job.schema.stacked
        return stacked.base if stacked else self.job.schema

    @property
    def identities(self) -> set[str]:
        """The identities of the datasets on which models of any run were trained."""
        return {job.identity for job in self.jobs}.union(*(one.identities for one in self.below))

    def open_data(self) -> Dataset:
        """The dataset that the members were trained on."""
        return self.job.open_data()

    def check_ensemble(self, kind: str) -> None:
        """Raise UsageError if the folds of a member cannot be combined in this way."""
        for job in self.jobs:
            check_ensemble(kind, job.schema.task != "regression", job.config.refit)

    def load(self, kind: str) -> Models:
        """Load the models of all members, whose folds are combined by `kind`."""
        # torch takes a second to load
        from ...training.model.prediction import StackedRuns, WeightedRuns, load_ensemble

        every = tuple(load_ensemble(job, run, kind) for job, run in zip(self.jobs, self.runs, strict=True))
        upper = every[0] if len(every) == 1 else WeightedRuns(every, self.weights, self.job.schema)
        if not self.below:
            return upper
        return StackedRuns(tuple(one.load("mean") for one in self.below), upper, self.job.schema)


def read_members(place: Place) -> Members:
    """The members of an ensemble, or a run alone.

    Raises ForeignError for what is neither, UsageError for a run that is not complete, and ConflictError if a member
    has been trained again since its weight was found.
    """
    if not (place / ENSEMBLE).exists():
        run, _ = read_run(place)
        job = load_job(run)
        return Members(run, (run,), (job,), (1.0,), run.summary.read_bytes(), _below(place, job))
    facts = read_json(place / ENSEMBLE)
    if facts["method"] == "stack":
        return read_members(place / STACKER)
    runs = tuple(_member(place, one) for one in facts["members"])
    weights = tuple(float(one["weight"]) for one in facts["members"])
    used = [(run, weight) for run, weight in zip(runs, weights, strict=True) if weight] or [(runs[0], 0.0)]
    runs, weights = tuple(run for run, _ in used), tuple(weight for _, weight in used)
    stamp = (place / ENSEMBLE).read_bytes()
    jobs = tuple(map(load_job, runs))
    return Members(RunFolder(place), runs, jobs, weights, stamp, _below(place, jobs[0]))


def _below(place: Place, job: RunJob) -> tuple[Members, ...]:
    """What predicts the features of a run, if these are predictions."""
    if not (stacked := job.schema.stacked):
        return ()
    stored = zip(stacked.runs, stacked.stamps, strict=True)
    return tuple(read_members(_member(place, {"run": run, "summary": stamp}).root) for run, stamp in stored)


def _member(ensemble: Place, stored: dict[str, Any]) -> RunFolder:
    """The run of a member, which must be the one whose predictions were weighted."""
    remedy = f"restore it, or make {ensemble} again in another folder"
    return _unchanged(stored["run"], stored["summary"], f"{ensemble}: its member", "then", remedy)


def check_below(dataset: Dataset) -> None:
    """Raise ConflictError if a run whose predictions are features of a dataset was trained again, and ForeignError if
    one is gone: a model that is trained on them could not predict."""
    if stacked := dataset.schema.stacked:
        remedy = "restore it, or repeat the 'foldstream stack' command with --overwrite"
        for run, stamp in zip(stacked.runs, stacked.stamps, strict=True):
            _unchanged(run, stamp, f"{dataset.place}: the run", "its predictions became features", remedy)


def _unchanged(run: str, stamp: str, what: str, since: str, remedy: str) -> RunFolder:
    """The run at a place, which must still have this stamp."""
    place = locate(run)
    try:
        found, _ = read_run(place)
    except ForeignError as error:
        raise ForeignError(f"{what} {place} is gone ({error}); {remedy}") from None
    if stamp_of(found) != stamp:
        raise ConflictError(f"{what} {place} has been trained again since {since}", remedy)
    return found


def stamp_of(run: RunFolder) -> str:
    """A hash of the results of a complete run: its folds' metrics and scores."""
    return content_hash(run.summary.read_bytes(), run.job.read_bytes())


def names_of(places: Sequence[str]) -> list[str]:
    """Short names of runs: the last parts of their paths that tell them apart."""
    parts = [place.rstrip("/").split("/") for place in places]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len({*names}) == len(names):
            return names
    return [*places]
