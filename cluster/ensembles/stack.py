"""Out-of-fold predictions of runs as the features of a dataset, and a model that is trained on them."""

from collections.abc import Sequence
from typing import Any

from ...pipeline.stacking.convert import convert_stack
from ...pipeline.stacking.spec import StackedRun
from ...pipeline.stacking.spec import StackRequest as Stacking
from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import UsageError, disk_in_words
from ...storage.fold_plan import open_plan
from ...storage.format.manifest import PLAN_OF_RUNS, PLANS
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...training.run import STACKER
from ...training.splits.copied import split_in
from ...training.splits.plan import make_plan
from ..api.train import run_training
from ..dask.executor import job_executor
from ..prediction.members import names_of, stamp_of
from ..requests import Session, StackRequest, TrainRequest
from .fitting import Candidate, find_candidates

FEATURES = "features.zarr"
LINEAR, EPOCHS = {"layers": 0, "lr": 0.05}, 20
"""The settings of the model on predictions, a perceptron without hidden layers: it has few weights, so few rows
suffice."""


def stack_runs(request: StackRequest, session: Session) -> Dataset:
    """Make the dataset of a request, with the folds of its runs.

    Raises UsageError for runs that do not fit together, and ConflictError if the place contains something else.
    """
    members = find_candidates([str(run) for run in request.runs], least=1)
    return write_stack(members, locate(str(request.out)), request.only, session, request.dask, request.overwrite)


def write_stack(
    members: Sequence[Candidate],
    out: Place,
    only: bool,
    session: Session,
    dask: str | None = None,
    overwrite: bool = False,
) -> Dataset:
    """Write the dataset of the members' predictions, then its fold plan: without it, nothing trains on the dataset."""
    dataset, first = members[0].job.open_data(), members[0]
    if dataset.schema.stacked:
        raise UsageError(
            f"{first.place}: its features are predictions already; stack its runs together with others instead"
        )
    plan = open_plan(first.run.folds)
    names, held = names_of([str(member.place) for member in members]), bool(plan.holdout.held_out)
    runs = tuple(
        StackedRun(
            str(member.run.root),
            stamp_of(member.run),
            name,
            str(member.run.oof),
            str(member.run.holdout) if held else None,
        )
        for member, name in zip(members, names, strict=True)
    )
    request = Stacking(dataset.reference, dataset.identity, runs, only)
    with disk_in_words(out), job_executor(session.listener, session.client, dask) as executor:
        progress = session.listener.progress
        made = convert_stack(request, out, executor, progress, overwrite)
        place = made.place / PLANS / PLAN_OF_RUNS
        make_plan(made, split_in(plan), place, executor=executor, progress=progress, source=plan)
    return open_dataset(made.place)


def train_stacker(members: Sequence[Candidate], root: Place, session: Session) -> dict[str, Any]:
    """Train a linear model on the predictions of the members, with their folds, in the folder of an ensemble. Returns
    the summary of its run."""
    features = write_stack(members, root / FEATURES, only=True, session=session)
    place, run, seed = str(features.place), str(root / STACKER), members[0].job.config.seed
    request = TrainRequest(dataset=place, run=run, model="mlp", settings=LINEAR, epochs=EPOCHS, seed=seed)
    return run_training(request, session)
