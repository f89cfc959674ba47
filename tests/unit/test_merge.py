"""Merged predictions cover each row once, or it is an error that says which rows and why."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foldstream.pipeline.predictions.merge import merge_predictions
from foldstream.pipeline.predictions.scores import Scorer, ScoreTotals
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import Dataset, open_arrays
from foldstream.storage.errors import RunError
from foldstream.storage.fold_plan import FoldPlan
from foldstream.storage.format.schema import Schema
from foldstream.storage.metrics.scoring import Scoring
from foldstream.storage.parts import write_part
from foldstream.storage.places.locate import locate
from foldstream.storage.places.place import Place
from foldstream.storage.tasks import SerialExecutor
from foldstream.training.splits.plan import make_plan
from foldstream.training.splits.split import Split
from foldstream.training.stream.filters import held_out_rows
from scipy.stats import bootstrap
from sklearn.metrics import confusion_matrix


@dataclass(frozen=True)
class Parts:
    """A fold plan, and parts of random probabilities for each of its models, (models, rows, 10)."""

    plan: FoldPlan
    folders: tuple[Place, ...]
    values: np.ndarray

    def held_out(self, model: int, shard: int) -> np.ndarray:
        """The rows of a shard that are held out from a model."""
        start, _ = self.plan.layout.shard_range(shard)
        return start + np.flatnonzero(held_out_rows(self.plan, model).mask(self.plan.layout.blocks_of(shard)))


def write_parts(dataset: Dataset, root: Path, split: Split = Split(folds=2)) -> Parts:  # noqa: B008 - it is frozen
    plan = make_plan(dataset, split, root / "folds.zarr")
    models = range(len(plan.models))
    values = np.random.default_rng(0).dirichlet(np.ones(10), (len(models), len(dataset))).astype(np.float32)
    parts = Parts(plan, tuple(locate(root / str(model) / "predictions") for model in models), values)
    for shard in range(dataset.layout.shards):
        for model, folder in enumerate(parts.folders):
            rows = parts.held_out(model, shard)
            write_part(folder, shard, rows, values[model, rows])
    return parts


def merge(dataset: Dataset, parts: Parts, root: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The report, and the merged arrays."""
    plan = parts.plan
    report = merge_predictions(
        dataset,
        plan,
        plan.models,
        parts.folders,
        locate(root / "oof.zarr"),
        Scorer(Scoring(dataset.schema)),
        SerialExecutor(),
    )
    reader = BlockReader(open_arrays(root / "oof.zarr", "predictions"), ("prediction", "count"))
    return report, reader.read(range(dataset.layout.blocks))


def test_parts_are_merged_in_place_and_scored(digits: Dataset, tmp_path: Path) -> None:
    parts = write_parts(digits, tmp_path)
    report, arrays = merge(digits, parts, tmp_path)
    scores = report["scores"]
    folds = BlockReader(parts.plan, ("fold",)).read(range(digits.layout.blocks))["fold"]
    values = parts.values[folds, np.arange(len(digits))]
    y = BlockReader(digits, ("y",)).read(range(digits.layout.blocks))["y"]
    np.testing.assert_array_equal(arrays["prediction"], values)
    assert (arrays["count"] == 1).all()
    own = values[np.arange(len(y)), y]
    assert scores["accuracy"] == (values.argmax(axis=1) == y).mean()
    assert scores["top3"] == ((values > own[:, None]).sum(axis=1) < 3).mean()
    assert scores["loss"] == pytest.approx(-np.log(np.maximum(own.astype(float), 1e-7)).mean())


def test_repeats_are_averaged_and_the_holdout_has_none(digits: Dataset, tmp_path: Path) -> None:
    parts = write_parts(digits, tmp_path, Split(folds=3, repeats=2, holdout=0.25))
    _, arrays = merge(digits, parts, tmp_path)
    blocks = range(digits.layout.blocks)
    folds = [BlockReader(parts.plan, (name,)).read(blocks)[name] for name in ("fold", "fold_1")]
    seen = folds[0] < 3
    assert seen.sum() == 900
    np.testing.assert_array_equal(arrays["count"], np.where(seen, 2, 0))
    assert np.isnan(arrays["prediction"][~seen]).all()
    of_repeat = [parts.values[3 * repeat + folds[repeat][seen], seen.nonzero()[0]] for repeat in range(2)]
    expected = np.mean(of_repeat, axis=0, dtype=np.float64).astype(np.float32)
    np.testing.assert_array_equal(arrays["prediction"][seen], expected)


def test_the_report_tells_classes_apart_and_names_the_worst_rows(digits: Dataset, tmp_path: Path) -> None:
    parts = write_parts(digits, tmp_path)
    report, arrays = merge(digits, parts, tmp_path)
    y = BlockReader(digits, ("y",)).read(range(digits.layout.blocks))["y"]
    chosen = arrays["prediction"].argmax(axis=1)
    table = np.zeros((10, 10), int)
    for truth, predicted, count in report["confusion"]:
        table[truth, predicted] = count
    np.testing.assert_array_equal(table, confusion_matrix(y, chosen))
    counts, hits, sums = np.transpose(report["calibration"])
    assert counts.sum() == 1200
    assert hits.sum() == (chosen == y).sum()
    assert sums.sum() == pytest.approx(arrays["prediction"].max(axis=1).sum(dtype=np.float64))
    losses = -np.log(np.maximum(arrays["prediction"][np.arange(1200), y].astype(np.float64), 1e-7))
    order = np.argsort(-losses)[:100]
    assert [row["row"] for row in report["worst"]] == order.tolist()
    assert [row["truth"] for row in report["worst"]] == [[float(y[row])] for row in order]
    assert [model["rows"] for model in report["models"]] == [600, 600]


def test_bootstrap_intervals_are_those_of_resampled_rows() -> None:
    """Against scipy's bootstrap of the mean, and exactly the same from shards."""
    draw = np.random.default_rng(0)
    scoring = Scoring(Schema(("a",), (1,), "uint8", ("y",), "classification", "uint8", tuple("abcde")))
    predicted, y = draw.dirichlet(np.ones(5), 3000).astype(np.float32), draw.integers(0, 5, 3000).astype(np.uint8)
    whole = ScoreTotals.of(scoring, predicted, y, np.arange(3000))
    for name, values in scoring.of_rows(predicted, y).items():
        theirs = bootstrap((values,), np.mean, n_resamples=2000, method="percentile", rng=0).confidence_interval
        width = theirs.high - theirs.low
        np.testing.assert_allclose(whole.intervals()[name], theirs, atol=0.15 * width)
    parts = [ScoreTotals.of(scoring, predicted[rows], y[rows], rows) for rows in np.array_split(np.arange(3000), 7)]
    for part in parts[1:]:
        parts[0].add(part)
    assert parts[0].scores() == pytest.approx(whole.scores())
    for name, interval in whole.intervals().items():
        assert parts[0].intervals()[name] == pytest.approx(interval)


def test_quantities_are_scored_by_label() -> None:
    schema = Schema(("a",), (1,), "uint8", ("price", "weight"), "regression", "float64")
    predicted, y = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), np.array([[1.0, 0.0], [0.0, 4.0]])
    totals = ScoreTotals.of(Scoring(schema, "mse"), predicted, y, np.arange(2))
    assert totals.scores() == {
        "loss": pytest.approx((4.5 + 2) / 2),
        "r2": pytest.approx((1 - 4.5 / 0.25 + 1 - 2 / 4) / 2),
        "r2/price": pytest.approx(1 - 4.5 / 0.25),
        "r2/weight": pytest.approx(1 - 2 / 4),
        "rmse/price": pytest.approx(4.5**0.5),
        "rmse/weight": pytest.approx(2**0.5),
        "mae/price": 1.5,
        "mae/weight": 1.0,
    }


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda own, other: own[:2], r"\d+ rows have no prediction"),
        (lambda own, other: np.append(own, own[:1]), "1 rows are predicted twice"),
        (lambda own, other: np.append(own, other[:2]), "2 rows are predicted but should not be"),
    ],
    ids=["lost", "twice", "another fold's"],
)
def test_each_row_must_be_predicted_once_by_the_model_that_has_not_seen_it(
    fault: Callable[[np.ndarray, np.ndarray], np.ndarray], message: str, digits: Dataset, tmp_path: Path
) -> None:
    parts = write_parts(digits, tmp_path)
    rows = fault(parts.held_out(0, 1), parts.held_out(1, 1))
    write_part(parts.folders[0], 1, rows, parts.values[0, rows])
    with pytest.raises(RunError, match=message):
        merge(digits, parts, tmp_path)
    assert not (tmp_path / "oof.zarr" / "manifest.json").exists()
