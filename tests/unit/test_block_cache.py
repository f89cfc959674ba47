"""The local cache of remote blocks: bounded, and what is needed last goes first."""

import random
import shutil
import subprocess
import sys
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from foldstream.storage.places import block_cache
from foldstream.storage.places.block_cache import FOLDER, BlockCache, Budget, stored_blocks

SIZE = 100
READERS, SECONDS = 4, 3
READER = """
import random, sys
from foldstream.storage.places.block_cache import BlockCache
chance = random.Random(int(sys.argv[1]))
print("ready", flush=True)
while True:
    cache = BlockCache(3000, f"data{chance.randrange(2)}", 60)
    for _ in range(chance.randrange(200)):
        block = chance.randrange(60)
        cache.needed[block] = chance.randrange(1000)
        assert cache.read(("x", block), lambda: bytes([block]) * 100) == bytes([block]) * 100
"""
"""What a process does with the cache in the test with kills."""


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


def bytes_in(folder: Path) -> int:
    """The bytes of all blocks in the cache."""
    return sum(size for dataset in folder.iterdir() if dataset.is_dir() for _, _, size in stored_blocks(dataset))


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
    assert bytes_in(folder) <= room * SIZE


def test_what_an_earlier_process_left_is_shared_out_and_bounded(folder: Path) -> None:
    read_epochs(BlockCache(10 * SIZE, "data", 10), [np.arange(10)] * 2)
    shares = [BlockCache(6 * SIZE, "data", 10, (rank, 2)) for rank in range(2)]
    assert [cache.bytes for cache in shares] == [3 * SIZE, 3 * SIZE]
    assert bytes_in(folder) == 6 * SIZE


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
    shutil.rmtree(folder)
    assert [remote.read(3), remote.read(3)] == [bytes([3]) * SIZE] * 2
    assert (remote.loads, remote.cache.bytes) == (2, 0)
    assert ["blocks" in warning for warning in warnings] == [True]


def test_files_of_others_are_ignored(folder: Path) -> None:
    (folder / "data" / "x-3").mkdir(parents=True)
    for name in ("notes", "x-old", "x-99999", "-1", "x-\u0663"):
        (folder / "data" / name).write_bytes(b"of another program")
    remote = Remote(BlockCache(10 * SIZE, "data", 10))
    assert [remote.read(block) for block in (3, 4, 4)] == [bytes([block]) * SIZE for block in (3, 4, 4)]
    assert (remote.loads, remote.cache.bytes) == (2, SIZE)


def test_a_block_that_another_process_removed_is_kept_again(folder: Path) -> None:
    remote = Remote(BlockCache(SIZE, "data", 10))
    for _ in range(3):
        remote.read(3)
        (folder / "data" / "x-3").unlink()
        with Budget(folder, 0) as budget:
            budget.add(-SIZE)
    assert (remote.loads, remote.cache.bytes) == (3, SIZE)


def test_all_processes_share_one_budget_and_datasets_that_nobody_uses_make_room(folder: Path) -> None:
    first, second = (Remote(BlockCache(10 * SIZE, name, 10)) for name in ("first", "second"))
    for block in range(6):
        first.read(block)
        second.read(block)
    assert bytes_in(folder) == 10 * SIZE
    assert (first.cache.bytes, second.cache.bytes) == (5 * SIZE, 5 * SIZE)
    del first
    third = Remote(BlockCache(10 * SIZE, "third", 10))
    for block in range(6):
        third.read(block)
    assert (third.cache.bytes, bytes_in(folder)) == (5 * SIZE, 10 * SIZE), "the second one is still in use"
    assert not (folder / "first").exists()


def test_processes_that_are_killed_leave_whole_blocks_within_the_budget(folder: Path) -> None:
    chance = random.Random(0)

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", READER, str(chance.random())[2:]]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def kill(reader: subprocess.Popen[bytes]) -> None:
        assert reader.stdout
        reader.stdout.read(1)  # it has begun
        sizes.append(bytes_in(folder))
        reader.kill()
        assert reader.communicate()[1] == b""

    sizes: list[int] = []
    readers, deadline = [start() for _ in range(READERS)], monotonic() + SECONDS
    try:
        while monotonic() < deadline:
            kill(readers.pop(chance.randrange(READERS)))
            readers.append(start())
        for reader in readers:
            kill(reader)
    finally:
        for reader in readers:
            reader.kill()
    caches = [BlockCache(30 * SIZE, f"data{number}", 60) for number in range(2)]
    assert max(sizes) <= 30 * SIZE
    with Budget(folder, 0) as budget:
        assert budget.bytes == bytes_in(folder) == sum(cache.bytes for cache in caches)
    for dataset in ("data0", "data1"):
        for path, (_, block), _ in stored_blocks(folder / dataset):
            assert path.read_bytes() == bytes([block]) * SIZE
    assert not list(folder.glob("*/.*.tmp"))
