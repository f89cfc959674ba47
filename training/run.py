"""The folder of a run: which file stands where, and the job that a run is."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Self

from ..storage.dataset import Dataset, open_dataset
from ..storage.errors import ConflictError, ForeignError
from ..storage.fold_plan import open_plan
from ..storage.format import Schema, Statistics
from ..storage.places.json_files import read_json
from ..storage.places.place import Place
from .config import TrainConfig
from .zoo.factory import model_file, model_hash

GRID = "grid.json"  # beside the runs of a grid's candidates, what they are worth


@dataclass(frozen=True)
class RunFolder:
    """Names inside a run's folder."""

    root: Place

    @property
    def job(self) -> Place:
        """What the run is; written first."""
        return self.root / "run.json"

    @property
    def folds(self) -> Place:
        """The fold of every row."""
        return self.root / "folds.zarr"

    @property
    def journal(self) -> Place:
        """What happened to the folds' attempts; the coordinator's own."""
        return self.root / "journal.jsonl"

    @property
    def logs(self) -> Place:
        """What the job's attempts have told, a file each."""
        return self.root / "logs"

    @property
    def oof(self) -> Place:
        """The merged out-of-fold predictions."""
        return self.root / "oof.zarr"

    @property
    def holdout(self) -> Place:
        """The mean predictions of the rows that no model has seen."""
        return self.root / "holdout.zarr"

    @property
    def report(self) -> Place:
        """All that there is to say about the run, for programs."""
        return self.root / "report.json"

    @property
    def page(self) -> Place:
        """The same as a page."""
        return self.root / "report.html"

    @property
    def text(self) -> Place:
        """The same as Markdown."""
        return self.root / "report.md"

    @property
    def summary(self) -> Place:
        """The folds' results and the out-of-fold score; written last."""
        return self.root / "summary.json"

    @property
    def tensorboard(self) -> Place:
        """TensorBoard's files: a folder for each fold, and one for the report."""
        return self.root / "tensorboard"

    def model(self, name: str) -> str:
        """A model's name, where it is a file that of the copy in this folder: workers may be on other machines."""
        file = model_file(name)
        return f"{self.root / file[0].name}:{file[1]}" if file else name

    def fold(self, fold: int) -> "FoldFolder":
        return FoldFolder(self.root / "folds" / str(fold), self.tensorboard / f"fold-{fold}")


@dataclass(frozen=True)
class FoldFolder:
    """Names inside a fold's folder."""

    root: Place
    tensorboard: Place

    @property
    def checkpoints(self) -> Place:
        """The last checkpoints."""
        return self.root / "checkpoints"

    @property
    def best(self) -> Place:
        """With early stopping, the weights of the best epoch so far."""
        return self.checkpoints / "best.safetensors"

    @property
    def weights(self) -> Place:
        return self.root / "model.safetensors"

    @property
    def progress(self) -> Place:
        """How far the fold's training is, and when that was; for those who watch."""
        return self.root / "progress.json"

    @property
    def history(self) -> Place:
        """The metrics of each epoch so far; for those who watch."""
        return self.root / "history.json"

    @property
    def done(self) -> Place:
        """The fold's result; written last."""
        return self.root / "done.json"

    @property
    def parts(self) -> Place:
        """Predictions of the fold's rows, a file for each shard of the dataset."""
        return self.root / "predictions"

    @property
    def holdout_parts(self) -> Place:
        """Predictions of the rows that no model has seen."""
        return self.root / "holdout"


@dataclass(frozen=True)
class RunJob:
    """A run as it was begun: its data by identity, its configuration, the user's model by hash."""

    dataset: str
    identity: str
    schema: Schema
    statistics: Statistics
    config: TrainConfig
    model_hash: str | None

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(
            value["dataset"],
            value["identity"],
            Schema.from_json(value["schema"]),
            Statistics.from_json(value["statistics"]),
            TrainConfig.from_json(value["config"]),
            value["model_hash"],
        )

    def open_data(self) -> Dataset:
        """The run's dataset. Raises ForeignError if another one stands in its place now."""
        dataset = open_dataset(self.dataset)
        if dataset.identity != self.identity:
            raise ForeignError(f"{self.dataset} is not the dataset that the run was begun with; start a new run")
        return dataset


@dataclass(frozen=True)
class RunFold:
    """One fold of a run, which is trained together with others of the same run, or of runs with other settings."""

    job: RunJob
    run: RunFolder
    fold: int


def folds_of(job: RunJob, run: RunFolder, folds: Iterable[int]) -> list[RunFold]:
    """Some folds of a run."""
    return [RunFold(job, run, fold) for fold in folds]


def name_folds(job: RunJob, run: RunFolder, candidate: str = "") -> dict[str, RunFold]:
    """All folds of a run by their names, which of a candidate of a grid say of which."""
    count = len(open_plan(run.folds).models)
    titles = [f"fold {fold}" for fold in range(count)] + ["refit"] * job.config.refit
    every = folds_of(job, run, range(len(titles)))
    return {f"{candidate} {title}".strip(): one for title, one in zip(titles, every, strict=True)}


def best_folder(root: Place) -> Place:
    """The folder of the run that is meant by a folder: its own, or that of its grid's best candidate."""
    if not (root / GRID).exists():
        return root
    folder: str = read_json(root / GRID)["folder"]
    return root / folder


def load_job(run: RunFolder) -> RunJob:
    """The job of the run in a folder. Raises ForeignError where there is none, and ConflictError where the model's file
    in it is not the one that the run was begun with."""
    if not run.job.exists():
        raise ForeignError(f"{run.root} is not a run (it has no run.json); «foldstream train DATASET RUN» makes one")
    job = RunJob.from_json(read_json(run.job))
    job = replace(job, config=replace(job.config, model=run.model(job.config.model)))
    try:
        unchanged = job.model_hash == model_hash(job.config.model)
    except FileNotFoundError:
        unchanged = False
    if not unchanged:
        raise ConflictError(f"{job.config.model} is not what the run was begun with; put it back, or start a new run")
    return job


def is_done(folder: FoldFolder) -> bool:
    """Whether a fold has been trained to its end."""
    return folder.done.exists()


def read_result(folder: FoldFolder) -> dict[str, Any]:
    """The result of a fold that is done: its number, final metrics, and the metrics of each epoch."""
    result: dict[str, Any] = read_json(folder.done)
    return result
