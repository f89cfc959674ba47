"""Windows over time series: what samples consist of, and that no model sees a row of what it is evaluated on."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import pytest
from foldstream.pipeline.tables.sources import describe_source
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.pipeline.windows.convert import convert_windows
from foldstream.pipeline.windows.series import RowKeys, Series
from foldstream.pipeline.windows.spec import WindowRequest, rows_of
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.blocks.writer import blocks_of, commit, create_arrays, write_shard
from foldstream.storage.dataset import Dataset, open_dataset, open_rows
from foldstream.storage.errors import DamagedError, RowError, SourceError, UsageError
from foldstream.storage.fold_plan import among, open_plan
from foldstream.storage.format.manifest import LEFT_OUT, Manifest
from foldstream.storage.format.windows import WindowForm
from foldstream.storage.places.locate import locate
from foldstream.storage.tasks import SerialExecutor, silent
from foldstream.training.config import Execution
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.fitted.statistics import fit_plan, fitted_statistics
from foldstream.training.run import RunFolder, RunJob, folds_of
from foldstream.training.splits.plan import make_plan
from foldstream.training.splits.split import Split
from foldstream.training.splits.windows import check_window_split

from ..executors import Cut, CutExecutor
from .test_training import fold_bytes, make_job

LENGTH, HORIZON = 12, 4
SPAN = LENGTH + HORIZON
FORM = WindowForm(LENGTH, HORIZON, "load", "hour", ("site",))
OPTIONS: dict[str, Any] = {"label": "load", "time": "hour", "group": "site", "window_of": LENGTH, "horizon": HORIZON}


def frame(hours: Sequence[int] = (90, 70, 100)) -> pd.DataFrame:
    """Hourly loads of some sites, sorted."""
    draws, parts = np.random.default_rng(0), []
    for site, rows in enumerate(hours):
        t = np.arange(rows)
        load = 100 + 20 * site + 30 * np.sin(t * np.pi / 12) + draws.normal(0, 2, rows)
        times = pd.date_range("2024-01-01", periods=rows, freq="h")
        heat = draws.normal(15, 3, rows).round(1)
        parts.append(pd.DataFrame({"site": f"s{site}", "hour": times, "heat": heat, "load": load.round(2)}))
    return pd.concat(parts, ignore_index=True).assign(shift=lambda rows: np.where(rows.hour.dt.hour < 12, "am", "pm"))


def convert(table: pd.DataFrame, folder: Path, name: str = "data", **options: Any) -> Dataset:
    """Convert a table by way of a CSV file."""
    table.to_csv(folder / f"{name}.csv", index=False)
    given = {name: value for name, value in {**OPTIONS, **options}.items() if value is not None}
    return fs.convert_csv(folder / f"{name}.csv", folder / f"{name}.zarr", **given, progress=False)


def everything(dataset: Dataset) -> dict[str, np.ndarray]:
    """All arrays of a dataset."""
    names = [spec.name for spec in dataset.manifest.arrays]
    return BlockReader(dataset, names).read(range(dataset.layout.blocks))


def cut(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """All rows of each sample, by hand."""
    for _, rows in table.groupby("site"):
        ordered = rows.sort_values("hour")
        yield from (ordered.iloc[first : first + SPAN] for first in range(len(ordered) - SPAN + 1))


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A dataset of windows, shared by tests, which must not modify it."""
    return convert(frame(), tmp_path_factory.mktemp("series"))


def test_samples_are_windows_of_one_series_each_with_the_next_values(series: Dataset) -> None:
    stored, expected = everything(series), list(cut(frame()))
    assert series.schema.features == ("load", "heat", "shift")
    assert series.schema.labels == ("load+1", "load+2", "load+3", "load+4")
    assert len(series) == len(expected)
    table = fs.open(series).rows(len(series))
    for number, rows in enumerate(expected):
        window, after = rows[:LENGTH], rows[LENGTH:]
        assert (stored["x"][number, 0] == window.load.astype("float32")).all()
        assert (stored["x"][number, 1] == window.heat.astype("float32")).all()
        assert (stored["x"][number, 2] == (window["shift"] == "pm")).all()
        assert (stored["y"][number] == after.load.astype("float32")).all()
        assert table.hour[number] == window.hour.iloc[-1]
        assert table.site[number] == window.site.iloc[-1]


def test_rows_are_stored_once_and_windows_are_not(series: Dataset) -> None:
    assert {name for entry in series.manifest.shards for name in entry.lengths}.isdisjoint({"x", "y"})
    assert len(open_rows(series)) == len(frame())


def test_sources_need_not_be_sorted(series: Dataset, tmp_path: Path) -> None:
    shuffled = convert(frame().sample(frac=1, random_state=1), tmp_path)
    one, other = everything(series), everything(shuffled)
    assert all((one[name] == other[name]).all() for name in one)
    assert not (everything(open_rows(shuffled))["id"] == np.arange(len(frame()))).all()


def test_series_in_any_order_are_not_sorted_again(tmp_path: Path) -> None:
    table = pd.concat([rows for _, rows in frame().groupby("site")][::-1])
    rows = open_rows(convert(table, tmp_path))
    assert (everything(rows)["id"] == np.arange(len(table))).all()


def test_missing_features_stay_and_samples_with_missing_targets_are_left_out(tmp_path: Path) -> None:
    table = frame([60])
    table.loc[[20, 41], "load"] = np.nan
    dataset = convert(table, tmp_path)
    expected = [rows for rows in cut(table) if rows.load[LENGTH:].notna().all()]
    stored = everything(dataset)
    assert 0 < len(dataset) == len(expected) < 60 - SPAN + 1
    assert (stored["y"] == np.stack([rows.load[LENGTH:].astype("float32") for rows in expected])).all()
    windows = np.stack([rows.load[:LENGTH].astype("float32") for rows in expected])
    assert np.array_equal(stored["x"][:, 0], windows, equal_nan=True)
    assert np.isnan(windows).any()
    assert dataset.statistics.missing[0] == np.isnan(windows).sum()


@pytest.mark.parametrize(
    "times", [pd.date_range("2024-01-01", periods=60, freq="h"), range(60)], ids=["date", "number"]
)
def test_rows_without_a_time_are_invalid_and_can_be_skipped(times: Sequence[Any], tmp_path: Path) -> None:
    table = frame([60]).assign(hour=pd.Series(list(times), dtype=object))
    table.loc[7, "hour"] = None
    with pytest.raises(RowError, match=r'data.csv, line 9, column .hour.: .*on_error="skip"'):
        convert(table, tmp_path)
    assert not (tmp_path / "data.zarr").exists()
    dataset = convert(table, tmp_path, on_error="skip")
    assert (len(dataset), dataset.left_out) == (59 - SPAN + 1, 1)
    assert "data.csv,9,hour" in (tmp_path / "data.zarr" / LEFT_OUT).read_text()


def test_one_series_one_step_and_whole_numbers(tmp_path: Path) -> None:
    table = pd.DataFrame({"day": range(50), "sold": np.arange(50) % 7, "price": 3})
    found = convert(table, tmp_path, label="sold", time="day", group=None, window_of=5, horizon=None)
    stored = everything(found)
    assert found.schema.x_dtype == "uint8"
    assert found.schema.labels == ("sold+1",)
    assert (stored["y"] == np.arange(5, 50) % 7).all()
    assert (stored["x"][:, 0] == np.stack([np.arange(first, first + 5) % 7 for first in range(45)])).all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 4), (5, 3)])
def test_runs_are_all_windows_whose_targets_are_known(shape: tuple[int, int]) -> None:
    draws = np.random.default_rng(sum(shape))
    form = WindowForm(*shape, "y", "t")
    keys = RowKeys(np.sort(draws.integers(0, 6, 60)), np.arange(60))
    series, known = Series.of(keys), draws.random(60) < 0.9
    for given in (known, None):
        span = form.length if given is None else form.span
        expected = [
            first
            for first in range(61 - span)
            if len({*keys.series[first : first + span]}) == 1
            and (given is None or given[first + form.length : first + span].all())
        ]
        runs, samples = series.runs(form, given)
        ends = [*runs[1:, 0], samples]
        parts = [first + np.arange(end - sample) for (sample, first, _), end in zip(runs, ends, strict=True)]
        rows = [row for part in parts for row in part.tolist()]
        assert rows == expected
        assert samples == len(expected)
        assert all(keys.series[end - 1] == keys.series[first] for _, first, end in runs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": None}, "add time=COLUMN"),
        ({"label": ["load", "heat"]}, "one label="),
        ({"label": "shift"}, "the targets of windows are numbers"),
        ({"window_of": None}, "add window_of=ROWS"),
        ({"shuffle": 1}, "shuffle= cannot be used"),
        ({"time": "shift"}, "the column is text"),
        ({"feature": "site"}, "add a copy of it"),
        ({"window_of": 200}, "the longest series has 100 rows"),
        ({"group": None}, "have the same hour"),
        ({"task": "classification"}, "targets of windows are numbers"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_what_cannot_be_windows_is_an_error(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((UsageError, SourceError), match=message):
        convert(frame(), tmp_path, **options)


def test_a_wrong_label_is_found_before_any_row_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the targets of windows are numbers"):
        convert(frame(), tmp_path, label="shift")
    assert not (tmp_path / "data.zarr").exists()
    first = convert(frame(), tmp_path)
    with pytest.raises(UsageError, match="the targets of windows are numbers"):
        convert(frame(), tmp_path, label="shift", overwrite=True)
    assert open_dataset(first.root).identity == first.identity
    assert everything(open_dataset(first.root))["y"].tobytes() == everything(first)["y"].tobytes()


def test_two_rows_of_the_same_time_are_named(tmp_path: Path) -> None:
    table = pd.concat([frame(), frame()[95:96]])
    with pytest.raises(SourceError, match=r"rows 96 and 261 have the same hour 2024-01-01 05:00:00 and site s1"):
        convert(table, tmp_path)


def test_changed_rows_are_noticed(series: Dataset, tmp_path: Path) -> None:
    changed = convert(frame([90, 70, 99]), tmp_path, "other")
    copied = convert(frame(), tmp_path)
    for place in (copied.root / "rows", changed.root / "rows"):
        os.rename(place, tmp_path / place.parent.stem)
    os.rename(tmp_path / "other", copied.root / "rows")
    with pytest.raises(DamagedError, match="is not what"):
        BlockReader(open_dataset(copied.root), ("x",))


def test_a_conversion_that_is_cut_off_anywhere_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    frame([40, 30]).sample(frac=1, random_state=2).to_csv(tmp_path / "data.csv", index=False)
    asked = ConvertRequest(
        (describe_source(str(tmp_path / "data.csv")),), ("load",), roles={"time": ("hour",), "group": ("site",)}
    )
    request = WindowRequest(rows_of(asked, FORM), FORM)
    quiet = convert_windows(request, tmp_path / "quiet.zarr", SerialExecutor())
    cuts = 0
    while True:
        try:
            convert_windows(request, tmp_path / "cut.zarr", CutExecutor(2 + cuts))
            break
        except Cut:
            cuts += 1
    assert cuts > 5
    files = [path for path in quiet.root.rglob("*") if path.is_file()]
    for path in files:
        assert path.read_bytes() == (tmp_path / "cut.zarr" / path.relative_to(quiet.root)).read_bytes(), path
    assert {path.name for path in (tmp_path / "cut.zarr").iterdir()} == {path.name for path in quiet.root.iterdir()}


def rows_of_samples(dataset: Dataset, samples: np.ndarray) -> np.ndarray:
    """All rows of samples, features and targets, (samples, span)."""
    assert dataset.windows
    rows: np.ndarray = dataset.windows.first_rows(0, len(dataset))[samples][:, None] + np.arange(SPAN)
    return rows


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "time", "column": "hour"},
        {"kind": "time", "column": "hour", "folds": 2, "gap": 7200, "holdout": 0.2},
        {"kind": "time", "column": "hour", "folds": 8},
        {"kind": "group", "column": "site", "folds": 3},
        {"kind": "group", "column": "site", "folds": 2, "holdout": 0.3},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_no_row_of_a_held_out_sample_is_in_a_training_sample(
    options: dict[str, Any], series: Dataset, tmp_path: Path
) -> None:
    plan = make_plan(series, Split(**options), tmp_path / "plan")
    codes = BlockReader(plan, [spec.name for spec in plan.manifest.arrays]).read(range(plan.layout.blocks))
    times = everything(open_rows(series))["column_hour"]
    judged = [(plan.model(fold), plan.model(fold).held_out) for fold in range(len(plan.models))]
    if plan.holdout.held_out:
        judged += [(plan.model(fold), plan.holdout.held_out) for fold in range(len(plan.models) + 1)]
    for model, held_out in judged:
        train = rows_of_samples(series, among(codes[model.array], model.train))
        test = rows_of_samples(series, among(codes[model.array], held_out))
        assert train.size
        assert test.size
        assert np.intersect1d(train, test).size == 0
        if options["kind"] == "time":
            assert times[train].max() < times[test].min() - options.get("gap", 0)


def test_every_sample_that_a_fold_may_have_is_held_out_once(series: Dataset, tmp_path: Path) -> None:
    plan = make_plan(series, Split(kind="time", column="hour", folds=4), tmp_path / "plan")
    names = [spec.name for spec in plan.manifest.arrays]
    codes = BlockReader(plan, names).read(range(plan.layout.blocks))
    held_out = sum(among(codes[model.array], model.held_out).astype(int) for model in plan.models)
    assert {*np.unique(held_out)} == {0, 1}
    begins = everything(open_rows(series))["column_hour"][rows_of_samples(series, np.arange(len(series)))[:, 0]]
    assert begins[held_out == 1].min() > begins[held_out == 0].max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "kfold"}, "would train on targets"),
        ({"kind": "contiguous"}, "use --split time or --split group"),
        ({"kind": "column", "column": "fold"}, "would train on targets"),
        ({"kind": "stratified"}, "would train on targets"),
        ({"kind": "group", "column": "city"}, "use site"),
        ({"kind": "time", "column": "day"}, "use hour"),
        ({"kind": "time", "column": "hour", "group_column": "site"}, "remove the option"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value.values()),
)
def test_a_split_that_would_leak_is_an_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_window_split(Split(**options), FORM)


def test_statistics_of_a_fold_do_not_depend_on_later_rows(tmp_path: Path) -> None:
    table, found = frame(), []
    split = Split(kind="time", column="hour", folds=2)
    for number, rows in enumerate((table, table.assign(load=table.load.where(table.hour < "2024-01-02 20:00", 9e5)))):
        dataset = convert(rows, tmp_path, f"data{number}")
        plan = make_plan(dataset, split, tmp_path / f"plan{number}")
        fit_plan(dataset, plan, SerialExecutor(), silent, medians=True)
        found.append(fitted_statistics(plan, 0))
    assert found[0] == found[1]
    assert found[0].mean[0] < 200


TRAINED: dict[str, Any] = {"model": "nlinear", "batch_size": 16, "epochs": 3}


def train_all(job: RunJob, run: RunFolder, groups: list[list[int]], **options: Any) -> None:
    for folds in groups:
        FoldTrainer(folds_of(job, run, folds), Process(), Execution(**options)).train()


FUSED, RUNS = [[0, 1, 2]], [[0], [1], [2]]


@pytest.mark.parametrize("kind", ["time", "group"])
def test_both_fold_modes_give_the_same_bytes(kind: str, series: Dataset, tmp_path: Path) -> None:
    split = Split(kind=kind, column={"time": "hour", "group": "site"}[kind], folds=3)  # type: ignore[arg-type]
    found = []
    for name, groups in (("fused", FUSED), ("runs", RUNS)):
        job, run = make_job(series, tmp_path / name, split=split, **TRAINED)
        train_all(job, run, groups)
        found.append(fold_bytes(run))
    assert found[0] == found[1]


def stored_whole(dataset: Dataset, place: Path) -> Dataset:
    """A copy whose windows are stored, in the same layout."""
    root, layout, specs = locate(place), dataset.layout, dataset.manifest.arrays
    create_arrays(root, layout, specs, {})
    arrays, written = everything(dataset), []
    for shard in range(layout.shards):
        rows = slice(*layout.shard_range(shard))
        written.append(write_shard(root, layout, specs, shard, {name: values[rows] for name, values in arrays.items()}))
    details = {name: value for name, value in dataset.manifest.details.items() if name != "windows"}
    manifest = Manifest("dataset", layout, specs, tuple(shard.entry for shard in written), details)
    commit(root, manifest, blocks_of(written, specs))
    return open_dataset(root)


def test_training_gives_the_bytes_of_one_on_stored_windows(series: Dataset, tmp_path: Path) -> None:
    whole = stored_whole(series, tmp_path / "whole.zarr")
    assert whole.windows is None
    found = []
    for number, dataset in enumerate((series, whole)):
        split = Split(kind="group", column="site", folds=3)
        job, run = make_job(dataset, tmp_path / f"run{number}", split=split, **TRAINED)
        train_all(job, run, FUSED)
        found.append([weights for weights, _ in fold_bytes(run)])
    assert found[0] == found[1]


KILLED = """
import os, signal, sys
from foldstream.storage.places.locate import locate
from foldstream.training.config import Execution
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.run import RunFolder, folds_of, load_job

run = RunFolder(locate(sys.argv[1]))

def heartbeat(working):
    if run.fold(0).checkpoints.names():
        os.kill(os.getpid(), signal.SIGKILL)

request = Execution(checkpoint_every="3 steps")
FoldTrainer(folds_of(load_job(run), run, [0, 1, 2]), Process(), request, heartbeat).train()
"""


def test_a_training_that_was_killed_ends_with_the_same_bytes(series: Dataset, tmp_path: Path) -> None:
    split = Split(kind="time", column="hour", folds=3)
    job, quiet = make_job(series, tmp_path / "quiet", split=split, **TRAINED)
    train_all(job, quiet, FUSED)
    _, killed = make_job(series, tmp_path / "killed", split=split, **TRAINED)
    done = subprocess.run([sys.executable, "-c", KILLED, str(killed.root)], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not any(killed.fold(fold).done.exists() for fold in range(3))
    train_all(job, killed, FUSED)
    assert fold_bytes(killed) == fold_bytes(quiet)


@pytest.fixture(scope="module")
def run(series: Dataset, tmp_path_factory: pytest.TempPathFactory) -> fs.Run:
    """A run with all defaults but the length."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return fs.train(series, folder, epochs=8, batch_size=16, folds=2, progress=False)


def test_the_baseline_repeats_the_last_value(run: fs.Run, series: Dataset) -> None:
    plan, stored = open_plan(RunFolder(run.place).folds), everything(series)
    changes = []
    for model in plan.models:
        codes = BlockReader(plan, (model.array,)).read(range(plan.layout.blocks))[model.array]
        held_out = among(codes, model.held_out)
        changes.append(stored["y"][held_out] - stored["x"][held_out, 0, -1:])
    rmse = np.sqrt(np.square(np.concatenate(changes)).mean(axis=0))
    assert [run.baseline[f"rmse/load+{step}"] for step in range(1, 5)] == pytest.approx(rmse, rel=1e-9)
    assert all(run.metrics[name] < run.baseline[name] for name in run.baseline)
    assert "baseline: the last known value" in (Path(str(run.place)) / "report.md").read_text()


def test_new_rows_are_forecast_also_after_the_last_one(run: fs.Run, series: Dataset, tmp_path: Path) -> None:
    new = frame([13, 12, 30, 11]).sample(frac=1, random_state=0)
    new.to_csv(tmp_path / "new.csv", index=False)
    done = fs.predict(run, tmp_path / "new.csv", tmp_path / "out.csv")
    table = pd.read_csv(tmp_path / "out.csv", parse_dates=["hour"])
    assert [*table.columns] == ["hour", "site", "load+1", "load+2", "load+3", "load+4"]
    assert table.groupby("site").size().to_dict() == {"s0": 2, "s1": 1, "s2": 19}
    last = new.groupby("site").hour.max()
    assert table.groupby("site").hour.max().to_dict() == last.drop("s3").to_dict()
    assert done.scored["rows"] == 30 - SPAN + 1

    convert(new, tmp_path, "same", like=series)
    with pytest.raises(UsageError, match="horizon=9: that of like is 4"):
        convert(new, tmp_path, "other", like=series, horizon=9)
    fs.predict(run, tmp_path / "same.zarr", tmp_path / "same.csv")
    same = pd.read_csv(tmp_path / "same.csv", parse_dates=["hour"])
    assert len(same) == 30 - SPAN + 1
    pd.testing.assert_frame_equal(same, table[table.site == "s2"][: len(same)].reset_index(drop=True))
    again = run.predict(new)
    pd.testing.assert_frame_equal(again, table, check_dtype=False)


def test_new_rows_need_the_columns_of_the_series(run: fs.Run, tmp_path: Path) -> None:
    frame().drop(columns="site").to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(UsageError, match="no column 'site'"):
        fs.predict(run, tmp_path / "new.csv", tmp_path / "out.csv")
    frame([5, 7]).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(
        SourceError, match=r"the longest series has 7 rows, .*; give at least the last 12 rows of a series"
    ):
        fs.predict(run, tmp_path / "new.csv", tmp_path / "out.csv")
