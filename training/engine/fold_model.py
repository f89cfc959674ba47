"""One fold's model on one rank: training, evaluation, checkpoints and reports."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ...storage.errors import RunError
from ...storage.fold_plan import FoldPlan
from ...storage.format.statistics import Statistics
from ...storage.places.json_files import write_json
from ..config import CheckpointPolicy
from ..fitted.inputs import Inputs
from ..fitted.statistics import fitted_statistics
from ..model.augmentation import make_augmentation
from ..model.initial import read_initial, start_from
from ..model.objective import Normalizer, make_inputs, make_model, make_objective
from ..model.optimizer import make_optimizer
from ..model.prediction import Predictor
from ..model.weights import save_weights
from ..run import FoldFolder, RunFold, epochs_of
from ..settings import own_metrics, scoring_of
from ..stream.order import check_last_batch, used_batches
from .evaluation import HeldOutEvaluator
from .fold_checkpoints import FoldCheckpoints, FoldState
from .fold_reports import FoldReports
from .learner import Learner, Network, RateSchedule, with_sync_batchnorm
from .process import Process
from .shares import Rows

LOSSES = {"train_loss": "training", "loss": "validation"}


@dataclass(eq=False)
class FoldModel:
    """A fold's model, with its `number` among the models that are trained together. `dropped` training rows are not
    used in each epoch."""

    number: int
    run_fold: RunFold
    folder: FoldFolder
    dropped: int
    statistics: Statistics
    """Statistics of the model's training rows."""
    learner: Learner
    evaluator: HeldOutEvaluator
    state: FoldState
    checkpoints: FoldCheckpoints
    reports: FoldReports

    @property
    def network(self) -> Network:
        return self.learner.network

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return self.learner.batches.rows

    def begin_pass(self, numbers: Sequence[int], count: int, together: bool) -> None:
        """Begin the next epoch; see `Learner.begin_pass`."""
        if self.state.step == 0:
            self.learner.schedule.begin_epoch(self.state.epoch)
        self.learner.begin_pass(numbers, count, together)
        self.reports.begin_epoch(self.learner.current.losses.sum().item())

    def train_step(self, parts: Sequence[Rows], step: int) -> None:
        """Train on a batch, given by the rows of each share."""
        self.learner.add_gradients(parts, self.state.epoch, step)
        self.end_step(step)

    def end_step(self, step: int) -> None:
        """Update the weights after every `accumulate` batches and after the last batch of the epoch, and write a
        progress update if one is due."""
        state, network = self.state, self.network
        if self.learner.ends_update(step):
            self.learner.update()
            state.step = step + 1
        if self.reports.is_due() and (network.process.is_main or not network.together):
            current = self.learner.current
            mean = self.reports.losses.mean_since(current.losses.sum().item(), current.rows)
            loss = None if mean is None else self.learner.objective.in_units(mean)
            self.reports.write_step(state.epoch + (step + 1) / state.steps, loss)

    def divergence(self, metrics: dict[str, Any]) -> str:
        """Which loss of an epoch is not finite, from which the training cannot recover; empty if all are."""
        wrong = [
            f"the {words} loss is {metrics[name]}" for name, words in LOSSES.items() if not _is_finite(metrics, name)
        ]
        return wrong[0] if wrong else ""

    def end_epoch(self, metrics: dict[str, Any]) -> None:
        """Add the metrics of an epoch, and with early stopping keep the weights of the best one.

        Raises RunError where a loss is not finite, because the training cannot recover from that, and where the
        monitored metric is not defined.
        """
        if reason := self.divergence(metrics):
            raise RunError(
                f"{self.run_fold.run.root}, fold {self.run_fold.fold}, epoch {self.state.epoch + 1}: {reason}, so "
                "training has diverged; start a new run with a lower learning rate (--set lr=…, currently "
                f"{self.network.recipe.lr:g}) or with gradient clipping (--set clip_grad_norm=1)"
            )
        if "loss" in metrics and self.state.monitored not in metrics:
            raise RunError(
                f"{self.run_fold.run.root}, fold {self.run_fold.fold}: --monitor {self.state.monitored} is not defined "
                "for its held-out rows, e.g. because they are all of one class; start a new run with fewer folds, "
                "--split stratified, or another metric"
            )
        if self.state.improves(metrics):
            weights = {name: tensor.clone() for name, tensor in self.network.module.state_dict().items()}
            score = self.state.score(metrics)
            self.state.best = {"score": score, "epoch": self.state.epoch + 1, "weights": weights}
        if "loss" in metrics:
            self.learner.schedule.step(metrics[self.state.monitored])
        self.state.end_epoch(metrics)

    def write_reports(self) -> None:
        """Write the reports on the last epoch."""
        self.reports.write_epoch(self.state.history, float(self.learner.schedule.now.get_last_lr()[0]))

    def final_predictor(self) -> Predictor:
        """The final model for prediction; with early stopping, it has the best weights."""
        model, learner = self.network.model, self.learner
        if self.state.best:
            self.network.use_weights(self.state.best["weights"])
        return Predictor(model, learner.prepare, learner.objective, self.network.process.device)

    def write_rung(self, epochs: int) -> None:
        """Write the result with which the fold pauses after so many epochs, once its checkpoint is written."""
        state = self.state
        result = {"fold": self.run_fold.fold, "metrics": state.final_metrics, "history": state.history[:epochs]}
        self.folder.root.sync_folders()
        write_json(self.folder.rung(epochs), result)

    def write_divergence(self, reason: str) -> None:
        """Write in which epoch the fold has diverged, and why."""
        result = {"fold": self.run_fold.fold, "epoch": self.state.epoch + 1, "reason": reason}
        write_json(self.folder.diverged, {**result, "rows": self.rows, "history": self.state.history})

    def finish(self) -> None:
        """Write the weights and the completion marker, once all ranks have written their predictions."""
        weights = save_weights(self.folder.weights, self.network.model.state_dict())
        result = {"fold": self.run_fold.fold, "metrics": self.state.final_metrics, "history": self.state.history}
        self.reports.finish(self.state.history)
        self.folder.root.sync_folders()
        write_json(self.folder.done, {**result, "statistics": asdict(self.statistics), "weights": weights})


def _is_finite(metrics: dict[str, Any], name: str) -> bool:
    return math.isfinite(metrics.get(name, 0.0))


def make_fold_model(
    number: int,
    run_fold: RunFold,
    plan: FoldPlan,
    process: Process,
    rows: int,
    shards: int,
    policy: CheckpointPolicy,
) -> FoldModel:
    """Create the model of a fold of the plan, the `number`-th of the models that are trained together. The fold has
    `rows` training rows; the number of shards is 0 if it has no held-out rows."""
    job, config, device = run_fold.job, run_fold.job.config, process.device
    recipe, folder = config.recipe, run_fold.run.fold(run_fold.fold)
    batches = used_batches(rows, config.batch_size, config.least_rows)
    check_last_batch(batches, process.world_size)
    statistics = fitted_statistics(plan, run_fold.fold)
    objective = make_objective(job, statistics).to(device)
    scoring = scoring_of(job.schema, config, statistics.y_mean)
    higher = scoring.higher_is_better(config.monitored)
    inputs = make_inputs(job.schema, job.config, statistics)
    prepare = Normalizer(inputs).to(device)
    network = _make_network(run_fold, inputs, process)
    optimizer = make_optimizer(network.module, recipe)
    schedule = RateSchedule(
        optimizer,
        recipe,
        math.ceil(batches.steps / recipe.accumulate),
        (*config.restarts, config.epochs),
        "max" if higher else "min",
    )
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "float16")
    augmentation = make_augmentation(config.augmentations, job.schema)
    learner = Learner(run_fold, batches, network, prepare, objective, optimizer, schedule, scaler, augmentation)
    evaluator = HeldOutEvaluator(network.model, prepare, objective, scoring, own_metrics(config), process, shards)
    patience = recipe.patience if shards else 0
    state = FoldState(batches.steps, epochs_of(run_fold), patience, config.monitored, higher)
    checkpoints = FoldCheckpoints(folder, policy, state, learner)
    dropped, reports = rows - batches.rows, FoldReports(folder, device)
    return FoldModel(number, run_fold, folder, dropped, statistics, learner, evaluator, state, checkpoints, reports)


def _make_network(run_fold: RunFold, inputs: Inputs, process: Process) -> Network:
    recipe = run_fold.job.config.recipe
    model = make_model(run_fold.job, run_fold.fold, inputs).to(process.device)
    if run_fold.job.initial:
        name, expected = run_fold.job.initial_of(run_fold.fold)
        start_from(model, read_initial(run_fold.run.initial / name, expected), str(run_fold.job.config.init))
    if recipe.sync_batchnorm:
        model = with_sync_batchnorm(model, process)
    if recipe.strategy != "fsdp" or process.world_size == 1:
        return Network(model, None, process, recipe)
    from .sharded import ShardedModel  # only here: it takes a second to load

    return Network(model, ShardedModel(model, process), process, recipe)
