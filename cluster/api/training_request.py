"""A training as far as metadata can check it: nothing here loads torch, Ray or Dask, which take seconds."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import ConflictError, ModelError, UsageError
from ...storage.format.schema import Schema
from ...storage.places.json_files import read_json, write_json
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...storage.programs.loading import prepare_code
from ...storage.programs.own_code import Code, is_gone, name_in
from ...training.config import TrainConfig, TrainingOptions, renamed_functions
from ...training.fitted.inputs import usual_fill
from ...training.run import GRID, RunFolder, RunJob
from ...training.search import SearchOptions
from ...training.settings import check_task, ranking_metrics, resolve_settings
from ...training.splits.split import Split
from ...training.stream.order import check_batch_size, lane_count
from ...training.zoo.auto import AUTO, CHOSEN, choose_model, usual_length
from ...training.zoo.factory import BUILT_IN
from ..callbacks.callback import Callback, CallbackFactory, find_callback
from ..requests import TrainRequest
from ..runs.grid import candidate_folder, check_folder, compare_grid, expand_grid
from ..runs.run import continue_config, is_complete, load_lanes, load_summary
from ..runs.workers import choose_workers, shares_of
from ..search.draw import check_optuna
from ..search.plan import Rules, choose_rungs, given_rungs, most_models
from ..search.record import SearchRecord, claim, finishers, new_record, read_search
from .split import split_of

CHECKED_BY_RUNS = "model", "asset", "augment", "metric", "init"
"""Options whose files a run keeps, which tells whether they are the same."""


@dataclass(frozen=True)
class RequestedTraining:
    """A request as far as metadata can check it: its data and split, the folder of its run, the settings of its
    candidates by their names and what each trains, the number of workers, 0 for this process, and the user's code."""

    request: TrainRequest
    dataset: Dataset
    split: Split
    root: RunFolder
    candidates: dict[str, dict[str, Any]]
    configs: dict[str, TrainConfig]
    factories: list[CallbackFactory]
    workers: int
    code: Code
    search: SearchRecord | None = None
    """The record with which a search goes on. The candidates are then the ends of its space, in no folder: they are
    only checked."""

    @property
    def runs(self) -> dict[str, RunFolder]:
        """The folders of the candidates' runs."""
        return {name: candidate_folder(self.root.root, name) for name in self.candidates}

    @property
    def models(self) -> int:
        """The number of models of all candidates, or of those of a search that train at once."""
        of_run = self.split.folds * self.split.repeats + self.request.refit
        return most_models(self.search.rules, of_run) if self.search else len(self.candidates) * of_run

    @property
    def until(self) -> int:
        """The epochs after which candidates are compared; 0 if there is only one, whose divergence is an error."""
        return self.config.epochs if len(self.candidates) > 1 else 0

    @property
    def config(self) -> TrainConfig:
        """That of the first candidate."""
        return next(iter(self.configs.values()))

    @property
    def stacked(self) -> bool:
        """Whether a candidate's folds are computed as one, in a single process."""
        return any(config.recipe.stack for config in self.configs.values())

    def load_summaries(self) -> dict[str, dict[str, Any]]:
        """The summaries of the candidates' runs, which are complete unless they have diverged."""
        return {name: load_summary(run) for name, run in self.runs.items() if run.summary.exists()}


def check_request(request: TrainRequest) -> RequestedTraining:
    """Check a request against the metadata of its dataset and its run. Raises UsageError."""
    dataset, root = open_dataset(str(request.dataset)), RunFolder(locate(str(request.run)))
    check_task(dataset.schema)
    split, factories, candidates = split_of(request, dataset), callback_factories(request), candidates_of(request)
    folders = [candidate_folder(root.root, name) for name in names_of(request, root.root, candidates)]
    request = settle(with_kept_code(request, folders), dataset.schema, len(dataset), recorded_config(folders))
    candidates = candidates_of(request)
    code = prepare_code(code_of(request), request.assets)
    existing = filter(None, (load_lanes(folder, request.world_size) for folder in folders))
    workers = choose_workers(request, dataset)
    batch = cast(int, request.batch_size)  # it is settled
    usual = request.shares or min(shares_of(workers), max(1, workers, batch // 2))
    lanes, shares = next(existing, (lane_count(max(usual, workers)), usual))
    shares = request.shares or shares
    with errors_of_space(request):
        configs = configure(candidates, common_config(request, dataset, split, lanes, shares))
    configs = {name: continue_config(candidate_folder(root.root, name), one) for name, one in configs.items()}
    check_batch_size(batch, max(shares, workers))
    asked = RequestedTraining(request, dataset, split, root, candidates, configs, factories, workers, code)
    if request.search:
        asked = replace(asked, search=claim(root.root, wanted_search(asked)))
    return replace(asked, request=_stacked(request), workers=min(workers, 1)) if asked.stacked else asked


def names_of(request: TrainRequest, root: Place, candidates: Collection[str]) -> Collection[str]:
    """The names of the candidates that may have a folder. Raises ConflictError if the folder contains something else:
    a run, a grid or a search."""
    record = read_search(root)
    if request.search:  # whose claim checks the folder
        return record.names().values() if record else candidates
    if record:
        raise ConflictError(f"{root} is a search; go on with it by its --search, or choose another folder")
    check_folder(root, candidates, "grid")
    return candidates


def wanted_search(asked: RequestedTraining) -> SearchRecord:
    """The record of the search that a request asks for, before its first candidate."""
    request, split, config = asked.request, asked.split, asked.config
    options, folds = search_of(request), split.folds * split.repeats
    if options.rungs:
        rungs = given_rungs(options.rungs, config.epochs, folds)
    else:
        held_out = len(asked.dataset) * (1 - split.holdout) / split.folds
        rungs = choose_rungs(config.epochs, options.reduction, folds, held_out, asked.stacked)
    rules = Rules(rungs, options.total, options.wave, options.reduction)
    fixed = {"identity": asked.dataset.identity, "settings": fixed_settings(request)}
    fixed |= config.model_dump(mode="json", exclude={"recipe", "model_settings", "restarts", *CHECKED_BY_RUNS})
    return new_record(options, rules, ranking_metrics(asked.dataset.schema, [*asked.configs.values()]), fixed)


def recorded_config(runs: Iterable[RunFolder]) -> TrainConfig | None:
    """What the first of these runs that exists trains."""
    return next((RunJob.from_json(read_json(run.job)).config for run in runs if run.job.exists()), None)


def settle(request: TrainRequest, schema: Schema, rows: int, recorded: TrainConfig | None = None) -> TrainRequest:
    """A request with a model, epochs and a batch size: those that it names, or else of the run that it goes on with, or
    else those that fit the data."""
    model, known = str(request.model), recorded if recorded and recorded.model in BUILT_IN else None
    if model == AUTO:
        model = known.model if known else choose_model(schema, request.inputs)
    usual = recorded or usual_length(model, rows)
    update = {"epochs": request.epochs or usual.epochs, "batch_size": request.batch_size or usual.batch_size}
    return request.model_copy(update={"model": model, **update})


def code_of(request: TrainRequest) -> list[str]:
    """The names of what may be the user's code: the model, augmentations, metrics, and the losses of the candidates."""
    losses = {str(settings["loss"]) for settings in candidates_of(request).values() if "loss" in settings}
    return [str(request.model), *request.augmentations, *request.metrics, *sorted(losses)]


def with_kept_code(request: TrainRequest, runs: Iterable[RunFolder]) -> TrainRequest:
    """A request to go on with one of these runs. Code that is gone from its place is taken from the run's copy."""
    for run in runs:
        if run.job.exists():
            kept, names = RunJob.from_json(read_json(run.job)), code_of(request)
            owned = [own for own in kept.config.code if kept.keeps(own)]
            folder = run.kept_code()
            copies = {name: name_in(folder, own) for name in names for own in owned if is_gone(name, own)}
            return _renamed(request, copies, [str(folder / one) for one in kept.config.assets]) if copies else request
    return request


def _renamed(request: TrainRequest, names: Mapping[str, str], assets: Sequence[str]) -> TrainRequest:
    """A request with other names of code, by those that they replace, and other assets."""
    model = names.get(str(request.model), str(request.model))
    settings = dict(request.settings or {})
    if isinstance(loss := settings.get("loss"), str):
        settings["loss"] = names.get(loss, loss)
    update = {"model": model, "asset": tuple(assets), "settings": settings or None}
    return request.model_copy(update=update | renamed_functions(request, names))


def _stacked(request: TrainRequest) -> TrainRequest:
    """A request whose folds are computed as one, which takes a single process. Raises UsageError if it asks for
    several."""
    if (request.workers or 0) > 1:
        raise UsageError(
            f"--set stack=true computes all folds in one process, not in {request.workers}; use --workers 1"
        )
    if request.fold_mode == "runs":
        raise UsageError("--set stack=true computes all folds as one; leave out --fold-mode runs")
    return request.model_copy(update={"fold_mode": "fused"})


def candidates_of(request: TrainRequest) -> dict[str, dict[str, Any]]:
    """The settings of a request's candidates by their names; for a search, those at the ends of its space."""
    if not request.search:
        return expand_grid(request.settings or {})
    check_optuna()
    fixed, dimensions = fixed_settings(request), search_of(request).dimensions
    corners = range(max(len(one.ends) for one in dimensions))
    return {
        f"end {corner}": fixed | {one.name: one.ends[min(corner, len(one.ends) - 1)] for one in dimensions}
        for corner in corners
    }


@contextmanager
def errors_of_space(request: TrainRequest) -> Iterator[None]:
    """Let errors about what is searched name the space rather than --set, which gives settings otherwise."""
    try:
        yield
    except (UsageError, ModelError) as error:
        if not request.search:
            raise
        names = "|".join(map(re.escape, search_of(request).space))
        raise type(error)(re.sub(rf"--set ({names})\b", r"space.\1", str(error))) from None


def search_of(request: TrainRequest) -> SearchOptions:
    """The search that a request asks for."""
    return SearchOptions.model_validate(request.search)


def fixed_settings(request: TrainRequest) -> dict[str, Any]:
    """The settings that all candidates of a search have. Raises UsageError for several values, and for a setting that
    is searched too."""
    (fixed, *others), space = expand_grid(request.settings or {}).values(), search_of(request).space
    if others:
        raise UsageError("--set with several values makes a grid; with --search, give the values in its table space")
    if both := sorted(fixed.keys() & space.keys()):
        raise UsageError(f"--set {both[0]} is searched too; remove it here, or from the table space of --search")
    return fixed


def check_settings(request: TrainRequest) -> None:
    """Raise UsageError for code and settings that are wrong independently of the data."""
    prepare_code(code_of(request), request.assets)
    for settings in candidates_of(request).values():
        _check_settings(str(request.model), settings)


def _check_settings(model: str, settings: Mapping[str, Any]) -> None:
    """Raise UsageError for settings that a model does not have, or if it depends on the data, none of those that it may
    be."""
    if model != AUTO:
        resolve_settings(model, settings)
        return
    for last, one in enumerate(CHOSEN, start=1 - len(CHOSEN)):
        try:
            return _check_settings(one, settings)
        except UsageError:
            if not last:
                raise


def callback_factories(request: TrainRequest) -> list[CallbackFactory]:
    """What makes the callbacks of a request. Raises UsageError for one that cannot be found."""
    return [find_callback(one) if isinstance(one, str) else partial(_same, one) for one in request.callbacks]


def _same(callback: Callback) -> Callback:
    return callback


def common_config(request: TrainRequest, dataset: Dataset, split: Split, lanes: int, shares: int) -> TrainConfig:
    """What all candidates of a request have in common."""
    options = request.part(TrainingOptions)
    if request.missing == "auto":
        options["missing"] = usual_fill(dataset.schema, dataset.statistics)
    return TrainConfig(**options, split=split, lanes=lanes, shares=shares)


def configure(candidates: Mapping[str, Mapping[str, Any]], common: TrainConfig) -> dict[str, TrainConfig]:
    """What each candidate trains, from what is `common` to all and its settings. Raises UsageError."""
    configs = {}
    for name, settings in candidates.items():
        recipe, own = resolve_settings(common.model, settings)
        shares = 1 if recipe.stack else common.shares
        configs[name] = common.model_copy(update={"recipe": recipe, "model_settings": own, "shares": shares})
    return configs


def complete_result(asked: RequestedTraining) -> dict[str, Any] | None:
    """The result that is recorded if exactly this training is complete. Otherwise None: to tell what differs takes a
    closer look."""
    if asked.search:
        return complete_search(asked, asked.search)
    if all(is_complete(run, asked.dataset, asked.configs[name]) for name, run in asked.runs.items()):
        return compare_candidates(asked, asked.load_summaries())
    return None


def complete_search(asked: RequestedTraining, record: SearchRecord) -> dict[str, Any] | None:
    """The comparison of a search that is finished; None if candidates are left, or if something of them differs."""
    root = asked.root.root
    if not (root / GRID).exists() or len(record.trials) < record.rules.trials:
        return None
    for trial in finishers(root, record):
        config = configure({trial: trial_settings(asked, record, trial)}, asked.config)[trial]
        if not is_complete(candidate_folder(root, trial), asked.dataset, config):
            return None
    grid: dict[str, Any] = read_json(root / GRID)
    return grid


def trial_settings(asked: RequestedTraining, record: SearchRecord, name: str) -> dict[str, Any]:
    """All settings of a candidate of a search."""
    return fixed_settings(asked.request) | record.settings_of(name)


def compare_candidates(asked: RequestedTraining, summaries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The summary of the run, or that of a grid with all of its candidates, from the summaries of the runs by name."""
    if asked.until == 0:
        return summaries[""]
    metrics = ranking_metrics(asked.dataset.schema, [*asked.configs.values()])
    grid = compare_grid(asked.root.root, asked.candidates, summaries, metrics)
    write_json(asked.root.root / GRID, grid)
    return grid
