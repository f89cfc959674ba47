"""The order of samples holds its promises for any sizes, folds, lanes and world sizes."""

import tracemalloc

import numpy as np
from foldstream.training.stream.order import EpochOrder
from hypothesis import given, settings
from hypothesis import strategies as st


@st.composite
def orders(draw: st.DrawFn) -> EpochOrder:
    blocks = draw(st.integers(1, 60))
    sizes = np.full(blocks, draw(st.integers(1, 12)))
    sizes[-1] = draw(st.integers(1, int(sizes[0])))
    kept = np.array([draw(st.integers(0, int(size))) for size in sizes])
    lanes = draw(st.sampled_from([8, 16, 24]))
    return EpochOrder(
        sizes,
        kept,
        lanes,
        window=draw(st.integers(1, 5)),
        batch_size=(size := draw(st.integers(1, 50))),
        seed=draw(st.integers(0, 5)),
        epoch=draw(st.integers(0, 5)),
        least=draw(st.integers(1, size)),
        whole_lanes=draw(st.booleans()),
    )


def lane_rows(order: EpochOrder, lane: int, start: int = 0) -> list[tuple[int, int, int]]:
    """The course of a lane as (lane, window, position among the window's kept rows)."""
    return [(s.lane, s.window, row) for s in order.slices(lane, start) for row in range(s.start, s.stop)]


@settings(max_examples=200, deadline=None)
@given(orders())
def test_no_row_comes_twice_and_only_a_small_last_batch_is_dropped(order: EpochOrder) -> None:
    rows = [row for lane in range(order.lanes) for row in lane_rows(order, lane)]
    assert len(rows) == len(set(rows)) == order.batches.rows
    assert 0 <= order.dropped < order.least
    assert order.dropped + len(rows) == order.kept.sum()
    sizes = order.batches.sizes(range(order.steps))
    assert sum(sizes) == len(rows)
    assert set(sizes[:-1]) <= {order.batch_size}
    assert all(order.least <= size <= order.batch_size for size in sizes[-1:])
    for lane, window, row in rows:
        assert row < order.kept[order.window_blocks(lane, window)].sum()


@settings(max_examples=200, deadline=None)
@given(orders(), st.data())
def test_any_position_is_reached_directly(order: EpochOrder, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, order.steps))
    for lane in range(order.lanes):
        before = order.batches.rows_before(step, lane, order.lanes)
        assert lane_rows(order, lane, before) == lane_rows(order, lane)[before:]


@settings(max_examples=100, deadline=None)
@given(orders(), st.sampled_from([1, 2, 3, 8]))
def test_the_parts_of_a_batch_take_turns(order: EpochOrder, parts: int) -> None:
    batches = order.batches
    for step in range(batches.steps):
        rows = np.arange(step * batches.batch_size, min((step + 1) * batches.batch_size, batches.rows))
        for part in range(parts):
            assert batches.sizes(range(step, step + 1), part, parts) == [(rows % parts == part).sum()]


@settings(max_examples=50, deadline=None)
@given(orders())
def test_blocks_are_dealt_to_the_lanes_once_each(order: EpochOrder) -> None:
    windows = [
        order.window_blocks(lane, window)
        for lane in range(order.lanes)
        for window in range(len(order.window_ends[lane]))
    ]
    dealt = np.concatenate([np.zeros(0, int), *windows])
    assert sorted(dealt.tolist()) == list(range(len(order.sizes)))


def test_another_epoch_or_seed_is_another_order() -> None:
    sizes = np.full(64, 10)
    first, epoch, seed = (EpochOrder(sizes, sizes, 8, 2, 16, s, e) for s, e in ((0, 0), (0, 1), (1, 0)))
    assert first.blocks.tolist() != epoch.blocks.tolist()
    assert first.blocks.tolist() != seed.blocks.tolist()
    used = np.ones(20, bool)
    assert first.mixed_rows(0, 0, used).tolist() != epoch.mixed_rows(0, 0, used).tolist()


def test_the_order_of_a_billion_rows_is_small() -> None:
    sizes = np.full(500_000, 2_000)
    tracemalloc.start()
    order = EpochOrder(sizes, sizes, lanes=8, window=8, batch_size=256, seed=0, epoch=0)
    first = next(order.slices(5, order.batches.rows_before(order.steps // 2, 5, order.lanes)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(order.window_blocks(first.lane, first.window)) == 8
    assert peak < 200e6
