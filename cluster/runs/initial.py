"""Initial weights (`--init`): a weights file or a complete run, from whose models a new run starts.

If the other run has the same data and split, each fold starts from the weights of the same fold, which has not seen
the rows held out here. With a different split, every model of that run has seen some of them.
"""

from dataclasses import dataclass, field, replace

from ...storage.dataset import Dataset
from ...storage.errors import UsageError
from ...storage.fold_plan import open_plan
from ...storage.places.json_files import content_hash, read_json, same_json
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...training.config import TrainConfig
from ...training.run import EVERY, RunFolder, RunJob, best_folder, read_result

DEEPEST = 4  # folders between a run and a checkpoint in it


@dataclass(frozen=True)
class Initial:
    """The source of the weights; the files and their hashes by the fold that starts from them, or EVERY; and a warning,
    if any."""

    origin: str | None = None
    files: dict[str, Place] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    warning: str = ""


def find_initial(run: RunFolder, dataset: Dataset, config: TrainConfig) -> Initial:
    """Find the initial weights of a run. An existing run resumes with its own copies, even if the original files have
    been moved or deleted.

    Raises UsageError if the configured location contains no weights.
    """
    if not config.init:
        return Initial()
    place = locate(str(config.init))
    stored = RunJob.from_json(read_json(run.job)) if run.job.exists() else None
    if (other := RunFolder(best_folder(place))).summary.exists():
        found = _of_run(other, dataset, config, run)
    elif place.is_file():
        hashes = {EVERY: content_hash(place.read_bytes())}
        found = Initial(str(place), {EVERY: place}, hashes, _warning_of_file(place, dataset))
    elif stored and stored.config.init == str(place):
        found = Initial(str(place), {}, stored.initial)
    else:
        raise UsageError(f"--init {config.init}: neither a weights file nor a complete run; check the path")
    return replace(found, origin=str(stored.config.init)) if stored and stored.initial == found.hashes else found


def _of_run(other: RunFolder, dataset: Dataset, config: TrainConfig, run: RunFolder) -> Initial:
    if str(other.root) == str(run.root):
        raise UsageError(f"--init {config.init} is this run itself; to train it for longer, increase --epochs instead")
    job, count = RunJob.from_json(read_json(other.job)), len(open_plan(other.folds).models)
    same_data = job.identity in (dataset.identity, *dataset.earlier)  # the folds of earlier rows remain
    if same_data and same_json(job.config.split.model_dump(), config.split.model_dump()):
        models = {str(fold): fold for fold in range(count)}
        last = EVERY if job.config.split.kind == "column" and job.identity != dataset.identity else str(count)
        models[last] = count if job.config.refit else 0  # new rows may bring new folds, which no model has seen
        warning = ""
    else:
        models = {EVERY: count if job.config.refit else 0}
        warning = _leak(str(config.init), "use the same split and seed as that run") if same_data else ""
    files = {name: other.fold(model).weights for name, model in models.items()}
    hashes = {name: read_result(other.fold(model))["weights"] for name, model in models.items()}
    return Initial(str(other.root), files, hashes, warning)


def _warning_of_file(place: Place, dataset: Dataset) -> str:
    """A warning about a weights file, which may belong to a run on the same data."""
    folder = place
    for _ in range(DEEPEST):
        folder = folder.parent
        job = RunFolder(folder).job
        if job.exists():
            same = read_json(job)["identity"] in (dataset.identity, *dataset.earlier)
            return _leak(str(place), f"use --init {folder} to start each fold from its own weights") if same else ""
    return ""


def _leak(what: str, remedy: str) -> str:
    return f"{what} was trained on rows that are held out here, so the scores are too optimistic; {remedy}"
