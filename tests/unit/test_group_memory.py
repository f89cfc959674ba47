"""Rows reach their places whatever their length, and before another thread reads them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from foldstream.storage.format.arrays import ArraySpec
from foldstream.training.stream.group_memory import GroupMemory, scatter


@pytest.mark.parametrize("width", [1, 4, 12, 48, 64, 80, 100, 784, 785, 3072])
@pytest.mark.parametrize("shift", [0, 1, 8])
def test_rows_of_any_length_at_any_address_reach_their_places(width: int, shift: int) -> None:
    draw = np.random.default_rng(width)
    source = draw.integers(0, 256, 50 * width + shift, np.uint8)[shift:].reshape(50, width)
    target = np.zeros(90 * width + shift, np.uint8)[shift:].reshape(90, width)
    rows, places = draw.permutation(50)[:40] + 7, draw.permutation(90)[:40]
    scatter((source,), rows, 7, places, (target,))
    expected = np.zeros_like(target)
    expected[places] = source[rows - 7]
    assert np.array_equal(target, expected)


def test_what_a_thread_has_copied_is_read_by_another() -> None:
    spec = ArraySpec("x", "|u1", (1024,))
    memory, rows = GroupMemory([spec], 2, 500), np.arange(500)
    with ThreadPoolExecutor(1) as thread:
        for number in range(100):
            values = np.full((500, 1024), number, np.uint8)
            thread.submit(memory.put, {"x": values}, rows, rows + 500).result()
            assert (memory._columns["x"][500:] == number).all()
