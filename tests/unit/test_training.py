"""The loop without Ray: it learns, resumes to the bit, sees the same batches at any world size, scores all rows."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foldstream.cluster.runs.run import prepare_run
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import RunError, UsageError
from foldstream.storage.format.schema import Schema
from foldstream.storage.format.statistics import Statistics
from foldstream.storage.parts import read_part
from foldstream.storage.places.json_files import read_json
from foldstream.storage.places.locate import locate
from foldstream.storage.tasks import SerialExecutor, silent
from foldstream.training.config import TrainConfig
from foldstream.training.engine.fold_reports import MOST_POINTS, LossTrace
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.fitted.inputs import Inputs, plan_inputs
from foldstream.training.model.optimizer import check_optimizer
from foldstream.training.model.weights import load_weights
from foldstream.training.run import RunFolder, RunJob, folds_of, read_result
from foldstream.training.settings import check_config, resolve_settings
from foldstream.training.splits.split import Split
from foldstream.training.stream.order import lane_count
from foldstream.training.zoo.factory import check_model
from torch import nn


def make_job(
    dataset: Dataset, root: Path, settings: dict[str, Any] | None = None, **options: Any
) -> tuple[RunJob, RunFolder]:
    """A run of 3 folds over a dataset, its folds assigned."""
    model = options.pop("model", "digits-cnn")
    recipe, own = resolve_settings(model, settings or {})
    base = TrainConfig(model=model, split=Split(folds=3), epochs=2, batch_size=64, recipe=recipe, model_settings=own)
    run = RunFolder(locate(root))
    return prepare_run(run, dataset, base.model_copy(update=options), SerialExecutor(), silent), run


def train(job: RunJob, run: RunFolder, process: Process | None = None, stop_after: int = 99) -> bytes:
    """Train fold 1 and return its weights; `stop_after` epochs it is cut off, as by a kill."""

    class Cut(BaseException):
        pass

    def notify(fold: int, metrics: dict[str, float]) -> None:
        if metrics["epoch"] >= stop_after:
            raise Cut

    try:
        FoldTrainer(folds_of(job, run, [1]), process or Process()).train(notify)
    except Cut:
        return b""
    return run.fold(1).weights.read_bytes()


def test_a_model_learns_the_digits(digits: Dataset, tmp_path: Path) -> None:
    job, run = make_job(digits, tmp_path, epochs=5)
    train(job, run)
    result = read_result(run.fold(1))
    assert result["metrics"]["accuracy"] > 0.9
    assert result["metrics"]["top3"] >= result["metrics"]["accuracy"]
    assert [h["epoch"] for h in result["history"]] == [1, 2, 3, 4, 5]
    assert result["history"][0]["rows"] + result["history"][0]["dropped"] == 800
    assert run.fold(1).checkpoints.names() == ["epoch-00005-step-000000000.safetensors"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "SGD", "lr": "0.05", "momentum": "0.9", "scheduler": "CosineAnnealingLR", "clip_grad_norm": "1"},
        {"accumulate": "3", "scheduler": "ExponentialLR", "gamma": "0.99", "precision": "bfloat16"},
        {"patience": "2", "label_smoothing": "0.1"},
    ],
    ids=lambda s: "+".join(s) or "defaults",
)
def test_resuming_gives_the_weights_of_an_undisturbed_run(
    settings: dict[str, Any], digits: Dataset, tmp_path: Path
) -> None:
    job, quiet = make_job(digits, tmp_path / "quiet", settings, epochs=3)
    _, cut = make_job(digits, tmp_path / "cut", settings, epochs=3)
    assert train(job, cut, stop_after=1) == b""
    assert not cut.fold(1).done.exists()
    assert train(job, cut) == train(job, quiet)


def test_the_loss_within_epochs_is_recorded_and_averages_to_that_of_the_epoch(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foldstream.training.engine.fold_reports.PROGRESS_SECONDS", 0.0)
    job, run = make_job(digits, tmp_path, epochs=2, model="mlp")
    train(job, run)
    recorded, history = read_json(run.fold(1).steps), read_result(run.fold(1))["history"]
    steps = len(recorded["losses"]) // 2
    assert steps == math.ceil(history[0]["rows"] / 64)
    assert [epochs for epochs, _ in recorded["losses"]] == pytest.approx([n / steps for n in range(1, 2 * steps + 1)])
    for epoch, metrics in enumerate(history):
        losses = [loss for _, loss in recorded["losses"][epoch * steps : (epoch + 1) * steps]]
        rows = [64] * (steps - 1) + [metrics["rows"] - 64 * (steps - 1)]
        assert np.average(losses, weights=rows) == pytest.approx(metrics["train_loss"])
    assert 50e6 < recorded["used"]["memory"] < 1e12


def test_the_record_of_losses_within_epochs_is_bounded() -> None:
    trace = LossTrace()
    for step in range(1, 10 * MOST_POINTS + 1):
        trace.add(float(step), 2.0 * step)
    epochs, losses = np.array(trace.points).T
    assert MOST_POINTS / 2 < len(epochs) <= MOST_POINTS
    assert (np.diff(epochs) == trace.stride).all()
    assert losses.tolist() == (2 * epochs - trace.stride + 1).tolist(), "means of the steps since the point before"


def test_early_stopping_keeps_the_best_weights(digits: Dataset, tmp_path: Path) -> None:
    job, run = make_job(
        digits, tmp_path, {"patience": 1, "lr": 10.0, "scheduler": "ConstantLR"}, epochs=20, model="mlp"
    )
    train(job, run)
    result = read_result(run.fold(1))
    losses = [epoch["loss"] for epoch in result["history"]]
    assert len(losses) < 20
    assert result["metrics"]["loss"] == min(losses)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch about its own
def test_a_compiled_model_learns_the_same(digits: Dataset, tmp_path: Path) -> None:
    losses = []
    for compiled in (False, True):
        job, run = make_job(digits, tmp_path / str(compiled), {"compile": compiled}, epochs=2, model="mlp")
        train(job, run)
        losses.append([epoch["train_loss"] for epoch in read_result(run.fold(1))["history"]])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_loss_that_is_not_finite_ends_the_training_with_the_remedy(digits: Dataset, tmp_path: Path) -> None:
    settings = {"lr": 1e30, "optimizer": "SGD", "scheduler": "ConstantLR", "hidden": 8}
    job, run = make_job(digits, tmp_path, settings, model="mlp")
    with pytest.raises(RunError, match=r"fold 1, epoch 1: the training loss is (nan|inf), .* \(--set lr="):
        train(job, run)


def test_another_seed_gives_other_weights(digits: Dataset, tmp_path: Path) -> None:
    one, run_one = make_job(digits, tmp_path / "0", epochs=1, seed=0)
    two, run_two = make_job(digits, tmp_path / "1", epochs=1, seed=1)
    assert train(one, run_one) != train(two, run_two)


RANK = """
import sys
from foldstream.storage.places.locate import locate
from foldstream.training.engine.fold_reports import MOST_POINTS, LossTrace
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import local_group
from foldstream.training.run import RunFolder, folds_of, load_job

rank, root, rendezvous = int(sys.argv[1]), RunFolder(locate(sys.argv[2])), sys.argv[3]
with local_group(rank, 2, rendezvous) as process:
    for group in sys.argv[4].split():
        FoldTrainer(folds_of(load_job(root), root, map(int, group.split(","))), process).train()
"""


def train_on_two_ranks(run: RunFolder, groups: str, meet: Path) -> None:
    """Train groups of folds one after the other, as in `0 1,2`, with two processes."""
    command = [sys.executable, "-c", RANK]
    ranks = [subprocess.Popen([*command, str(rank), str(run.root), str(meet), groups]) for rank in range(2)]
    assert [process.wait(timeout=200) for process in ranks] == [0, 0]


def fold_bytes(run: RunFolder) -> list[tuple[bytes, list[bytes]]]:
    """The weights and the predictions of every fold."""
    folders = [run.fold(fold) for fold in range(3)]
    return [(f.weights.read_bytes(), [(f.parts / part).read_bytes() for part in f.parts.names()]) for f in folders]


@pytest.mark.parametrize(
    "settings", [{}, {"patience": "2", "lr": "0.05"}, {"accumulate": "3"}], ids=lambda s: "+".join(s) or "defaults"
)
def test_folds_from_one_pass_are_those_that_are_trained_one_by_one(
    settings: dict[str, Any], digits: Dataset, tmp_path: Path
) -> None:
    job, one_by_one = make_job(digits, tmp_path / "runs", settings, epochs=5)
    for fold in range(3):
        FoldTrainer(folds_of(job, one_by_one, [fold]), Process()).train()
    _, fused = make_job(digits, tmp_path / "fused", settings, epochs=5)
    FoldTrainer(folds_of(job, fused, range(3)), Process()).train()
    assert fold_bytes(fused) == fold_bytes(one_by_one)
    for fold in range(3):
        one, other = (read_result(run.fold(fold))["history"] for run in (fused, one_by_one))
        for key in ("loss", "train_loss", "accuracy", "top3", "rows", "dropped"):
            assert [epoch[key] for epoch in one] == [epoch[key] for epoch in other]


def test_candidates_from_one_pass_are_those_that_are_trained_one_by_one(digits: Dataset, tmp_path: Path) -> None:
    together, alone = list[tuple[RunJob, RunFolder]](), list[tuple[RunJob, RunFolder]]()
    candidates: list[dict[str, Any]] = [{"lr": 0.01}, {"accumulate": 2}, {"dropout": 0.5, "patience": 1}]
    for number, settings in enumerate(candidates):
        for group, name in ((together, "together"), (alone, "alone")):
            job, run = make_job(digits, tmp_path / name / str(number), settings, epochs=3)
            group.append((job, run))
    for job, run in alone:
        FoldTrainer(folds_of(job, run, range(3)), Process()).train()
    FoldTrainer([one for job, run in together for one in folds_of(job, run, range(3))], Process()).train()
    assert [fold_bytes(run) for _, run in together] == [fold_bytes(run) for _, run in alone]


def test_a_trainer_is_silent_only_while_it_writes(digits: Dataset, tmp_path: Path) -> None:
    job, run = make_job(digits, tmp_path, epochs=2)
    beats: list[bool] = []
    FoldTrainer(folds_of(job, run, [0, 1]), Process(), heartbeat=beats.append).train()
    writings = [position for position, working in enumerate(beats) if not working]
    assert len(writings) == 3, "two checkpoints, and the end"
    assert all(beats[position + 1] for position in writings[:2])
    assert writings[2] == len(beats) - 1


def test_a_pass_that_was_cut_goes_on_with_folds_at_different_epochs(digits: Dataset, tmp_path: Path) -> None:
    job, quiet = make_job(digits, tmp_path / "quiet", epochs=3)
    FoldTrainer(folds_of(job, quiet, range(3)), Process()).train()
    _, cut = make_job(digits, tmp_path / "cut", epochs=3)

    class Cut(BaseException):
        pass

    def notify(fold: int, metrics: dict[str, Any]) -> None:
        if fold == 1 and metrics["epoch"] == 2:  # fold 2 has no checkpoint of its second epoch yet
            raise Cut

    with pytest.raises(Cut):
        FoldTrainer(folds_of(job, cut, range(3)), Process()).train(notify)
    FoldTrainer(folds_of(job, cut, [0]), Process()).train()  # one of them alone, and the others from one pass
    FoldTrainer(folds_of(job, cut, [1, 2]), Process()).train()
    assert fold_bytes(cut) == fold_bytes(quiet)


def test_two_ranks_train_together_and_predict_every_row_once(digits: Dataset, tmp_path: Path) -> None:
    _, run = make_job(digits, tmp_path / "run", epochs=3)
    train_on_two_ranks(run, "1", tmp_path / "meet")
    parts = [read_part(run.fold(1).parts, shard) for shard in range(digits.layout.shards)]
    ids = np.concatenate([part[0] for part in parts if part])
    assert len(ids) == len(set(ids.tolist())) == 400
    assert read_result(run.fold(1))["metrics"]["accuracy"] > 0.8


@pytest.mark.parametrize(
    "settings",
    [{}, {"patience": "1", "lr": "0.05", "cycle_momentum": "true"}, {"accumulate": "3"}],
    ids=lambda s: "+".join(s) or "defaults",
)
def test_two_ranks_and_one_give_the_same_folds_from_one_pass_and_one_by_one(
    settings: dict[str, Any], digits: Dataset, tmp_path: Path
) -> None:
    """One by one, two ranks average their gradients; from one pass each trains folds of its own, and the third fold
    goes from rank to rank; one rank computes the shares of two. With early stopping ranks train the last fold
    together."""
    runs = {}
    for name in ("one by one", "fused", "alone"):
        job, runs[name] = make_job(digits, tmp_path / name, settings, epochs=4, shares=2)
    train_on_two_ranks(runs["one by one"], "0 1 2", tmp_path / "meet-1")
    train_on_two_ranks(runs["fused"], "0,1,2", tmp_path / "meet-2")
    FoldTrainer(folds_of(job, runs["alone"], range(3)), Process()).train()
    weights = {name: [run.fold(fold).weights.read_bytes() for fold in range(3)] for name, run in runs.items()}
    assert weights["fused"] == weights["one by one"]
    assert weights["alone"] == weights["one by one"]
    assert fold_bytes(runs["fused"]) == fold_bytes(runs["one by one"])
    epochs = [len(read_result(runs["fused"].fold(fold))["history"]) for fold in range(3)]
    assert ("patience" not in settings) or len(set(epochs)) > 1, "no fold stopped before the others"


BUFFERS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, sample_shape, outputs):
        super().__init__()
        self.layer = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16), nn.Linear(16, outputs))
        self.register_buffer("table", torch.arange(251, dtype=torch.uint8))
        self.register_buffer("mask", torch.arange(37) % 3 == 0)
        self.register_buffer("large", torch.tensor([2**62 + 1, -5]))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int32))

    def forward(self, x):
        if self.training:
            self.steps += 1
        return self.layer(x)
"""


def test_buffers_that_are_no_statistics_come_through_workers_as_they_are(digits: Dataset, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(BUFFERS)
    job, alone = make_job(digits, tmp_path / "alone", model=f"{tmp_path / 'own.py'}:Net", shares=2)
    _, together = make_job(digits, tmp_path / "together", model=f"{tmp_path / 'own.py'}:Net", shares=2)
    FoldTrainer(folds_of(job, alone, range(3)), Process()).train()
    train_on_two_ranks(together, "0 1 2", tmp_path / "meet")
    assert fold_bytes(together) == fold_bytes(alone)
    weights = load_weights(together.fold(0).weights)
    assert weights["table"].tolist() == list(range(251))
    assert weights["mask"].tolist() == [number % 3 == 0 for number in range(37)]
    assert weights["large"].tolist() == [2**62 + 1, -5]
    assert weights["steps"].item() == 2 * math.ceil(800 / 64)


@pytest.mark.parametrize(("workers", "lanes"), [(1, 8), (2, 8), (3, 24), (8, 8), (12, 24), (64, 64)])
def test_lanes_are_the_smallest_multiple_of_8_that_the_workers_divide(workers: int, lanes: int) -> None:
    assert lane_count(workers) == lanes


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TrainConfig(batch_size=3, shares=4), "use --batch-size 4 or more"),
        (TrainConfig(split=Split(folds=300)), "between 2 and 100"),
    ],
)
def test_configurations_that_cannot_train_are_refused(config: TrainConfig, message: str, digits: Dataset) -> None:
    with pytest.raises(UsageError, match=message):
        check_config(config, digits.schema)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "Adamw"}, "did you mean .AdamW."),
        ({"loss": "mse_loss"}, "does not fit a classification"),
        ({"momentum": 0.9}, "AdamW has no momentum"),
        ({"accumulate": "1.5"}, "--set accumulate=1.5: must be a whole number"),
        ({"lr": "nan"}, "--set lr=nan: must be finite"),
        ({"compile": "yes"}, "--set compile=yes: must be true or false"),
        ({"accumulate": "inf"}, "--set accumulate=inf: must be a whole number"),
        ({"step_size": 0}, "step_size=0: must be at least 1"),
        ({"optimizer": "LBFGS"}, "optimizer=LBFGS .* cannot train"),
        ({"scheduler": "OneCycle"}, "did you mean .OneCycleLR."),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str, digits: Dataset) -> None:
    def resolve_and_check() -> None:
        recipe, own = resolve_settings("mlp", settings)
        check_config(TrainConfig(model="mlp", recipe=recipe, model_settings=own), digits.schema)
        check_optimizer(recipe, nn.Linear(2, 2, bias=False))

    with pytest.raises(UsageError, match=message):
        resolve_and_check()


def vectors(width: int) -> Inputs:
    """The inputs of a model for rows of that many numbers."""
    one = (0.0,) * width
    return plan_inputs(Schema(tuple(map(str, range(width))), (width,), "uint8"), Statistics(one, one, one, one))


def test_a_model_of_a_package_is_found_by_its_name() -> None:
    check_model("foldstream.training.zoo.networks:mlp", vectors(4), (2,), {"hidden": 8})
    with pytest.raises(UsageError, match="not a torch"):
        check_model("operator:contains", vectors(4), (2,), {})
    with pytest.raises(UsageError, match="cannot be imported: ModuleNotFoundError"):
        check_model("no_such_package.models:make", vectors(4), (2,), {})


def test_built_in_image_models_refuse_vectors() -> None:
    with pytest.raises(UsageError, match="--shape 1,28,28"):
        check_model("digits-cnn", vectors(784), (10,), {})
