"""Groups stay whole, time never looks ahead, the user's folds are kept: as scikit-learn's splitters promise."""

from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pytest
from foldstream.cluster.api.split import split_rows
from foldstream.cluster.listener import Listener
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import ConflictError, UsageError
from foldstream.storage.fold_plan import FoldPlan
from foldstream.storage.places.json_files import read_json, write_json
from foldstream.storage.places.locate import locate
from foldstream.training.splits.choose import choose_split
from foldstream.training.splits.groups.balance import distribute
from foldstream.training.splits.groups.grouped import (
    MOST_BUCKETS,
    are_present,
    assign_buckets,
    bucket_count,
    buckets_of,
    mark_buckets,
    marked_buckets,
)
from foldstream.training.splits.ordered import cut_time, sketch, value_at
from foldstream.training.splits.plan import make_plan
from foldstream.training.splits.split import Split, SplitOptions, options_of
from foldstream.training.stream.filters import CodeFilter, held_out_rows, training_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, KFold, PredefinedSplit, StratifiedGroupKFold, TimeSeriesSplit

from ..conftest import convert_file

ROWS = 1500


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    """120 patients of very different size, each with a class of its own that is more frequent; days, and folds."""
    draw = np.random.default_rng(0)
    patient = np.minimum(draw.geometric(0.02, ROWS), 120)
    label = np.where(draw.random(ROWS) < 0.7, patient % 3, draw.integers(0, 3, ROWS))
    return {
        "patient": patient,
        "day": draw.permutation(ROWS) * 2,
        "month": draw.integers(0, 30, ROWS),
        "part": draw.integers(-1, 4, ROWS),
        "label": label,
    }


@pytest.fixture(scope="module")
def dataset(columns: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The columns as a dataset, which has the patient's name as its key."""
    path = tmp_path_factory.mktemp("columns") / "data.csv"
    names = [f"patient {number}" for number in columns["patient"]]
    lines = zip(names, *(columns[name] for name in ("patient", "day", "month", "part", "label")), strict=True)
    text = "\n".join(",".join(map(str, line)) for line in lines)
    path.write_text(f"name,patient,day,month,part,label\n{text}\n")
    return convert_file(path, path.with_suffix(".zarr"), "label", id="name", task="classification")


@pytest.fixture(scope="module")
def visits() -> dict[str, np.ndarray]:
    """Visits of 400 people, most of each in a part of the days; a skewed price, and labels that are 0 or 1."""
    draw = np.random.default_rng(1)
    day = draw.permutation(ROWS)
    person = np.where(draw.random(ROWS) < 0.1, draw.integers(0, 400, ROWS), day // 4 + draw.integers(0, 20, ROWS))
    return {
        "person": person,
        "day": day,
        "price": np.round(draw.lognormal(3, 1, ROWS), 4),
        **{f"label{number}": (draw.random(ROWS) < 0.3 / (1 + number)).astype(int) for number in range(5)},
    }


def convert_columns(columns: dict[str, np.ndarray], path: Path, labels: tuple[str, ...]) -> Dataset:
    """The columns as a dataset for regression."""
    lines = zip(*(column.tolist() for column in columns.values()), strict=True)
    text = "\n".join(",".join(map(str, line)) for line in lines)
    path.write_text(f"{','.join(columns)}\n{text}\n")
    return convert_file(path, path.with_suffix(".zarr"), labels, task="regression")


@pytest.fixture(scope="module")
def prices(visits: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The visits as a dataset with the price as its target."""
    return convert_columns(visits, tmp_path_factory.mktemp("prices") / "data.csv", ("price",))


@pytest.fixture(scope="module")
def labels(visits: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The visits as a dataset with the labels as its targets."""
    named = tuple(name for name in visits if name.startswith("label"))
    return convert_columns(visits, tmp_path_factory.mktemp("labels") / "data.csv", named)


def rows_of(plan: FoldPlan, model: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the rows that a model trains on, and of those held out."""
    blocks = range(plan.layout.blocks)
    one, other = (np.flatnonzero(rows(plan, model).mask(blocks)) for rows in (training_rows, held_out_rows))
    assert training_rows(plan, model).kept().sum() == len(one)
    assert held_out_rows(plan, model).kept().sum() == len(other)
    assert not np.intersect1d(one, other).size
    return one, other


def is_partition(plan: FoldPlan, models: range) -> bool:
    """Whether each row is held out once."""
    rows = np.concatenate([rows_of(plan, model)[1] for model in models])
    return np.array_equal(np.sort(rows), np.arange(plan.layout.rows))


@pytest.mark.parametrize("column", ["patient", "name"])
def test_groups_stay_whole_and_folds_are_as_even_as_scikit_learns(
    column: str, dataset: Dataset, columns: dict[str, np.ndarray], tmp_path: Path
) -> None:
    plan = make_plan(dataset, Split(kind="group", folds=5, repeats=2, column=column), tmp_path / "plan")
    groups, parts = columns["patient"], []
    for repeat in range(2):
        models = range(5 * repeat, 5 * repeat + 5)
        assert is_partition(plan, models)
        for model in models:
            trained, held_out = rows_of(plan, model)
            assert not np.intersect1d(groups[trained], groups[held_out]).size
        parts.append([len(rows_of(plan, model)[1]) for model in models])
    theirs = [len(held_out) for _, held_out in GroupKFold(5).split(groups, groups=groups)]
    assert max(max(sizes) - min(sizes) for sizes in parts) <= max(max(theirs) - min(theirs), 10)
    assert not np.array_equal(rows_of(plan, 0)[1], rows_of(plan, 5)[1])


def test_stratified_groups_have_the_classes_as_even_as_scikit_learns(
    dataset: Dataset, columns: dict[str, np.ndarray], tmp_path: Path
) -> None:
    plan = make_plan(dataset, Split(kind="stratified-group", folds=5, column="patient"), tmp_path / "plan")
    y, groups = columns["label"], columns["patient"]
    assert is_partition(plan, range(5))

    def unevenness(parts: list[np.ndarray]) -> float:
        return float(np.std([np.bincount(y[rows], minlength=3) for rows in parts], axis=0).max())

    ours = [rows_of(plan, model)[1] for model in range(5)]
    for rows in ours:
        assert not np.intersect1d(groups[rows], np.delete(groups, rows)).size
    theirs = [rows for _, rows in StratifiedGroupKFold(5).split(groups, y, groups)]
    assert unevenness(ours) <= max(1.2 * unevenness(theirs), 5)


def test_a_holdout_of_groups_is_whole_and_about_as_large_as_told(
    dataset: Dataset, columns: dict[str, np.ndarray], tmp_path: Path
) -> None:
    split = Split(kind="group", folds=4, repeats=2, holdout=0.25, column="patient")
    plan = make_plan(dataset, split, tmp_path / "plan")
    seen = [np.concatenate(rows_of(plan, model)) for model in range(8)]
    assert len({len(rows) for rows in seen}) == 1
    held_out = np.setdiff1d(np.arange(ROWS), seen[0])
    assert abs(len(held_out) - 0.25 * ROWS) < 0.03 * ROWS
    assert not np.intersect1d(columns["patient"][held_out], columns["patient"][seen[0]]).size
    counts = plan.counts(plan.holdout.array, plan.holdout.held_out)
    assert counts.sum() == len(held_out)


def test_contiguous_folds_are_ranges_of_rows(dataset: Dataset, tmp_path: Path) -> None:
    plan = make_plan(dataset, Split(kind="contiguous", folds=7, holdout=0.1), tmp_path / "plan")
    seen = np.arange(ROWS - ROWS // 10)
    for model, (trained, held_out) in enumerate(KFold(7).split(seen)):
        for ours, theirs in zip(rows_of(plan, model), (trained, held_out), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert plan.counts(plan.holdout.array, plan.holdout.held_out).sum() == ROWS // 10


@pytest.mark.parametrize("holdout", [0.0, 0.2])
def test_a_target_is_stratified_by_tenths_of_its_rows(
    holdout: float, prices: Dataset, visits: dict[str, np.ndarray], tmp_path: Path
) -> None:
    split = Split(kind="stratified", folds=5, repeats=2, holdout=holdout)
    plan = make_plan(prices, split, tmp_path / "plan")
    tenth = np.argsort(np.argsort(visits["price"])) // (ROWS // 10)
    for repeat in range(2):
        parts = [rows_of(plan, model)[1] for model in range(5 * repeat, 5 * repeat + 5)]
        found = np.stack([np.bincount(tenth[rows], minlength=10) for rows in parts])
        assert np.ptp(found, axis=0).max() <= 1
        assert np.ptp(found.sum(axis=1)) <= 1
        assert holdout or is_partition(plan, range(5 * repeat, 5 * repeat + 5))
    assert not np.array_equal(rows_of(plan, 0)[1], rows_of(plan, 5)[1])
    again = make_plan(prices, split, tmp_path / "again")
    assert again.identity == plan.identity


def test_a_regression_is_split_at_random_unless_it_asks_for_strata(prices: Dataset) -> None:
    assert choose_split(prices.schema, SplitOptions(), seed=0).kind == "kfold"
    assert choose_split(prices.schema, SplitOptions(split="stratified"), seed=0).kind == "stratified"


def test_every_label_of_several_is_spread_evenly(
    labels: Dataset, visits: dict[str, np.ndarray], tmp_path: Path
) -> None:
    plan = make_plan(labels, Split(kind="stratified", folds=5, repeats=2, holdout=0.2), tmp_path / "plan")
    y = np.stack([visits[name] for name in labels.schema.labels], axis=1)
    for repeat in range(2):
        parts = [rows_of(plan, model)[1] for model in range(5 * repeat, 5 * repeat + 5)]
        found = np.stack([y[rows].sum(axis=0) for rows in parts])
        assert np.ptp(found, axis=0).max() <= 4
        assert np.ptp([len(rows) for rows in parts]) <= 4
        assert np.abs(found.sum(axis=0) - 0.8 * y.sum(axis=0)).max() <= 4
    assert not np.array_equal(rows_of(plan, 0)[1], rows_of(plan, 5)[1])


def test_several_targets_that_are_not_labels_are_not_stratified(visits: dict[str, np.ndarray], tmp_path: Path) -> None:
    dataset = convert_columns(visits, tmp_path / "data.csv", ("label0", "price"))
    with pytest.raises(UsageError, match=r"target 'price' is [\d.]+ in row [\d,]+, but .* use --split kfold"):
        split_rows(dataset.root, "refused", split="stratified")


@pytest.mark.parametrize(("gap", "holdout"), [(0.0, 0.0), (30.0, 0.1)], ids=["plain", "gap and holdout"])
def test_no_model_of_time_trains_on_groups_of_its_held_out_rows(
    gap: float, holdout: float, prices: Dataset, visits: dict[str, np.ndarray], tmp_path: Path
) -> None:
    split = Split(kind="time", folds=4, column="day", gap=gap, holdout=holdout, group_column="person")
    plan = make_plan(prices, split, tmp_path / "plan")
    whole = make_plan(prices, split.model_copy(update={"group_column": None}), tmp_path / "whole")
    person, blocks = visits["person"], range(plan.layout.blocks)
    untouched = np.flatnonzero(CodeFilter(plan, plan.holdout.array, plan.holdout.held_out).mask(blocks))
    assert len(untouched) == holdout * ROWS
    for model in range(4):
        before, expected = rows_of(whole, model)
        trained, held_out = rows_of(plan, model)
        np.testing.assert_array_equal(held_out, expected)
        purged = np.isin(person[before], person[np.concatenate([held_out, untouched])])
        assert purged.any()
        np.testing.assert_array_equal(trained, before[~purged])
    refit = np.flatnonzero(training_rows(plan, 4).mask(blocks))
    np.testing.assert_array_equal(refit, np.setdiff1d(np.arange(ROWS), untouched))


def test_the_bits_of_many_periods_are_bounded_and_never_miss_a_group() -> None:
    periods = [(code,) for code in range(100)]
    codes, values = np.arange(50_000) % 100, np.arange(50_000) // 3
    buckets = buckets_of(values, marked_buckets(100), 0)
    marks = mark_buckets(buckets, codes, periods)
    assert marks.nbytes <= 1 << 20
    for code in (0, 57):
        present = are_present(marks[code], buckets)
        assert present[np.isin(values, values[codes == code])].all()
        assert present.mean() < 0.05


def test_time_is_cut_as_scikit_learn_cuts_it(dataset: Dataset, columns: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Days differ by two, so that a gap of 10 is one of 5 rows."""
    plan = make_plan(dataset, Split(kind="time", folds=4, column="day", gap=10), tmp_path / "plan")
    order = np.argsort(columns["day"])
    for model, (trained, held_out) in enumerate(TimeSeriesSplit(4, gap=5).split(order)):
        ours = rows_of(plan, model)
        np.testing.assert_array_equal(ours[0], np.sort(order[trained]))
        np.testing.assert_array_equal(ours[1], np.sort(order[held_out]))


@pytest.mark.parametrize("gap", [0.0, 2.5])
def test_no_model_of_time_sees_a_value_that_it_is_tried_on_or_a_later_one(
    gap: float, dataset: Dataset, columns: dict[str, np.ndarray], tmp_path: Path
) -> None:
    plan = make_plan(dataset, Split(kind="time", folds=5, column="month", gap=gap, holdout=0.1), tmp_path / "plan")
    month, last = columns["month"], -1
    for model in range(5):
        trained, held_out = rows_of(plan, model)
        assert month[trained].max() < month[held_out].min() - gap
        assert month[held_out].min() > last
        last = int(month[held_out].max())
    untouched = CodeFilter(plan, plan.holdout.array, plan.holdout.held_out)
    assert month[np.flatnonzero(untouched.mask(range(plan.layout.blocks)))].min() > last


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=10, max_size=200), st.integers(1, 20), st.integers(1, 3))
def test_values_at_ranks_are_those_of_the_sorted_rows(values: list[int], shards: int, folds: int) -> None:
    parts = np.array_split(np.array(values), min(shards, len(values)))
    sketches = [sketch(part, len(parts)) for part in parts]
    ranks = list(range(0, len(values), 3))
    assert value_at(sketches, ranks) == np.sort(values)[ranks].tolist()


def test_sketches_of_large_shards_cut_within_a_thousandth() -> None:
    draw = np.random.default_rng(0)
    shards = [draw.normal(size=50_000) + shard for shard in range(4)]
    cut = cut_time([sketch(values, 4) for values in shards], 200_000, Split(kind="time", folds=3, column="t"))
    sizes = np.bincount(cut.codes(np.concatenate(shards)))
    np.testing.assert_allclose(sizes, 50_000, rtol=4e-3)


def test_the_users_folds_are_kept_and_minus_one_is_never_held_out(
    dataset: Dataset, columns: dict[str, np.ndarray], tmp_path: Path
) -> None:
    plan = make_plan(dataset, Split(kind="column", column="part"), tmp_path / "plan")
    for model, expected in enumerate(PredefinedSplit(columns["part"]).split()):
        for ours, theirs in zip(rows_of(plan, model), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert len(plan.models) == 4


def test_one_fold_is_tried_on_the_holdout(dataset: Dataset, tmp_path: Path) -> None:
    plan = make_plan(dataset, Split(kind="stratified", folds=1, holdout=0.33), tmp_path / "plan")
    trained, held_out = rows_of(plan, 0)
    assert len(held_out) == pytest.approx(0.33 * ROWS, abs=3)
    assert len(trained) + len(held_out) == ROWS
    assert not plan.holdout.held_out


@pytest.mark.parametrize(
    "values",
    [np.arange(1000), np.arange(1000) / 7, np.array([f"name {i}" for i in range(1000)], "S")],
    ids=["numbers", "floats", "text"],
)
def test_equal_values_share_a_bucket_and_others_hardly_do(values: np.ndarray) -> None:
    buckets = buckets_of(np.concatenate([values, values]), MOST_BUCKETS, 0)
    np.testing.assert_array_equal(buckets[:1000], buckets[1000:])
    assert len(np.unique(buckets)) > 980
    assert buckets.max() < MOST_BUCKETS


def test_a_million_groups_are_dealt_evenly_in_bounded_memory() -> None:
    counts = np.bincount(buckets_of(np.arange(1_000_000), bucket_count(1), 0), minlength=bucket_count(1))
    bins = distribute(counts[:, None], np.full(7, 1 / 7), 0)
    sizes = np.bincount(bins, weights=counts)
    assert sizes.max() - sizes.min() <= 2
    assert bucket_count(10_000) == 512


def test_folds_are_of_one_size_where_each_group_has_one_class() -> None:
    """Each of 8 classes has 6 groups of 15 rows: its shares of the folds are the same whichever two folds lack it."""
    counts = np.zeros((48, 8), np.int64)
    counts[np.arange(48), np.arange(48) // 6] = 15
    bins = distribute(counts, np.full(8, 1 / 8), 0)
    assert np.bincount(bins, weights=counts.sum(axis=1)).tolist() == [90] * 8
    for code in range(8):
        assert np.bincount(bins, weights=counts[:, code], minlength=8).max() == 15
    np.testing.assert_array_equal(distribute(counts, np.full(8, 1 / 8), 0), bins)
    assert not np.array_equal(distribute(counts, np.full(8, 1 / 8), 1), bins)


def unevenness(counts: np.ndarray, bins: np.ndarray, folds: int) -> float:
    """The standard deviation over the folds of their shares of a class, mean over classes, and of all rows."""
    held = np.stack([counts[bins == fold].sum(axis=0) for fold in range(folds)])
    assert held.sum(axis=1).all(), "a fold is empty"
    of_classes, of_rows = held / np.maximum(held.sum(axis=0), 1), held.sum(axis=1) / held.sum()
    return float(of_classes.std(axis=0).mean() + of_rows.std())


@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.parametrize("seed", range(30))
def test_group_folds_are_about_as_even_as_scikit_learns(seed: int) -> None:
    """Groups of equal or very different size, whose rows are all of one class, most of them, or of any class."""
    draw = np.random.default_rng(seed)
    folds, classes, purity = int(draw.integers(2, 10)), int(draw.integers(1, 11)), draw.choice([1.0, 0.7, 0.0])
    many = folds + int(draw.integers(0, 150))
    sizes = [np.full(many, 15), draw.integers(1, 40, many), np.minimum(draw.geometric(0.03, many), 400)][seed % 3]
    groups = np.repeat(np.arange(many), sizes)
    own = draw.integers(0, classes, many)[groups]
    y = np.where(draw.random(len(groups)) < purity, own, draw.integers(0, classes, len(groups)))
    counts = np.zeros((many, classes), np.int64)
    np.add.at(counts, (groups, y), 1)
    theirs = np.zeros(many, np.int64)
    splitter = StratifiedGroupKFold(folds) if classes > 1 else GroupKFold(folds)
    for fold, (_, held_out) in enumerate(splitter.split(groups, y, groups)):
        theirs[groups[held_out]] = fold
    ours = distribute(counts, np.full(folds, 1 / folds), seed)
    assert unevenness(counts, ours, folds) <= 1.1 * reference(counts, theirs, folds) + 2 / len(y)


def reference(counts: np.ndarray, bins: np.ndarray, folds: int) -> float:
    """The unevenness of scikit-learn's folds, of which some may be empty."""
    return unevenness(counts, bins, folds) if len(np.unique(bins)) == folds else np.inf


@pytest.mark.parametrize("holdout", [0.0, 0.05])
def test_no_fold_is_empty_if_there_are_enough_groups(holdout: float) -> None:
    """One group has nearly all rows, so that the others alone would go to a single fold."""
    many = 5 + (holdout > 0)
    counts = np.array([[10_000], *[[1]] * (many - 1)])
    split = Split(kind="group", folds=5, holdout=holdout, column="patient")
    assert np.unique(assign_buckets(counts, split)).tolist() == list(range(many))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "group"}, "needs a column; add --group-column"),
        ({"split": "kfold", "group_column": "patient"}, "--group-column cannot be used with"),
        ({"split": "groups"}, "did you mean 'group'"),
        ({"group_column": "patients"}, "did you mean 'patient'"),
        ({"order_column": "name"}, "is text"),
        ({"order_column": "part"}, "trains on 0 rows"),
        ({"fold_column": "part", "repeats": 2}, "is always the same"),
        ({"fold_column": "part", "holdout": 0.2}, "the column decides"),
        ({"order_column": "part", "folds": 6}, "too few distinct values"),
        ({"order_column": "day", "group_column": "part"}, "or no --group-column"),
        ({"order_column": "day", "group_column": "patients"}, "did you mean 'patient'"),
        ({"split": "contiguous", "repeats": 2}, "is always the same"),
        ({"split": "contiguous", "order_column": "day"}, "--order-column cannot be used with"),
        (
            {"group_column": "patient", "order_column": "day", "fold_column": "part"},
            "--group-column cannot be used with",
        ),
        ({"holdout": 0.001, "split": "group", "group_column": "part", "folds": 5}, "the holdout has no rows"),
        ({"fold_column": "day"}, "more than 255 folds"),
        ({"gap": 3.0}, "only --split time has a gap"),
        ({"order_column": "day", "gap": -1.0}, "--gap -1.0: must be at least 0"),
        ({"holdout": 1.0}, "between 0.001 and 0.9"),
        ({"holdout": 0.2, "folds": 10, "repeats": 26}, "at most 255 models"),
        ({"folds": 1}, "between 2 and 100"),
        ({"group_column": "part", "folds": 6}, "too few groups"),
        ({"name": "../other"}, "is not a valid plan name"),
    ],
    ids=str,
)
def test_splits_that_cannot_be_are_refused(options: dict[str, object], message: str, dataset: Dataset) -> None:
    with pytest.raises(UsageError, match=message):
        split_rows(dataset.root, **{"name": "refused", **options})  # type: ignore[arg-type]
    assert not (dataset.root / "splits" / "refused").exists()


def test_a_dataset_holds_several_plans_by_name(dataset: Dataset) -> None:
    weekly = split_rows(dataset.root, "weekly", order_column="day", gap=7)
    again = split_rows(dataset.root, "weekly", order_column="day", gap=7)
    assert weekly.identity == again.identity
    with pytest.raises(ConflictError, match="--overwrite"):
        split_rows(dataset.root, "weekly", order_column="day")
    other = split_rows(dataset.root, "weekly", order_column="day", overwrite=True)
    assert other.identity != weekly.identity
    assert (split_rows(dataset.root, "patients", group_column="patient").root / "manifest.json").exists()


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, "stratified"),
        ({"group_column": "patient"}, "group"),
        ({"order_column": "day"}, "time"),
        ({"order_column": "day", "group_column": "patient"}, "time"),
    ],
    ids=["none", "group", "order", "order and group"],
)
def test_the_kind_follows_from_the_column(options: dict[str, str], kind: str, dataset: Dataset) -> None:
    assert choose_split(dataset.schema, SplitOptions.parse(options), seed=0).kind == kind


def test_a_second_column_is_looked_up_before_anything_is_read(dataset: Dataset) -> None:
    with pytest.raises(UsageError, match="did you mean 'patient'"):
        choose_split(dataset.schema, SplitOptions(order_column="day", group_column="patients"), 0)


@pytest.mark.parametrize(
    "split",
    [
        Split(kind="group", column="patient", folds=3, holdout=0.2),
        Split(kind="time", column="day", gap=2.0),
        Split(kind="time", column="day", group_column="patient"),
        Split(kind="contiguous", folds=4),
        Split(kind="column", column="part"),
    ],
    ids=str,
)
def test_a_split_is_what_its_options_ask_for(split: Split, dataset: Dataset) -> None:
    assert choose_split(dataset.schema, SplitOptions.parse(options_of(split)), split.seed) == split


def test_a_plan_from_before_there_were_more_options_is_kept(dataset: Dataset, tmp_path: Path) -> None:
    split, manifest = Split(kind="group", column="patient"), locate(tmp_path / "plan" / "manifest.json")
    make_plan(dataset, split, tmp_path / "plan")
    value = read_json(manifest)
    del value["details"]["split"]["group_column"]
    write_json(manifest, value)
    before = manifest.read_bytes()
    make_plan(dataset, split, tmp_path / "plan")
    assert manifest.read_bytes() == before


def test_a_plan_and_a_training_warn_of_rare_classes_and_large_groups(tmp_path: Path) -> None:
    path, told = tmp_path / "data.csv", list[tuple[str, str]]()
    rows = [f"{0 if row < 150 else row},{'rare' if row % 75 == 0 else 'common'}" for row in range(300)]
    path.write_text("\n".join(["patient,label", *rows]) + "\n")
    dataset = convert_file(path, tmp_path / "data.zarr", "label")
    listener = Listener(announce=lambda name, value: told.append((name, value)))
    split: dict[str, Any] = {"group_column": "patient", "folds": 6, "listener": listener}
    for command in (
        lambda: fs.split_rows(dataset.root, "groups", **split),
        lambda: fs.split_rows(dataset.root, "groups", **split),  # a plan that is there already
        lambda: fs.train(dataset.root, tmp_path / "run", model="mlp", epochs=1, batch_size=16, workers=0, **split),
    ):
        told.clear()
        command()
        rare, feature, large = (value for name, value in told if name == "warning")
        assert "'patient', which is also a feature" in feature
        assert rare.startswith("class 'rare' has 4 rows, fewer than the 6 folds")
        assert "150 rows" in large
        assert "the largest group has 50.0% of the rows" in large
    told.clear()
    split_rows(dataset.root, "rows", folds=4, listener=listener)
    assert told == []
