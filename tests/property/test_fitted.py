"""What a fold's model knows of the data: the statistics of its own training rows, and nothing of any other row."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from foldstream.cluster.runs.run import prepare_run
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import Dataset, StoredArrays
from foldstream.storage.fold_plan import FoldPlan, among, open_plan
from foldstream.storage.moments.moments import Moments
from foldstream.storage.places.locate import locate
from foldstream.storage.tasks import SerialExecutor, silent
from foldstream.training.config import TrainConfig
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.fitted.statistics import fit_plan, fitted_statistics
from foldstream.training.run import RunFolder, folds_of, read_result
from foldstream.training.settings import resolve_settings
from foldstream.training.splits.plan import make_plan
from foldstream.training.splits.split import ONCE, Kind, Split
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..conftest import convert_file

CLOSE = 1e-12


def write_table(path: Path, rows: int, seed: int, regression: bool, spread: float, offset: float) -> Path:
    """A table with columns to split by, features of a given spread around an offset, one of them with missing values,
    and a label."""
    draws = np.random.default_rng(seed)
    lines = ["group,when,part,visit,a,b,c,label"]
    for row in range(rows):
        a, b, number = (offset + spread * draws.normal(size=3)).tolist()
        c = "" if draws.random() < 0.3 else repr(number)
        label = f"{offset + spread * draws.normal()!r}" if regression else f"class-{draws.integers(3)}"
        columns = draws.integers(12), row + draws.integers(5), draws.integers(4), (row + draws.integers(9)) // 9
        lines.append(f"{','.join(map(str, columns))},{a!r},{b!r},{c},{label}")
    path.write_text("\n".join(lines) + "\n")
    return path


def rows_of(plan: FoldPlan, model: int) -> np.ndarray:
    """The positions of the rows that a model trains on."""
    rows = plan.model(model)
    return np.flatnonzero(among(read(plan, rows.array), rows.train))


def read(arrays: StoredArrays, name: str) -> np.ndarray:
    """All rows of an array."""
    return BlockReader(arrays, (name,)).read(range(arrays.layout.blocks))[name]


def stored(dataset: Dataset, name: str) -> np.ndarray:
    values = read(dataset, name).astype(np.float64)
    return values.reshape(len(values), -1)


def splits(regression: bool) -> st.SearchStrategy[Split]:
    """Every kind of split, with repeats and a holdout where they exist."""
    kinds = [kind for kind in get_args(Kind) if not (regression and kind == "stratified-group")]

    def of_kind(kind: str) -> st.SearchStrategy[Split]:
        column = {"group": "group", "stratified-group": "group", "time": "when", "column": "part"}.get(kind)
        repeats = st.integers(1, 1 if kind in ONCE else 2)
        return st.builds(
            Split,
            kind=st.just(kind),
            folds=st.integers(2, 4),
            seed=st.integers(0, 99),
            repeats=repeats,
            holdout=st.just(0.0) if kind == "column" else st.sampled_from([0.0, 0.2]),
            column=st.just(column),
            gap=st.sampled_from([0.0, 7.0]) if kind == "time" else st.just(0.0),
            group_column=st.sampled_from([None, "visit"]) if kind == "time" else st.none(),
        )

    return st.sampled_from(kinds).flatmap(of_kind)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bool, Dataset]]:
    """Tables of several shards, for classification and regression, near zero and far from it."""
    folder = tmp_path_factory.mktemp("tables")
    made = []
    for number, (regression, offset, spread) in enumerate(
        [(False, 0.0, 1.0), (True, 0.0, 1.0), (True, 1.7e9, 17.0), (False, -3e5, 0.01)]
    ):
        path = write_table(folder / f"{number}.csv", 300 + 37 * number, number, regression, spread, offset)
        made.append((regression, convert_file(path, folder / f"{number}.zarr", "label")))
    return made


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_statistics_of_a_model_are_those_of_its_training_rows(
    data: st.DataObject, tables: list[tuple[bool, Dataset]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    regression, dataset = data.draw(st.sampled_from(tables))
    split = data.draw(splits(regression))
    plan = make_plan(dataset, split, tmp_path_factory.mktemp("plan") / "plan")
    fit_plan(dataset, plan, SerialExecutor(), silent, medians=True)
    x, y = stored(dataset, "x"), stored(dataset, "y")
    for model in range(len(plan.models) + 1):  # the last one is the refit
        chosen, found = rows_of(plan, model), fitted_statistics(plan, model)
        for values, mean, std in ((x, found.mean, found.std), (y, found.y_mean, found.y_std)):
            if mean:
                rows = values[chosen].astype(np.longdouble)
                assert mean == pytest.approx(np.nanmean(rows, axis=0).astype(float).tolist(), rel=CLOSE, abs=CLOSE)
                assert std == pytest.approx(np.nanstd(rows, axis=0).astype(float).tolist(), rel=CLOSE, abs=CLOSE)
        assert found.minimum == tuple(np.nanmin(x[chosen], axis=0))
        assert found.maximum == tuple(np.nanmax(x[chosen], axis=0))
        if dataset.schema.classes:
            assert found.class_rows == tuple(np.bincount(y[chosen, 0].astype(int), minlength=3))
        assert found.missing == tuple(np.isnan(x[chosen]).sum(axis=0))
        assert found.median == tuple(np.nanmedian(x[chosen], axis=0))


def trained(
    path: Path, folder: Path, model: str = "mlp", epochs: int = 1, missing: str = "mean", **options: Any
) -> RunFolder:
    """Train the first two folds of a table in one pass."""
    dataset, run = convert_file(path, folder / "data.zarr", "label"), RunFolder(locate(folder / "run"))
    recipe, own = resolve_settings(model, {"hidden": 8})
    config = TrainConfig(
        model=model,
        split=Split(**options),
        epochs=epochs,
        batch_size=16,
        recipe=recipe,
        model_settings=own,
        missing=missing,
    )
    job = prepare_run(run, dataset, config, SerialExecutor(), silent)
    FoldTrainer(folds_of(job, run, [0, 1]), Process()).train()
    return run


@pytest.mark.parametrize(
    "split",
    [
        {"kind": "kfold", "folds": 3},
        {"kind": "time", "folds": 3, "column": "when", "gap": 3.0},
        {"kind": "time", "folds": 3, "column": "when", "group_column": "visit"},
    ],
    ids=["kfold", "time", "time and group"],
)
@pytest.mark.parametrize(
    ("column", "value", "missing"),
    [
        ("a", "123456.75", "mean"),
        ("label", "123456.75", "mean"),
        ("c", "123456.75", "mean"),
        ("c", "123456.75", "indicator+median"),
        ("c", "", "indicator+mean"),
        ("b", "", "indicator+mean"),
    ],
)
def test_a_held_out_value_changes_no_bit_of_a_model(
    column: str, value: str, missing: str, split: dict[str, Any], tmp_path: Path
) -> None:
    whole = write_table(tmp_path / "whole.csv", 400, 0, True, 1.0, 5.0)
    before = trained(whole, tmp_path / "before", missing=missing, **split)
    plan, lines = open_plan(before.folds), whole.read_text().splitlines()
    rows = (row for row in range(400) if row not in rows_of(plan, 0) and row in rows_of(plan, 1))
    position = lines[0].split(",").index(column)
    row = next(row for row in rows if lines[row + 1].split(",")[position])
    values = lines[row + 1].split(",")
    values[position] = value
    lines[row + 1] = ",".join(values)
    (tmp_path / "changed.csv").write_text("\n".join(lines) + "\n")
    after = trained(tmp_path / "changed.csv", tmp_path / "after", missing=missing, **split)
    assert after.fold(0).weights.read_bytes() == before.fold(0).weights.read_bytes()
    assert after.fold(1).weights.read_bytes() != before.fold(1).weights.read_bytes(), "it is a training row there"
    assert read_result(after.fold(0))["statistics"] == read_result(before.fold(0))["statistics"]


def test_numbers_have_the_same_moments_in_every_type() -> None:
    draws = np.random.default_rng(0)
    for rows in range(5, 300, 7):
        values = draws.integers(0, 200, (rows, 3, 1))
        codes = draws.integers(0, 2, rows).astype(np.uint8)
        one, *others = (Moments.of_numbers(values.astype(kind), codes, 2) for kind in ("uint8", "int32", "float32"))
        assert all(np.array_equal(one.table(), other.table()) for other in others)


@pytest.mark.parametrize("value", ["", "70000", "5.5", "5000000000"], ids=["missing", "int32", "float32", "int64"])
def test_a_held_out_value_that_decides_the_type_of_a_table_changes_no_bit_of_a_model(
    value: str, tmp_path: Path
) -> None:
    draws = np.random.default_rng(0)
    rows = np.c_[draws.integers(0, 200, (400, 3)), draws.integers(0, 2, 400)]
    lines = ["a,b,c,label", *(",".join(map(str, row)) for row in rows.tolist())]
    (tmp_path / "whole.csv").write_text("\n".join(lines) + "\n")
    split: dict[str, Any] = {"kind": "kfold", "folds": 3}
    before = trained(tmp_path / "whole.csv", tmp_path / "before", missing="indicator+mean", **split)
    plan = open_plan(before.folds)
    row = next(row for row in range(400) if row not in rows_of(plan, 0) and row in rows_of(plan, 1))
    lines[row + 1] = f"{value}," + lines[row + 1].partition(",")[2]
    (tmp_path / "changed.csv").write_text("\n".join(lines) + "\n")
    after = trained(tmp_path / "changed.csv", tmp_path / "after", missing="indicator+mean", **split)
    assert after.fold(0).weights.read_bytes() == before.fold(0).weights.read_bytes()
    assert after.fold(1).weights.read_bytes() != before.fold(1).weights.read_bytes(), "it is a training row there"
