"""Training the runs of a request that fits its data: each candidate is one, and all are trained and merged."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from ...storage.dataset import Dataset
from ...storage.errors import ModelError, UsageError
from ...storage.fold_plan import open_plan
from ...storage.places.json_files import write_json
from ...storage.tasks import RUN
from ...training.config import TrainConfig
from ...training.fitted.inputs import describe_inputs
from ...training.model.augmentation import check_augmentation
from ...training.model.initial import match_weights, read_initial
from ...training.model.losses import check_own_loss
from ...training.model.objective import make_inputs
from ...training.model.optimizer import check_optimizer
from ...training.model.trial import check_gradients, model_rows, stored_rows
from ...training.ray.helper import Helper
from ...training.run import GRID, RunFold, RunFolder, RunJob, divergence_of, has_reached, name_folds
from ...training.settings import check_config, describe_batches, describe_recipe, rows_are_weighted
from ...training.stream.filters import training_rows
from ...training.zoo.factory import build_model, check_model, takes_schema
from ..callbacks.callback import Callbacks
from ..dask.executor import job_executor
from ..requests import Session, TrainRequest
from ..runs.fold_mode import FoldMode, choose_fold_mode
from ..runs.grid import candidate_folder, compare_grid
from ..runs.here import ONE_PROCESS, train_units_here
from ..runs.initial import find_initial
from ..runs.run import Trainers, prepare_run, train_folds
from ..runs.workers import USUAL_WORKERS
from ..search.loop import Candidates, run_search
from ..search.plan import Rung
from ..search.record import SearchRecord, all_failed, claim, finishers, write_search
from ..search.report import write_search_report
from .conversion import absolute
from .split import warn_of_plan
from .summary import merge_run
from .training_request import (
    RequestedTraining,
    compare_candidates,
    configure,
    errors_of_space,
    fixed_settings,
    search_of,
)


@dataclass(frozen=True)
class Training:
    """A training whose models are checked too: the fold mode, and the processes that train along with this one."""

    asked: RequestedTraining
    mode: FoldMode
    helpers: Sequence[Helper]
    notes: Mapping[str, str]
    """What to tell of it before it begins."""


def train_runs(training: Training, session: Session) -> dict[str, Any]:
    """Plan, train and merge the runs of all candidates, as far as they are not done, and compare them."""
    if training.asked.search:
        return search_settings(training, training.asked.search, session)
    asked, runs, listener = training.asked, training.asked.runs, session.listener
    named = plan_runs(training, session)
    left = [title for title, one in named.items() if not has_reached(one, asked.until)]
    if 0 < len(left) < len(named):
        listener.announce("folds", f"{len(named) - len(left)} of {len(named)} are complete already")
    incomplete = {name: folder for name, folder in runs.items() if not folder.summary.exists()}
    with Callbacks(asked.factories if incomplete else [], asked.root.root) as callbacks:
        callbacks.notify("run_begun", str(asked.root.root), left, describe(asked))
        if left:
            train_left(training, named, session)
        for name, folder in incomplete.items():
            if reason := divergence_of(folder):
                listener.announce("diverged", f"{name}, in {reason}")
            else:
                merge(asked, folder, session)
        summaries = asked.load_summaries()
        result = compare_candidates(asked, summaries)
        callbacks.finish(summaries[result.get("best", "")])
    return result


class CandidateTrainer:
    """Trains the candidates of a search. Workers on Ray stay connected between two passes. The folds of all candidates
    are those of `first`, if it has them already."""

    def __init__(self, training: Training, first: RunFolder | None, session: Session, stack: ExitStack) -> None:
        self.training, self.first, self.session, self.stack = training, first, session, stack
        self.trainers: Trainers | None = None

    def training_of(self, candidates: Candidates) -> Training:
        """The training of candidates with these settings, beside those that all have."""
        asked = self.training.asked
        every = {name: {**fixed_settings(asked.request), **settings} for name, settings in candidates.items()}
        return replace(self.training, asked=replace(asked, candidates=every, configs=configure(every, asked.config)))

    def failures(self, candidates: Candidates) -> dict[str, str]:
        """See `Trainer`: of candidates whose model cannot be built or trained."""
        found = dict[str, str]()
        for name, settings in candidates.items():
            try:
                check_models(self.training_of({name: settings}).asked.configs, self.training.asked.dataset)
            except (UsageError, ModelError) as error:
                found[name] = str(error)
        return found

    def train(self, candidates: Candidates, rung: Rung, stage: str) -> None:
        """See `Trainer`."""
        training, listener = self.training_of(candidates), self.session.listener
        named = plan_runs(training, self.session, self.first)
        one = next(iter(named.values()))
        self.first = self.first or one.run
        folds = members_of(rung, named, len(open_plan(one.run.folds).models))
        listener.announce("search", stage)
        if self.trainers is None:
            announce(training, folds, self.session)
            self.trainers = self.stack.enter_context(open_trainers(training, folds, self.session))
        execution, root = execution_of(training, self.trainers), training.asked.root
        train_folds(root, folds, execution, self.trainers, listener.progress, rung.epochs, stage)


def members_of(rung: Rung, named: Mapping[str, RunFold], models: int) -> dict[str, RunFold]:
    """The folds that train to a rung: at the end of the training, also the refit."""
    is_last = rung.folds is None and rung.epochs == next(iter(named.values())).job.config.epochs
    return {title: one for title, one in named.items() if is_last or one.fold < rung.folds_of(models)}


def search_settings(training: Training, record: SearchRecord, session: Session) -> dict[str, Any]:
    """Draw, train and stop candidates until none is left, then merge and compare those that have trained to the end.

    Raises RunError if all candidates have failed.
    """
    asked, root = training.asked, training.asked.root.root
    record = replace(claim(root, record), facts={})  # another command may have gone on with it meanwhile
    (root / GRID).remove()
    write_search(root, record)
    with ExitStack() as stack:
        callbacks = stack.enter_context(Callbacks(asked.factories, root))
        begun = [name for name in record.names().values() if candidate_folder(root, name).job.exists()]
        trainer = CandidateTrainer(training, candidate_folder(root, begun[0]) if begun else None, session, stack)
        if begun:  # only to check that it is the same training
            plan_runs(trainer.training_of({begun[0]: record.settings_of(begun[0])}), session, trainer.first)
        callbacks.notify("run_begun", str(root), [], describe(asked))
        record = run_search(root, record, search_of(asked.request), asked.config.seed, trainer)
        best = {name: record.settings_of(name) for name in finishers(root, record)}
        if not best:
            raise all_failed(root, record)
        of_best = trainer.training_of(best).asked
        for folder in of_best.runs.values():
            if not folder.summary.exists():
                merge(of_best, folder, session)
        summaries = of_best.load_summaries()
        result = compare_grid(root, of_best.candidates, summaries, record.metrics)
        write_search_report(root, record, asked.dataset, summaries, result["best"])
        write_json(root / GRID, result)
        callbacks.finish(summaries[result["best"]])
    return result


def check_training(asked: RequestedTraining, helpers: Sequence[Helper]) -> Training:
    """Check the models and the memory that a request needs. Raises UsageError."""
    dataset, models = asked.dataset, math.ceil(asked.models / (1 + len(helpers)))
    parameters = check_candidates(asked.request, asked.candidates, asked.configs, dataset)
    execution = asked.request.model_copy(update={"workers": asked.workers})
    common = next(iter(asked.configs.values()))
    mode = choose_fold_mode(dataset, models, common, execution, parameters, 1 + len(helpers))
    return Training(asked, mode, helpers, check_initial(asked))


def check_candidates(
    request: TrainRequest,
    candidates: Mapping[str, Mapping[str, Any]],
    configs: Mapping[str, TrainConfig],
    dataset: Dataset,
) -> int:
    """Check the models of a request's candidates, or of the ends of its search. Returns the number of parameters of the
    largest one."""
    if not request.search:
        return check_models(configs, dataset)
    with errors_of_space(request):
        return check_corners(candidates, next(iter(configs.values())), dataset)


def check_corners(candidates: Mapping[str, Mapping[str, Any]], common: TrainConfig, dataset: Dataset) -> int:
    """Like `check_models`, for the settings at the ends of a search's space and what is `common` to them: settings that
    do not go together, such as momentum and an optimizer without it, are no error as long as each end goes with some
    others."""
    parameters, fitting = list[int](), list[Mapping[str, Any]]()
    errors = list[UsageError | ModelError]()

    def fits(settings: Mapping[str, Any]) -> bool:
        try:
            parameters.append(check_models(configure({"": settings}, common), dataset))
        except (UsageError, ModelError) as error:
            errors.append(error)
            return False
        fitting.append(settings)
        return True

    failing = [settings for settings in candidates.values() if not fits(settings)]
    if not fitting:
        raise errors[0]
    for name, value in ((name, value) for settings in failing for name, value in settings.items()):
        known = [*fitting]
        if not any(one[name] == value for one in known) and not any(fits({**one, name: value}) for one in known):
            raise UsageError(f"space.{name}: {value} cannot be trained with any of the other ends: {errors[-1]}")
    return max(parameters)


def check_initial(asked: RequestedTraining) -> dict[str, str]:
    """What the models of new runs take over from initial weights. Raises UsageError if nothing of them fits."""
    notes, dataset = dict[str, str](), asked.dataset
    for name, config in asked.configs.items():
        initial = find_initial(asked.runs[name], dataset, config)
        for file in [*initial.files.values()][:1]:
            with torch.random.fork_rng(devices=[]):
                inputs = make_inputs(dataset.schema, config, dataset.statistics)
                model = build_model(config.model, inputs, dataset.schema.outputs, config.model_settings)
            match = match_weights(model, read_initial(file), str(file))
            which = f"{initial.origin}, each fold from its own" if len(initial.files) > 1 else str(initial.origin)
            notes[f"init {name}".strip()] = f"{which}: {match.describe()}"
        if initial.warning:
            notes["warning"] = initial.warning
    return notes


def check_models(configs: Mapping[str, TrainConfig], dataset: Dataset) -> int:
    """Check what each candidate trains. Returns the number of parameters of the largest model.

    Raises UsageError for what cannot be trained on these data.
    """
    schema, parameters = dataset.schema, 0
    for config in configs.values():
        check_config(config, schema)
        x, y, _ = stored_rows(dataset)
        check_augmentation(config.augmentations, schema, x, y)
        with torch.random.fork_rng(devices=[]):  # the user's program gets its random numbers back
            inputs = make_inputs(schema, config, dataset.statistics)
            tried = model_rows(x, inputs)
            model = check_model(config.model, inputs, schema.output_shape, config.model_settings, tried)
            check_optimizer(config.recipe, model)
            if ":" in config.recipe.loss:
                check_own_loss(config.recipe.loss, schema, rows_are_weighted(config, schema))
            check_gradients(config.model, model, tried, config.recipe)
            count = sum(parameter.numel() for parameter in model.parameters())
        parameters = max(parameters, count)
    return parameters


def plan_runs(training: Training, session: Session, like: RunFolder | None = None) -> dict[str, RunFold]:
    """Assign the folds of all runs, and warn of what is odd about them, unless they are those of another run, `like`.
    Returns the folds by their names."""
    dataset, runs = training.asked.dataset, training.asked.runs
    with job_executor(session.listener, session.client) as executor:
        jobs, first = dict[str, RunJob](), like or next(iter(runs.values()))
        for name, config in training.asked.configs.items():
            of = first if like or jobs else None
            jobs[name] = prepare_run(runs[name], dataset, config, executor, session.listener.progress, of)
        executor.publish(RUN, _run_page(training.asked))
    if like is None:  # the folds of all candidates are the same
        warn_of_plan(dataset, open_plan(first.folds), session.listener)
    titles = {name: str(folder.root).rpartition("/")[2] if name else "" for name, folder in runs.items()}
    return {title: one for name in runs for title, one in name_folds(jobs[name], runs[name], titles[name]).items()}


def train_left(training: Training, folds: Mapping[str, RunFold], session: Session) -> None:
    """Train the folds that are not complete: in this process, or by workers on the Ray cluster of the job."""
    announce(training, folds, session)
    with open_trainers(training, folds, session) as trainers:
        execution, asked = execution_of(training, trainers), training.asked
        train_folds(asked.root, folds, execution, trainers, session.listener.progress, asked.until)


def announce(training: Training, folds: Mapping[str, RunFold], session: Session) -> None:
    """Tell what is trained, and how."""
    asked = training.asked
    dataset, config = asked.dataset, next(iter(asked.configs.values()))
    codes = takes_schema(config.model)
    notes = describe_inputs(dataset.schema, dataset.statistics, config.missing, codes, config.inputs)
    notes |= training.notes
    plan = open_plan(next(iter(folds.values())).run.folds)
    rows = [int(training_rows(plan, number).kept().sum()) for number in range(len(plan.models))]
    for name, one in asked.configs.items():
        notes[f"recipe {name}".strip()] = f"{describe_recipe(one.recipe)}; {describe_batches(one, rows)}"
        if one.restarts:
            restarts = ", ".join(map(str, one.restarts))
            notes[f"schedule {name}".strip()] = f"it runs over all epochs, so it starts again after epoch {restarts}"
    if asked.code.files:
        notes["code"] = asked.code.describe()
    for heading, sentence in notes.items():
        session.listener.announce(heading, sentence)


@contextmanager
def open_trainers(training: Training, folds: Mapping[str, RunFold], session: Session) -> Iterator[Trainers]:
    """What trains the folds, in units that follow from the fold mode, which it announces."""
    asked, listener = training.asked, session.listener
    with ExitStack() as stack:
        if not asked.workers:
            count = 1 + len(training.helpers)
            where = "in this process" if count == 1 else f"in {count} processes on this machine"
            how = f"{where}; --workers {USUAL_WORKERS} starts workers on Ray instead"
            listener.announce("models", f"{asked.models} {how}")
            train = partial(train_units_here, helpers=training.helpers)
            trainers = Trainers(training.mode, ONE_PROCESS, train, count, count)
        else:
            from .on_ray import trainers_on_ray  # Ray takes a second to load

            request = asked.request.model_copy(update={"workers": asked.workers})
            trainers = stack.enter_context(trainers_on_ray(request, training.mode, folds, session))
        listener.announce("fold mode", f"{trainers.mode.name}: {trainers.mode.reason}")
        yield trainers


def execution_of(training: Training, trainers: Trainers) -> TrainRequest:
    """The request as workers get it. Callbacks stay in this process."""
    settled = {"fold_mode": trainers.mode.name, "workers": training.asked.workers, "callbacks": ()}
    return training.asked.request.model_copy(update=settled)


def merge(asked: RequestedTraining, run: RunFolder, session: Session) -> None:
    """Merge the predictions of a run whose folds are complete."""
    with job_executor(session.listener, session.client) as executor:
        executor.publish(RUN, _run_page(asked))
        merge_run(run, asked.dataset, executor, session.listener.progress)


def _run_page(asked: RequestedTraining) -> dict[str, str]:
    """Where the dashboard's page finds the run."""
    return {"place": absolute(str(asked.root.root))}


def describe(asked: RequestedTraining) -> dict[str, Any]:
    """The configuration of a run; of a grid what is common to its candidates, and their settings."""
    value = next(iter(asked.configs.values())).model_dump()
    if len(asked.configs) == 1:
        return value
    common = {name: item for name, item in value.items() if name not in ("recipe", "model_settings")}
    return common | ({"search": asked.request.search} if asked.search else {"candidates": asked.candidates})
