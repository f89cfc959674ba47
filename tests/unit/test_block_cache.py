"""The local cache of remote blocks: bounded, and what is needed last goes first."""

from pathlib import Path

import numpy as np
import pytest
from foldstream.storage.places import block_cache
from foldstream.storage.places.block_cache import FOLDER, BlockCache

SIZE = 100


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return tmp_path


class Remote:
    """Counts what is loaded."""

    def __init__(self, cache: BlockCache) -> None:
        self.cache, self.loads = cache, 0

    def read(self, block: int) -> bytes:
        def load() -> bytes:
            self.loads += 1
            return bytes([block]) * SIZE

        return self.cache.read(("x", block), load)


def read_epochs(cache: BlockCache, orders: list[np.ndarray]) -> list[int]:
    """Read the blocks of each epoch in its order, knowing the next one's. Returns what each had to load."""
    remote, loads = Remote(cache), []
    for epoch, order in enumerate(orders[:-1]):
        cache.needed[orders[epoch + 1]] = (epoch + 1) * len(order) + np.arange(len(order))
        before = remote.loads
        for block in order.tolist():
            assert remote.read(block) == bytes([block]) * SIZE
            assert cache.bytes <= cache.limit
        loads.append(remote.loads - before)
    return loads


def belady(orders: list[np.ndarray], room: int) -> list[int]:
    """What each epoch loads at best, if a block may also be passed on without being kept."""
    kept: dict[int, int] = {}
    loads = []
    for epoch, order in enumerate(orders[:-1]):
        loaded = 0
        place = {int(block): (epoch + 1) * len(order) + i for i, block in enumerate(orders[epoch + 1])}
        for block in order.tolist():
            loaded += block not in kept
            kept[block] = place[block]
            if len(kept) > room:
                del kept[max(kept, key=lambda other: kept[other])]
        loads.append(loaded)
    return loads


@pytest.mark.parametrize("room", [1, 7, 20, 39, 40])
def test_no_order_that_is_known_could_load_less(room: int, folder: Path) -> None:
    random = np.random.default_rng(room)
    orders = [random.permutation(40) for _ in range(8)]
    loads = read_epochs(BlockCache(room * SIZE, "data", 40), orders)
    assert loads == belady(orders, room)
    assert sum(path.stat().st_size for path in (folder / "data").iterdir()) <= room * SIZE


def test_what_an_earlier_process_left_is_shared_out_and_bounded(folder: Path) -> None:
    read_epochs(BlockCache(10 * SIZE, "data", 10), [np.arange(10)] * 2)
    shares = [BlockCache(3 * SIZE, "data", 10, (rank, 2)) for rank in range(2)]
    assert [cache.bytes for cache in shares] == [3 * SIZE, 3 * SIZE]
    assert len(list((folder / "data").iterdir())) == 6


def test_a_block_that_is_dropped_is_loaded_again(folder: Path) -> None:
    remote = Remote(BlockCache(10 * SIZE, "data", 10))
    remote.read(3)
    (folder / "data" / "x-3").write_bytes(b"half")
    assert remote.read(3) == b"half"
    remote.cache.drop(("x", 3))
    assert remote.read(3) == bytes([3]) * SIZE
    assert (remote.loads, remote.cache.bytes) == (2, SIZE)


def test_training_goes_on_where_nothing_can_be_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(block_cache._log, "warning", lambda text, *values: warnings.append(text % values))
    remote = Remote(BlockCache(10 * SIZE, "data", 10))
    (folder / "data").rmdir()
    assert [remote.read(3), remote.read(3)] == [bytes([3]) * SIZE] * 2
    assert (remote.loads, remote.cache.bytes) == (2, 0)
    assert ["blocks" in warning for warning in warnings] == [True]
