"""Train a run. Problems that the metadata reveals are reported at once, before torch, Ray and Dask are imported."""

import gc
from contextlib import ExitStack, closing
from typing import Any

from ...storage.errors import disk_in_words
from ...storage.machine import no_garbage_collection
from ...training.ray.helper import Helper
from ...training.run import SEARCH_PAGE, RunFolder, best_folder
from ...training.stopping import stoppable
from ..prediction.members import check_below
from ..requests import Session, TrainRequest
from ..runs.workers import helper_count
from .training_request import RequestedTraining, check_request, complete_result


def run_training(request: TrainRequest, session: Session) -> dict[str, Any]:
    """Train a model for each fold and merge the out-of-fold predictions; see `train`."""
    asked = check_request(request)
    session.listener.announce("training", f"{asked.config.model} on {request.dataset}, in {request.run}")
    result = complete_result(asked) or _train(asked, session)
    if asked.search:
        session.listener.announce("search report", str(asked.root.root / SEARCH_PAGE))
    session.listener.announce("report", str(RunFolder(best_folder(asked.root.root)).page))
    return result


def _train(asked: RequestedTraining, session: Session) -> dict[str, Any]:
    """Train the folds that are not complete."""
    check_below(asked.dataset)
    root = asked.root.root
    busy = f"{root} is being trained by another command; wait for it to finish, or stop it"
    with ExitStack() as stack:
        stack.enter_context(stoppable())
        stack.callback(gc.unfreeze)
        count = 0 if asked.stacked else helper_count(asked.request, asked.dataset, asked.models, asked.config.epochs)
        helpers = [stack.enter_context(closing(Helper())) for _ in range(count)]
        with no_garbage_collection():
            from .training import check_training, train_runs  # only now: the others load torch meanwhile

            training = check_training(asked, helpers)
        with disk_in_words(root), root.lock(busy):
            return train_runs(training, session)
