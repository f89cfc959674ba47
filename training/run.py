"""The layout of a run's folder, and the job that defines the run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Self

from ..storage.dataset import Dataset, open_dataset
from ..storage.errors import ForeignError
from ..storage.fold_plan import open_plan
from ..storage.format.manifest import MANIFEST, schema_of_first_format
from ..storage.format.schema import Schema
from ..storage.places.json_files import as_json, read_json
from ..storage.places.place import Place
from ..storage.programs.loading import open_code
from ..storage.programs.own_code import name_in
from .config import TrainConfig
from .stream.order import Mixing

EVERY = "all"  # the name of initial weights from which the models of all folds start
CANDIDATES = "candidates"  # folder of the runs of a grid search or a search
GRID = "grid.json"  # next to the runs of a grid search's candidates: their scores
ENSEMBLE = "ensemble.json"  # of an ensemble of several runs: its members and their weights; written last
STACKER = "stacker"  # in the folder of an ensemble: the run on the predictions of its members
SEARCH_PAGE = "search.html"
SEARCH = "search.json"  # next to the runs of a search's candidates: which were drawn, and which train on


@dataclass(frozen=True)
class RunFolder:
    """Paths inside a run's folder."""

    root: Place

    @property
    def job(self) -> Place:
        """The definition of the run; written first."""
        return self.root / "run.json"

    @property
    def folds(self) -> Place:
        """The fold of every row."""
        return self.root / "folds.zarr"

    @property
    def journal(self) -> Place:
        """The events of the folds' attempts; only the coordinator writes it."""
        return self.root / "journal.jsonl"

    @property
    def logs(self) -> Place:
        """The logs of the job's attempts, one file each."""
        return self.root / "logs"

    @property
    def oof(self) -> Place:
        """The merged out-of-fold predictions."""
        return self.root / "oof.zarr"

    @property
    def holdout(self) -> Place:
        """The combined predictions for the holdout, i.e. for rows that no model has trained on."""
        return self.root / "holdout.zarr"

    @property
    def report(self) -> Place:
        """The report of the run as JSON."""
        return self.root / "report.json"

    @property
    def page(self) -> Place:
        """The report as a web page."""
        return self.root / "report.html"

    @property
    def text(self) -> Place:
        """The report as Markdown."""
        return self.root / "report.md"

    @property
    def summary(self) -> Place:
        """The folds' results and the out-of-fold score; written last."""
        return self.root / "summary.json"

    @property
    def tensorboard(self) -> Place:
        """TensorBoard event files: a folder for each fold, and one for the report."""
        return self.root / "tensorboard"

    @property
    def initial(self) -> Place:
        """Copies of the initial weights, if given."""
        return self.root / "initial"

    @property
    def code(self) -> Place:
        """Copies of the user's code and its assets: workers may be on other machines."""
        return self.root / "code"

    def kept_code(self) -> Place:
        """Where this run keeps its code, which the first versions had beside `run.json`."""
        return self.code if self.code.is_dir() else self.root

    def fold(self, fold: int) -> "FoldFolder":
        return FoldFolder(self.root / "folds" / str(fold), self.tensorboard / f"fold-{fold}")


@dataclass(frozen=True)
class FoldFolder:
    """Paths inside a fold's folder."""

    root: Place
    tensorboard: Place

    @property
    def checkpoints(self) -> Place:
        """The most recent checkpoints."""
        return self.root / "checkpoints"

    @property
    def best(self) -> Place:
        """The weights of the best epoch so far, if early stopping is enabled."""
        return self.checkpoints / "best.safetensors"

    @property
    def weights(self) -> Place:
        """The final weights."""
        return self.root / "model.safetensors"

    @property
    def progress(self) -> Place:
        """The progress of the fold's training with a timestamp, for monitoring."""
        return self.root / "progress.json"

    @property
    def steps(self) -> Place:
        """The training loss within epochs, and the memory in use, for monitoring."""
        return self.root / "steps.json"

    @property
    def history(self) -> Place:
        """The metrics of each epoch so far, for monitoring."""
        return self.root / "history.json"

    @property
    def done(self) -> Place:
        """The fold's result, which also marks its completion; written last."""
        return self.root / "done.json"

    @property
    def diverged(self) -> Place:
        """Why the training of a candidate of a grid or a search has diverged, and in which epoch."""
        return self.root / "diverged.json"

    def rung(self, epochs: int) -> Place:
        """The result of a candidate of a search after so many epochs, where it paused; written after its
        checkpoint."""
        return self.root / "rungs" / f"{epochs}.json"

    @property
    def parts(self) -> Place:
        """Predictions for the fold's held-out rows, one file per shard of the dataset."""
        return self.root / "predictions"

    @property
    def holdout_parts(self) -> Place:
        """Predictions for the holdout, one file per shard of the dataset."""
        return self.root / "holdout"


@dataclass(frozen=True)
class RunJob:
    """A run as it was started: the identity of its data, its configuration, the hashes of the user's files, and those
    of initial weights, by the fold that starts from them."""

    dataset: str
    identity: str
    schema: Schema
    config: TrainConfig
    code: dict[str, str] = field(default_factory=dict)
    """By their paths in the copy of the code."""
    initial: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "schema": as_json(self.schema), "config": self.config.model_dump()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(
            value["dataset"],
            value["identity"],
            Schema.from_json(schema_of_first_format(value["schema"], value["dataset"])),
            TrainConfig.model_validate(value["config"]),
            value["code"] if "code" in value else code_of_first_versions(value),
            value.get("initial", {}),
        )

    def initial_of(self, fold: int) -> tuple[str, str]:
        """The name and the hash of the weights from which a fold starts, if there are any."""
        name = str(fold) if str(fold) in self.initial else EVERY
        return name, self.initial[name]

    def keeps(self, name: str) -> bool:
        """Whether the run has a copy of the code that its configuration calls by this name."""
        return name.rpartition(":")[0] in self.code

    def open_data(self) -> Dataset:
        """Open the run's dataset, in the version with which the run was started. Raises ForeignError if another dataset
        has replaced it."""
        dataset = open_dataset(self.dataset)
        if dataset.identity != self.identity:
            if earlier := dataset.earlier_version(self.identity):
                return earlier
            raise ForeignError(
                f"{self.dataset} is not the dataset with which the run was started; restore it, or start a new run"
            )
        return dataset


@dataclass(frozen=True)
class RunFold:
    """One fold of a run. It may be trained together with other folds, of the same run or of other candidates."""

    job: RunJob
    run: RunFolder
    fold: int


def mixing_of(config: TrainConfig) -> Mixing:
    """The mixing parameters of a run."""
    return Mixing(config.batch_size, config.lanes, config.window, config.seed, config.least_rows)


def folds_of(job: RunJob, run: RunFolder, folds: Iterable[int]) -> list[RunFold]:
    """The given folds of a run."""
    return [RunFold(job, run, fold) for fold in folds]


def name_folds(job: RunJob, run: RunFolder, candidate: str = "") -> dict[str, RunFold]:
    """All folds of a run, and its refit, by name. In a grid search, names start with the name of the candidate."""
    count = len(open_plan(run.folds).models)
    titles = [f"fold {fold}" for fold in range(count)] + ["refit"] * job.config.refit
    every = folds_of(job, run, range(len(titles)))
    return {f"{candidate} {title}".strip(): one for title, one in zip(titles, every, strict=True)}


def waits_for_folds(one: RunFold) -> bool:
    """Whether this is a refit whose number of epochs depends on the early stopping of the folds."""
    patience = one.job.config.recipe.patience
    return bool(patience) and one.fold == len(open_plan(one.run.folds).models)


def epochs_of(one: RunFold) -> int:
    """The maximum number of epochs for a model: for a refit after early stopping, the rounded mean of the folds' best
    epochs."""
    if not waits_for_folds(one):
        return one.job.config.epochs
    return int(fmean(read_result(one.run.fold(fold))["metrics"]["epoch"] for fold in range(one.fold)) + 0.5)


def best_folder(root: Place) -> Place:
    """The folder of a run: `root` itself, or for a grid search the folder of its best candidate."""
    if not (root / GRID).exists():
        return root
    folder: str = read_json(root / GRID)["folder"]
    return root / folder


def has_candidates(root: Place) -> bool:
    """Whether a folder is that of a grid or a search, complete or not."""
    return (root / SEARCH).exists() or (root / CANDIDATES).is_dir()


def _no_run(root: Place) -> ForeignError:
    """The error for a location without a run."""
    if has_candidates(root):
        return ForeignError(
            f"{root} is a {'search' if (root / SEARCH).exists() else 'grid'} that is not complete, as 'foldstream "
            f"status {root}' shows; run its 'foldstream train' command again to finish it, or if all candidates have "
            "failed, start a new one in another folder"
        )
    if (root / MANIFEST).exists():
        return ForeignError(f"{root} is a dataset, not a run; train on it with 'foldstream train {root} RUN'")
    if (root / ENSEMBLE).exists():
        return ForeignError(
            f"{root} is an ensemble of several runs, which only predicts and is served; give one of its members, which "
            f"{root / ENSEMBLE} lists"
        )
    if root.is_file():
        return ForeignError(f"{root} is a file, not a run; give the folder that 'foldstream train' has written")
    what = "is not a run (it has no run.json)" if root.is_dir() else "does not exist"
    return ForeignError(f"{root} {what}; start a run with 'foldstream train DATASET RUN'")


def load_job(run: RunFolder) -> RunJob:
    """Read the job of the run in a folder.

    Raises ForeignError if the folder is not a run, and ConflictError if files of its code are missing or have changed
    since the run was started.
    """
    if not run.job.exists():
        raise _no_run(run.root)
    job = RunJob.from_json(read_json(run.job))
    if not job.code:
        return job
    folder = run.kept_code()
    open_code(folder, job.code, job.config.code)
    names = {name: name_in(folder, name) for name in job.config.code if job.keeps(name)}
    return replace(job, config=job.config.with_code(names, [str(folder / one) for one in job.config.assets]))


def code_of_first_versions(job: dict[str, Any]) -> dict[str, str]:
    """The hashes of the user's files by their names, from a `run.json` that has them by what is defined in them."""
    hashes = {**job.get("code_hashes", {}), job["config"]["model"]: job["model_hash"]}
    return {name.rpartition(":")[0]: known for name, known in hashes.items() if known}


def is_done(folder: FoldFolder) -> bool:
    """Whether a fold is fully trained."""
    return folder.done.exists()


def has_reached(one: RunFold, epochs: int) -> bool:
    """Whether a fold has nothing to train before `epochs` epochs are complete: it is done, has diverged, or pauses
    there; or it is a refit that waits for folds of which one has diverged. With 0 epochs, whether it is fully
    trained."""
    folder = one.run.fold(one.fold)
    if is_done(folder) or not epochs:
        return is_done(folder)
    if folder.diverged.exists() or folder.rung(epochs).exists():
        return True
    return waits_for_folds(one) and any(one.run.fold(fold).diverged.exists() for fold in range(one.fold))


def read_rung(folder: FoldFolder, epochs: int) -> dict[str, Any] | None:
    """The result of a fold after so many epochs, or at the end if that came before: like `read_result`, or `epoch` and
    `reason` if it has diverged. None if it has not come so far."""
    for place in (folder.rung(epochs), folder.done, folder.diverged):
        if place.exists():
            result: dict[str, Any] = read_json(place)
            return result
    return None


def describe_divergence(result: Mapping[str, Any]) -> str:
    """The result of a fold that has diverged, in words."""
    return f"fold {result['fold']}, epoch {result['epoch']}: {result['reason']}"


def divergence_of(run: RunFolder) -> str:
    """Where and why the training of a candidate has diverged; empty if it has not."""
    models = len(open_plan(run.folds).models) if run.job.exists() else 0
    found = (run.fold(fold).diverged for fold in range(models + 1))
    return next((describe_divergence(read_json(place)) for place in found if place.exists()), "")


def read_result(folder: FoldFolder) -> dict[str, Any]:
    """Read the result of a fully trained fold: its index, its final metrics, and the metrics of each epoch."""
    result: dict[str, Any] = read_json(folder.done)
    return result
