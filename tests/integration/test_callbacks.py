"""A run tells callbacks of the user's own, MLflow, Weights & Biases and Prometheus what happens in it."""

from pathlib import Path
from typing import Any
from urllib.request import urlopen

import foldstream as fs
import mlflow
import pytest
import wandb
from foldstream.storage.dataset import Dataset
from foldstream.storage.places.json_files import read_json
from prometheus_client.parser import text_string_to_metric_families

from ..object_store import free_ports


class Told(fs.Callback):
    """Keeps what it is told, and what Prometheus would see meanwhile."""

    def __init__(self, port: int) -> None:
        self.port, self.moments, self.samples = port, list[tuple[str, Any]](), dict[tuple[str, str], float]()

    def run_begun(self, run: str, folds: Any, config: Any) -> None:
        self.moments.append(("run_begun", list(folds)))

    def fold_begun(self, fold: str, attempt: int) -> None:
        self.moments.append(("fold_begun", (fold, attempt)))

    def epoch_ended(self, fold: str, epoch: int, metrics: Any) -> None:
        self.moments.append((f"epoch of {fold}", (epoch, metrics["loss"])))

    def fold_ended(self, fold: str, metrics: Any) -> None:
        self.moments.append(("fold_ended", fold))

    def run_ended(self, summary: Any) -> None:
        self.moments.append(("run_ended", summary["out_of_fold"]))
        with urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
            for family in text_string_to_metric_families(answer.read().decode()):
                for sample in family.samples:
                    self.samples[sample.name, ",".join(sample.labels.values())] = sample.value

    def close(self) -> None:
        self.moments.append(("close", None))


class Failing(fs.Callback):
    """Fails at the first epoch."""

    told = 0

    def epoch_ended(self, fold: str, epoch: int, metrics: Any) -> None:
        self.told += 1
        raise ValueError("no more room")


def test_callbacks_are_told_of_a_run(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a database wants more of MLflow than a client has
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    (port,) = free_ports(1)
    own, failing, run = Told(port), Failing(), tmp_path / "run"
    callbacks: list[str | fs.Callback] = [failing, "mlflow=digits", "wandb=digits", f"prometheus={port}", own]
    options: dict[str, Any] = {"model": "mlp", "folds": 2, "epochs": 2, "batch_size": 64}
    summary = fs.train(digits.root, run, callbacks=callbacks, **options).summary
    wandb.teardown()  # its process otherwise lives as long as this one
    history = [read_json(run / "folds" / str(fold) / "done.json")["history"] for fold in range(2)]
    assert own.moments[0] == ("run_begun", ["fold 0", "fold 1"])
    assert own.moments[-2:] == [("run_ended", summary["out_of_fold"]), ("close", None)]
    for fold in range(2):
        expected = [(epoch["epoch"], epoch["loss"]) for epoch in history[fold]]
        assert [what for name, what in own.moments if name == f"epoch of fold {fold}"] == expected
        assert own.moments.count(("fold_begun", (f"fold {fold}", 1))) == 1
        assert own.moments.count(("fold_ended", f"fold {fold}")) == 1
        assert own.samples["foldstream_fold_metric", f"fold {fold},loss"] == history[fold][-1]["loss"]
        assert own.samples["foldstream_fold_epochs", f"fold {fold}"] == 2
    assert own.samples["foldstream_folds_done", ""] == 2
    with pytest.raises(OSError, match="refused"):
        urlopen(f"http://127.0.0.1:{port}/metrics")
    (logged,) = mlflow.search_runs(experiment_names=["digits"], output_format="list")
    assert logged.data.metrics["fold 1/loss"] == history[1][-1]["loss"]
    assert logged.data.metrics["fold 1/f1_4"] == history[1][-1]["f1/4"]
    assert logged.data.metrics["out_of_fold/accuracy"] == summary["out_of_fold"]["accuracy"]
    assert (logged.data.params["epochs"], logged.info.status) == ("2", "FINISHED")
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert failing.told == 1
    assert "Failing.epoch_ended failed; it receives no more events" in caplog.text
    before = len(own.moments)
    assert fs.train(digits.root, run, callbacks=[own], **options).summary == summary
    assert own.moments[before:] == [], "of a run that is complete there is nothing to tell"
