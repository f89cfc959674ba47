"""A training as far as metadata can check it: nothing here loads torch, Ray or Dask, which take seconds."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from ...storage.dataset import Dataset, open_dataset
from ...storage.places.locate import locate
from ...training.config import TrainConfig, TrainingOptions
from ...training.run import RunFolder, best_folder
from ...training.settings import check_task, resolve_settings
from ...training.splits.split import Split
from ...training.stream.order import check_batch_size, lane_count
from ..callbacks.callback import Callback, CallbackFactory, find_callback
from ..listener import Listener
from ..requests import TrainRequest
from ..runs.grid import candidate_folder, expand_grid, write_grid
from ..runs.run import is_complete, load_lanes, load_summary
from ..runs.workers import choose_workers, shares_of
from .split import split_of


@dataclass(frozen=True)
class RequestedTraining:
    """A request as far as metadata can check it: its data and split, the folder of its run, the settings of its
    candidates by their names, and the lanes and shares of each batch."""

    request: TrainRequest
    dataset: Dataset
    split: Split
    root: RunFolder
    candidates: dict[str, dict[str, Any]]
    factories: list[CallbackFactory]
    lanes: int
    shares: int

    @property
    def runs(self) -> dict[str, RunFolder]:
        """The folders of the candidates' runs."""
        return {name: candidate_folder(self.root.root, name) for name in self.candidates}

    @property
    def models(self) -> int:
        """The number of models of all candidates."""
        return len(self.candidates) * (self.split.folds * self.split.repeats + self.request.refit)


def check_request(request: TrainRequest) -> RequestedTraining:
    """Check a request against the metadata of its dataset and its run. Raises UsageError."""
    dataset, root = open_dataset(str(request.dataset)), RunFolder(locate(str(request.run)))
    check_task(dataset.schema)
    split, factories, candidates = split_of(request, dataset), callback_factories(request), check_settings(request)
    folders = (candidate_folder(root.root, name) for name in candidates)
    existing = filter(None, (load_lanes(folder, request.world_size) for folder in folders))
    shares = shares_of(choose_workers(request, dataset))
    lanes, shares = next(existing, (lane_count(shares), shares))
    check_batch_size(request.batch_size, lanes)
    return RequestedTraining(request, dataset, split, root, candidates, factories, lanes, shares)


def check_settings(request: TrainRequest) -> dict[str, dict[str, Any]]:
    """The candidates' settings by their names. Raises UsageError for settings that are wrong independently of the
    data."""
    candidates = expand_grid(request.settings or {})
    for settings in candidates.values():
        resolve_settings(request.model, settings)
    return candidates


def callback_factories(request: TrainRequest) -> list[CallbackFactory]:
    """What makes the callbacks of a request. Raises UsageError for one that cannot be found."""
    return [find_callback(one) if isinstance(one, str) else partial(_same, one) for one in request.callbacks]


def _same(callback: Callback) -> Callback:
    return callback


def common_config(request: TrainRequest, split: Split, lanes: int, shares: int) -> TrainConfig:
    """What all candidates of a request have in common."""
    return TrainConfig(**request.part(TrainingOptions), split=split, lanes=lanes, shares=shares)


def complete_result(asked: RequestedTraining, listener: Listener) -> dict[str, Any] | None:
    """The result that is recorded if exactly this training is complete. Otherwise None: to tell what differs takes a
    closer look."""
    common = common_config(asked.request, asked.split, asked.lanes, asked.shares)
    for name, run in asked.runs.items():
        if not run.summary.exists():
            return None
        recipe, settings = resolve_settings(common.model, asked.candidates[name])
        config = common.model_copy(update={"recipe": recipe, "model_settings": settings})
        if not is_complete(run, asked.dataset, config):
            return None
    return finished_result(asked, listener)


def finished_result(asked: RequestedTraining, listener: Listener) -> dict[str, Any]:
    """The summary of the run, or of a grid with all of its candidates, once all runs are complete."""
    root, summaries = asked.root.root, {name: load_summary(run) for name, run in asked.runs.items()}
    result = write_grid(root, asked.candidates, summaries) if len(summaries) > 1 else summaries[""]
    listener.announce("report", str(RunFolder(best_folder(root)).page))
    return result
