"""Folds partition the rows, evenly, in each class, and stay where they are when rows are appended."""

import numpy as np
import pytest
from foldstream.training.folds import kfold, stratified
from foldstream.training.seeding import hash64, seed_of
from hypothesis import given, settings
from hypothesis import strategies as st


def split_in_runs(y: np.ndarray, classes: int, folds: int, seed: int, run: int) -> np.ndarray:
    """Stratified folds computed run by run, as shards are."""
    totals = np.bincount(y, minlength=classes)
    parts = []
    for start in range(0, len(y), run):
        before = np.bincount(y[:start], minlength=classes)
        parts.append(stratified(y[start : start + run], before, totals, folds, seed))
    return np.concatenate(parts)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 400), st.integers(2, 10), st.integers(0, 3), st.integers(1, 7))
def test_stratified_folds_differ_by_one_row_at_most_in_all_and_in_each_class(
    rows: int, folds: int, seed: int, classes: int
) -> None:
    y = np.random.default_rng(seed).integers(0, classes, rows)
    codes = split_in_runs(y, classes, folds, seed, run=rows)
    sizes = np.bincount(codes, minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    for code in range(classes):
        of_class = np.bincount(codes[y == code], minlength=folds)
        assert of_class.max() - of_class.min() <= 1


@settings(max_examples=100, deadline=None)
@given(st.integers(10, 300), st.integers(1, 50))
def test_stratified_folds_do_not_depend_on_how_the_rows_are_cut(rows: int, run: int) -> None:
    y = np.random.default_rng(rows).integers(0, 4, rows)
    np.testing.assert_array_equal(split_in_runs(y, 4, 5, 1, run), split_in_runs(y, 4, 5, 1, rows))


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 300), st.integers(2, 10), st.integers(0, 100))
def test_kfold_is_even_and_stable_when_rows_are_appended(rows: int, folds: int, more: int) -> None:
    codes = kfold(0, rows, folds, 3)
    sizes = np.bincount(codes, minlength=folds)
    assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(kfold(0, rows + more, folds, 3)[:rows], codes)
    np.testing.assert_array_equal(kfold(rows // 2, rows, folds, 3), codes[rows // 2 :])


def test_another_seed_gives_other_folds() -> None:
    assert kfold(0, 100, 5, 0).tolist() != kfold(0, 100, 5, 1).tolist()


def test_hash64_is_fixed_for_ever() -> None:
    """Folds and orders of runs that exist depend on these numbers."""
    assert hash64(0).tolist() == [16294208416658607535]
    assert hash64(1, np.arange(2)).tolist() == hash64(np.array([1, 1]), np.arange(2)).tolist()


def test_seed_of_is_half_of_hash64() -> None:
    for keys in [(0,), (2**63, 1), (0, 4, 123_456, 7)]:
        assert seed_of(*keys) == int(hash64(*keys)[0]) >> 1


@pytest.mark.parametrize("folds", [2, 5, 10])
def test_folds_are_mixed_over_the_rows(folds: int) -> None:
    codes = kfold(0, 5000, folds, 0)
    ordered = np.arange(5000) % folds
    assert (codes == ordered).mean() == pytest.approx(1 / folds, abs=0.05)
