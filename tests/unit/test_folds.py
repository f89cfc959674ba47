"""Folds partition the rows, evenly, in each class, and stay where they are when rows are appended."""

from functools import reduce

import numpy as np
import pytest
from foldstream.storage.random import hash64
from foldstream.training.seeding import seed_of
from foldstream.training.splits.checks import rare_classes, uneven_folds
from foldstream.training.splits.folds import Rest, contiguous, kfold, stratified
from foldstream.training.splits.ordered import sketch
from foldstream.training.splits.split import Split
from foldstream.training.splits.strata import (
    LEAST_STRATA,
    Bins,
    LabelSets,
    by_labels,
    count_labels,
    iterate,
    label_sets,
    merge_labels,
    quantile_bins,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import KFold


def split_in_runs(
    y: np.ndarray, classes: int, split: Split, run: int, repeat: int = 0, rest: Rest | None = None
) -> np.ndarray:
    """Stratified folds computed run by run, as shards are."""
    totals = np.bincount(y, minlength=classes)
    parts = []
    for start in range(0, len(y), run):
        before = np.bincount(y[:start], minlength=classes)
        parts.append(stratified(y[start : start + run], before, totals, split, repeat, rest))
    return np.concatenate(parts)


HOLDOUTS = st.sampled_from([0.0, 0.1, 0.333])


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 3000), st.integers(2, 10), st.integers(0, 3), st.integers(1, 7), HOLDOUTS, st.integers(0, 2))
def test_stratified_folds_differ_by_one_row_at_most_in_all_and_in_each_class(
    rows: int, folds: int, seed: int, classes: int, holdout: float, repeat: int
) -> None:
    y = np.random.default_rng(seed).integers(0, classes, rows)
    codes = split_in_runs(y, classes, Split(kind="stratified", folds=folds, seed=seed, holdout=holdout), rows, repeat)
    sizes = np.bincount(codes, minlength=folds + 1)
    assert sizes[:folds].max() - sizes[:folds].min() <= 1
    for code in range(classes):
        of_class = np.bincount(codes[y == code], minlength=folds + 1)
        assert of_class[:folds].max() - of_class[:folds].min() <= 1
        assert abs(of_class[folds] - holdout * of_class.sum()) <= 1


@settings(max_examples=100, deadline=None)
@given(st.integers(10, 2500), st.integers(1, 500), HOLDOUTS, st.integers(0, 1))
def test_stratified_folds_do_not_depend_on_how_the_rows_are_cut(
    rows: int, run: int, holdout: float, repeat: int
) -> None:
    y, split = np.random.default_rng(rows).integers(0, 4, rows), Split(seed=1, holdout=holdout)
    whole = split_in_runs(y, 4, split, rows, repeat)
    np.testing.assert_array_equal(split_in_runs(y, 4, split, run, repeat), whole)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 3000), st.integers(2, 10), st.integers(0, 100), HOLDOUTS)
def test_kfold_is_even_and_stable_when_rows_are_appended(rows: int, folds: int, more: int, holdout: float) -> None:
    split = Split(kind="kfold", folds=folds, seed=3, holdout=holdout)
    codes = kfold(0, rows, rows, split)
    sizes = np.bincount(codes, minlength=folds + 1)
    assert sizes[:folds].max() - sizes[:folds].min() <= 1
    assert abs(sizes[folds] - holdout * rows) <= 1
    settled = rows // 1000 * 1000 if holdout else rows
    np.testing.assert_array_equal(kfold(0, settled, rows + more, split), codes[:settled])
    np.testing.assert_array_equal(kfold(rows // 2, rows, rows, split), codes[rows // 2 :])


def test_repeats_have_other_folds_and_the_same_holdout() -> None:
    y = np.random.default_rng(0).integers(0, 4, 5000)
    one, two = (split_in_runs(y, 4, Split(repeats=2, holdout=0.2), 5000, repeat) for repeat in range(2))
    np.testing.assert_array_equal(one == 5, two == 5)
    assert (one == two)[one != 5].mean() == pytest.approx(0.2, abs=0.05)


def test_another_seed_gives_other_folds() -> None:
    assert kfold(0, 100, 100, Split(kind="kfold")).tolist() != kfold(0, 100, 100, Split(kind="kfold", seed=1)).tolist()


def test_hash64_is_fixed_for_ever() -> None:
    """Folds and orders of runs that exist depend on these numbers."""
    assert hash64(0).tolist() == [16294208416658607535]
    assert hash64(1, np.arange(2)).tolist() == hash64(np.array([1, 1]), np.arange(2)).tolist()


def test_seed_of_is_half_of_hash64() -> None:
    for keys in [(0,), (2**63, 1), (0, 4, 123_456, 7)]:
        assert seed_of(*keys) == int(hash64(*keys)[0]) >> 1


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_folds_are_mixed_over_the_rows(folds: int) -> None:
    codes = kfold(0, 5000, 5000, Split(kind="kfold", folds=folds))
    ordered = np.arange(5000) % folds
    assert (codes == ordered).mean() == pytest.approx(1 / folds, abs=0.05)


def test_stratified_codes_are_fixed_for_ever() -> None:
    """Plans of runs that exist depend on these numbers."""
    y = np.arange(40) % 3
    expected = "2302344413210500054111235421322430043101"
    codes = split_in_runs(y, 3, Split(kind="stratified", holdout=0.1), 40)
    assert "".join(map(str, codes)) == expected


@pytest.mark.parametrize("rows", [7, 10, 33])
def test_contiguous_folds_are_scikit_learns_without_shuffling(rows: int) -> None:
    split = Split(kind="contiguous", folds=7)
    codes = np.concatenate([contiguous(0, 4, rows, split), contiguous(4, rows, rows, split)])
    for fold, (_, held_out) in enumerate(KFold(7).split(np.zeros(rows))):
        np.testing.assert_array_equal(np.flatnonzero(codes == fold), held_out)


def test_the_holdout_of_contiguous_folds_is_the_last_rows() -> None:
    codes = contiguous(0, 100, 100, Split(kind="contiguous", folds=3, holdout=0.25))
    assert np.bincount(codes).tolist() == [25] * 4
    assert (np.diff(codes.astype(int)) >= 0).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=2, max_size=300), st.integers(1, 9), st.integers(2, 10), st.booleans())
def test_bins_of_a_target_have_a_row_for_every_fold(values: list[int], shards: int, folds: int, distinct: bool) -> None:
    """Whatever values are equal, bins are of as many rows as there are folds, or there is only one."""
    y = np.array(values, np.float32) + (np.arange(len(values)) / 1000 if distinct else 0)
    sketches = [sketch(part, shards) for part in np.array_split(y, min(shards, len(y)))]
    bins = quantile_bins(sketches, len(y), folds)
    totals = np.bincount(bins.of(y), minlength=bins.count)
    joined = bins.joined(totals, folds)
    rows = np.bincount(joined.of(y), minlength=joined.count)
    assert rows.sum() == len(y)
    assert joined.count == 1 or rows.min() >= folds
    assert set(joined.edges) <= set(bins.edges)
    if distinct and len(np.unique(y)) == len(y):
        assert bins.count == max(1, min(10, len(y) // folds))
        assert totals.max() - totals.min() <= 1


def test_bins_that_are_too_small_are_joined() -> None:
    bins = Bins((1.0, 2.0, 3.0, 4.0))
    assert bins.joined(np.array([5, 1, 1, 9, 2]), 3).edges == (1.0,)
    assert bins.joined(np.array([5, 4, 1, 9, 3]), 3).edges == (1.0, 2.0, 4.0)
    assert bins.joined(np.array([1, 1, 0, 0, 0]), 3).edges == ()


def split_by_labels(y: np.ndarray, split: Split, run: int, repeat: int = 0, shards: int = 8) -> np.ndarray:
    """Codes of rows with labels, (rows, labels), computed run by run; the strata are those of so many shards."""
    runs = [y[start : start + run] for start in range(0, len(y), run)]
    names = [f"label {number}" for number in range(y.shape[1])]
    strata = label_sets(reduce(merge_labels, (count_labels(part, names, 0) for part in runs)), shards)
    of_rows = strata.of(y)
    totals, having = np.bincount(of_rows, minlength=strata.count), np.zeros((strata.count, y.shape[1]), np.int64)
    np.add.at(having, of_rows, y.astype(np.int64))
    return split_in_runs(of_rows, strata.count, split, run, repeat, by_labels(totals, having, split, repeat))


def labels_of(seed: int, rows: int, labels: int, most: float) -> np.ndarray:
    """Labels of different frequency, (rows, labels) float32."""
    draw = np.random.default_rng(seed)
    return (draw.random((rows, labels)) < most * draw.random(labels)).astype(np.float32)


@pytest.mark.parametrize("holdout", [0.0, 0.2])
@pytest.mark.parametrize(
    ("rows", "labels", "most", "shards"),
    [(1000, 5, 0.5, 8), (600, 12, 0.3, 8), (900, 30, 0.1, 8), (4000, 20, 0.3, 1 << 20)],
    ids=["few sets", "many sets", "sparse labels", "more sets than strata"],
)
def test_every_label_is_spread_evenly(rows: int, labels: int, most: float, shards: int, holdout: float) -> None:
    y = labels_of(rows, rows, labels, most)
    codes = split_by_labels(y, Split(folds=5, holdout=holdout), rows, shards=shards)
    at_random = np.random.default_rng(0).permutation(codes)

    def distance(codes: np.ndarray) -> float:
        """The mean distance of the rows of a label in a fold from their share."""
        found = np.stack([y[codes == fold].sum(axis=0) for fold in range(5)])
        return float(np.abs(found - (1 - holdout) / 5 * y.sum(axis=0)).mean())

    assert distance(codes) <= (0.5 if shards == 8 else 0.9) * distance(at_random)
    sizes = np.bincount(codes, minlength=6)
    assert sizes[:5].max() - sizes[:5].min() <= 0.05 * rows
    assert sizes[5] == pytest.approx(holdout * rows, abs=0.02 * rows)


@pytest.mark.parametrize("run", [1, 7, 100])
def test_folds_of_labels_do_not_depend_on_how_the_rows_are_cut(run: int) -> None:
    y, split = labels_of(1, 200, 4, 0.6), Split(folds=3, holdout=0.2, repeats=2)
    for repeat in range(2):
        np.testing.assert_array_equal(split_by_labels(y, split, run, repeat), split_by_labels(y, split, 200, repeat))
    one, two = (split_by_labels(y, split, 200, repeat) for repeat in range(2))
    np.testing.assert_array_equal(one == 3, two == 3)
    assert not np.array_equal(one, two)
    assert not np.array_equal(split_by_labels(y, Split(folds=3, seed=1, holdout=0.2), 200), one)


def test_the_rarest_label_comes_first() -> None:
    """Ten rows, each with labels of its own: five have a rare label, and one of each five goes to every fold."""
    rates = np.zeros((10, 12))
    rates[np.arange(10), np.arange(10)] = 1
    rates[:5, 10], rates[:8, 11] = 1, 1
    found = iterate(rates, np.ones(10, np.int64), np.full((5, 10), 1 / 5), 0)
    assert sorted(bins[0] for bins in found[:5]) == list(range(5))
    assert np.bincount([bins[0] for bins in found]).tolist() == [2] * 5


def test_rows_left_of_strata_differ_between_repeats() -> None:
    split, totals, having = Split(folds=5, repeats=2), np.full(8, 3), np.array([[3, 0], [0, 3]] * 4)
    one, two = (by_labels(totals, having, split, repeat).folds for repeat in range(2))
    assert not np.array_equal(one, two)


def test_a_rare_label_is_spread_evenly_though_hardly_two_rows_have_the_same_labels() -> None:
    y = (np.random.default_rng(0).random((5000, 40)) < 0.4).astype(np.float32)
    y[:, 23] = np.arange(5000) % 500 == 99
    codes = split_by_labels(y, Split(folds=5), 5000, shards=1 << 20)
    assert np.bincount(codes[y[:, 23] == 1], minlength=5).tolist() == [2] * 5


def test_strata_of_labels_are_few_whatever_sets_there_are() -> None:
    y = labels_of(0, 5000, 40, 0.8)
    strata = label_sets(count_labels(y, ["label"] * 40, 0), 1 << 20)
    assert isinstance(strata, LabelSets)
    assert strata.count == LEAST_STRATA
    assert 0 <= strata.of(y).min() <= strata.of(y).max() < LEAST_STRATA
    many = reduce(merge_labels, (count_labels(part, ["label"] * 40, 0) for part in np.array_split(y, 9)))
    assert len(many.sets) <= 4096
    np.testing.assert_array_equal(many.rows, y.sum(axis=0))


def test_rare_classes_are_named_with_their_rows() -> None:
    assert rare_classes(["a", "b"], [5, 100], 5) == []
    (one,) = rare_classes(["a", "b", "c"], [5, 1, 100], 5)
    assert one.startswith(
        "class 'b' has 1 row, fewer than the 5 folds, so it is missing from the held-out rows of some"
    )
    lines = rare_classes([f"class {number}" for number in range(9)], [2] * 9, 3)
    assert len(lines) == 6
    assert "class 'class 0' has 2 rows" in lines[0]
    assert lines[-1] == "4 more classes have fewer rows than the 3 folds"


def test_the_largest_group_is_named_where_folds_are_uneven() -> None:
    assert uneven_folds([10, 20, 15], 3, 0.4) == []
    (line,) = uneven_folds([10, 20, 15, 30, 50, 21], 3, 0.48)
    assert line.startswith("fold 4 holds out 50 rows, but fold 5 only 21: the largest group has 48.0% of the rows")
