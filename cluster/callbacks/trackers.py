"""Callbacks for experiment trackers: MLflow, Weights & Biases, Prometheus. Their packages are optional extras.

Each takes an argument, `--callback NAME=ARGUMENT`: an experiment, a project or a port.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from ...storage.errors import UsageError
from ..loopback import LOOPBACK
from .callback import Callback

PROMETHEUS_PORT = 9464


def numbers_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numeric values among an epoch's metrics."""
    return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested configuration to dotted names."""
    found: dict[str, Any] = {}
    for name, item in value.items():
        found |= flatten(item, f"{prefix}{name}.") if isinstance(item, Mapping) else {f"{prefix}{name}": item}
    return found


def mlflow_name(*parts: str) -> str:
    """A name of parts that MLflow allows. Slashes separate the parts only, because MLflow may store names as paths of
    files: `f1` and `f1/cat` cannot both be metrics."""
    return "/".join(re.sub(r"[^\w.: -]", "_", part) for part in parts)


class Mlflow(Callback):
    """Logs a run to MLflow: one MLflow run, with the metrics of every fold by epoch. Set MLFLOW_TRACKING_URI to choose
    the server."""

    def __init__(self, experiment: str = "foldstream") -> None:
        import mlflow

        self.client, self.experiment = mlflow.MlflowClient(), experiment
        self.run, self.status = "", "FAILED"

    def run_begun(self, run: str, folds: Sequence[str], config: Mapping[str, Any]) -> None:
        known = self.client.get_experiment_by_name(self.experiment)
        experiment = known.experiment_id if known else self.client.create_experiment(self.experiment)
        created = self.client.create_run(experiment, run_name=PurePosixPath(run).name, tags={"foldstream.run": run})
        self.run = created.info.run_id
        for name, value in flatten(config).items():
            self.client.log_param(self.run, mlflow_name(name), value)

    def epoch_ended(self, fold: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        for name, value in numbers_of(metrics).items():
            self.client.log_metric(self.run, mlflow_name(fold, name), value, step=epoch)

    def run_ended(self, summary: Mapping[str, Any]) -> None:
        for name, value in summary["out_of_fold"].items():
            self.client.log_metric(self.run, mlflow_name("out_of_fold", name), value)
        self.status = "FINISHED"

    def close(self) -> None:
        if self.run:
            self.client.set_terminated(self.run, self.status)


class Wandb(Callback):
    """Logs a run to Weights & Biases: one W&B run, with the metrics of every fold by epoch. Set WANDB_MODE=offline to
    log to local files."""

    def __init__(self, project: str = "foldstream") -> None:
        import wandb

        self.wandb, self.project, self.code = wandb, project, 1
        self.run: Any = None

    def run_begun(self, run: str, folds: Sequence[str], config: Mapping[str, Any]) -> None:
        self.run = self.wandb.init(project=self.project, name=PurePosixPath(run).name, config=flatten(config))
        for fold in folds:  # folds reach the same epoch at different times
            self.run.define_metric(f"{fold}/*", step_metric=f"{fold}/epoch")

    def epoch_ended(self, fold: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        self.run.log({f"{fold}/{name}": value for name, value in numbers_of({**metrics, "epoch": epoch}).items()})

    def run_ended(self, summary: Mapping[str, Any]) -> None:
        self.run.summary.update({f"out_of_fold/{name}": value for name, value in summary["out_of_fold"].items()})
        self.code = 0

    def close(self) -> None:
        if self.run:
            self.run.finish(exit_code=self.code)


class Prometheus(Callback):
    """Serves the progress and latest metrics of every fold to Prometheus, on loopback, while the run trains."""

    def __init__(self, port: str = str(PROMETHEUS_PORT)) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

        if not port.isdecimal():
            raise UsageError(f"--callback prometheus={port}: not a port number; use e.g. prometheus={PROMETHEUS_PORT}")
        registry = CollectorRegistry()
        self.epochs = Gauge("foldstream_fold_epochs", "Completed epochs of a fold.", ["fold"], registry=registry)
        self.metrics = Gauge(
            "foldstream_fold_metric", "Metrics of a fold's last epoch.", ["fold", "metric"], registry=registry
        )
        self.spent = Gauge(
            "foldstream_rank_seconds",
            "Time that a rank spent on each activity in the last epoch.",
            ["fold", "rank", "on"],
            registry=registry,
        )
        self.attempts = Counter("foldstream_attempts", "Attempts to train a fold.", ["fold"], registry=registry)
        self.failures = Counter("foldstream_failures", "Failed attempts to train a fold.", ["fold"], registry=registry)
        self.done = Gauge("foldstream_folds_done", "Folds that this command has fully trained.", registry=registry)
        try:
            self.server, self.thread = start_http_server(int(port), LOOPBACK, registry)
        except (OSError, OverflowError) as error:
            raise UsageError(f"--callback prometheus={port}: {error}; choose another port") from None

    def fold_begun(self, fold: str, attempt: int) -> None:
        self.attempts.labels(fold).inc()

    def epoch_ended(self, fold: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        self.epochs.labels(fold).set(epoch)
        for name, value in numbers_of(metrics).items():
            self.metrics.labels(fold, name).set(value)
        for rank, spent in enumerate(metrics["ranks"]):
            for name, seconds in spent.items():
                self.spent.labels(fold, rank, name).set(seconds)

    def fold_failed(self, fold: str, attempt: int, error: str) -> None:
        self.failures.labels(fold).inc()

    def fold_ended(self, fold: str, metrics: Mapping[str, Any]) -> None:
        self.done.inc()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
