"""Folds partition the rows, evenly, in each class, and stay where they are when rows are appended."""

import numpy as np
import pytest
from foldstream.storage.random import hash64
from foldstream.training.seeding import seed_of
from foldstream.training.splits.folds import kfold, stratified
from foldstream.training.splits.split import Split
from hypothesis import given, settings
from hypothesis import strategies as st


def split_in_runs(y: np.ndarray, classes: int, split: Split, run: int, repeat: int = 0) -> np.ndarray:
    """Stratified folds computed run by run, as shards are."""
    totals = np.bincount(y, minlength=classes)
    parts = []
    for start in range(0, len(y), run):
        before = np.bincount(y[:start], minlength=classes)
        parts.append(stratified(y[start : start + run], before, totals, split, repeat))
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
