"""Rows of similar length come in the same batch, in an exact order that is a permutation within each window."""

import numpy as np
import pytest
from foldstream.training.stream.order import EpochOrder
from foldstream.training.stream.sequences.buckets import bucketed, targets_of

LANES = 8


@pytest.mark.parametrize("first", [0, 4, 40, 4096])
def test_targets_of_consecutive_steps_are_spread_evenly(first: int) -> None:
    for count in (4, 64):
        start = first // count * count
        targets = np.sort(targets_of(np.arange(start, start + count), seed=3, epoch=1))
        assert (targets.astype(np.uint64) * count >> np.uint64(32)).tolist() == list(range(count))


def test_targets_differ_by_seed_and_epoch_and_are_a_function_of_the_step_alone() -> None:
    steps = np.arange(100)
    one = targets_of(steps, 0, 0)
    assert targets_of(steps[37:], 0, 0).tolist() == one[37:].tolist()
    others = [targets_of(steps, *key) for key in [(0, 1), (0, 2), (0, 3), (1, 0), (2, 0), (3, 0)]]
    assert len({tuple(targets.tolist()) for targets in [one, *others]}) == 7
    assert min(np.corrcoef(one, other)[0, 1] for other in others) < 0.7


def test_a_window_keeps_its_rows_and_gives_short_ones_to_low_targets() -> None:
    generator = np.random.default_rng(0)
    lengths, uses = generator.integers(0, 30, 200), generator.integers(0, 200, 150)  # some rows are used twice
    targets = targets_of(np.arange(150) // 10, 0, 0)
    order = bucketed(uses, lengths, targets)
    assert sorted(order) == sorted(uses)
    by_target = lengths[order[np.argsort(targets, kind="stable")]]
    assert (np.diff(by_target) >= 0).all()
    same = [row for row in order[np.argsort(targets, kind="stable")] if lengths[row] == 7]
    assert same == [row for row in uses if lengths[row] == 7], "rows of the same length lost their random order"


def test_the_steps_of_a_windows_rows_are_those_in_which_the_lanes_use_them() -> None:
    """Also for the rows of long lanes that fill up short ones."""
    generator = np.random.default_rng(0)
    sizes = np.full(61, 20)
    kept = generator.integers(0, 21, 61)
    order = EpochOrder(sizes, kept, LANES, window=3, batch_size=32, seed=5, epoch=2)
    of_row = dict[tuple[int, int, int], int]()
    for lane in range(LANES):
        row = 0
        for part in order.slices(lane):
            for place in range(part.start, part.stop):
                of_row[part.lane, part.window, place] = (row * LANES + lane) // 32
                row += 1
    assert len(of_row) == kept.sum()
    for lane in range(LANES):
        for window, stop in enumerate(order.window_ends[lane]):
            uses = int(stop - (order.window_ends[lane][window - 1] if window else 0))
            found = order.steps_of(lane, window, uses).tolist()
            assert found == [of_row[lane, window, place] for place in range(uses)]
