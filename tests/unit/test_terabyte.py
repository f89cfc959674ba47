"""A hundredth of the simulated terabyte: it asserts what must hold. `make bench-terabyte` does all of it."""

import numpy as np
import pytest
from foldstream.storage.fold_plan import ModelRows
from foldstream.storage.format.layout import Layout
from foldstream.training.stream.loads import schedule_loads
from foldstream.training.stream.order import EpochOrder

from ..benchmarks.simulated_conversion import plan_shuffle
from ..benchmarks.simulated_terabyte import BATCH, CodedRows, check_parts, simulate


def test_the_plans_of_all_workers_hold_each_row_once() -> None:
    figures = simulate(100)
    assert (figures["shards"], figures["blocks"]) == (100, 5_000)
    assert 1 <= figures["reads_a_window"] < 1.1
    assert figures["finished"] == 99  # a killed conversion reads their receipts


def test_the_reads_of_a_shuffle_do_not_grow_with_the_square_of_the_shards() -> None:
    figures = plan_shuffle(10_000)
    assert figures["shuffle_reads"] == 2 * 2 * 100 * 10_000
    assert figures["most_reads"] <= 256
    assert figures["resume_reads"] == figures["shuffle_reads"] // 4
    assert plan_shuffle(100)["passes"] == 2


@pytest.mark.parametrize("column", [0, 1, 2, 3], ids=["lane", "window", "start", "stop"])
def test_a_plan_that_is_wrong_in_one_number_is_found(column: int) -> None:
    layout = Layout(20_000, 50, 10)
    codes = np.arange(layout.rows, dtype=np.uint8) % 2
    counts = np.stack([np.bincount(part, minlength=2) for part in codes.reshape(-1, 50)])
    rows = CodedRows(layout, lambda start, stop: codes[start:stop], counts, ModelRows("fold", (0,), (1,)))
    order = EpochOrder(layout.block_sizes(), rows.kept(), lanes=8, window=4, batch_size=BATCH, seed=0, epoch=0)
    loads = (load.part for load in schedule_loads(order, range(8), 0))
    parts = np.array([(part.lane, part.window, part.start, part.stop) for part in loads])
    check_parts(parts, order, rows)
    parts[len(parts) // 2, column] += 1
    with pytest.raises((AssertionError, IndexError)):
        check_parts(parts, order, rows)
