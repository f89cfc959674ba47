"""Damage of every kind at every place is an error that names it; `verify` finds it, `--repair` mends it."""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from foldstream.pipeline.verify import find_damage, repair_shards
from foldstream.storage.blocks.index import INDEX
from foldstream.storage.blocks.shards import index_bytes, shard_key
from foldstream.storage.dataset import Dataset, open_dataset
from foldstream.storage.errors import DamagedError, SourceError
from foldstream.storage.tasks import Result, SerialExecutor, Task
from foldstream.training.stream.filters import EveryRow
from foldstream.training.stream.order import Mixing
from foldstream.training.stream.single import TrainStream

from ..conftest import WriteCsv, convert_file, table

SHARDS = 8


@pytest.fixture
def small(write_csv: WriteCsv, tmp_path: Path) -> Dataset:
    """300 rows in 8 shards; the source stays beside it."""
    dataset = convert_file(write_csv(table(300)), tmp_path / "small.zarr", label="label")
    assert dataset.layout.shards == SHARDS
    return dataset


def missing(path: Path, other: Path) -> None:
    path.unlink()


def truncated(path: Path, other: Path) -> None:
    os.truncate(path, path.stat().st_size - 7)


def flipped(path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 16
    path.write_bytes(data)


def swapped(path: Path, other: Path) -> None:
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)


Damaging = Callable[[Path, Path], None]
kinds = pytest.mark.parametrize("damage", [missing, truncated, flipped, swapped])
shards = pytest.mark.parametrize("shard", range(SHARDS - 1))
arrays = pytest.mark.parametrize("array", ["x", "y", "id"])


def paths(dataset: Dataset, array: str, shard: int) -> tuple[Path, Path]:
    spec = dataset.spec(array)
    return dataset.root / shard_key(spec, shard), dataset.root / shard_key(spec, (shard + 3) % (SHARDS - 1))


@kinds
@shards
@arrays
def test_nothing_trains_on_damaged_data(damage: Damaging, shard: int, array: str, small: Dataset) -> None:
    path, other = paths(small, array, shard)
    damage(path, other)
    with pytest.raises(DamagedError) as caught:
        list(TrainStream(small, EveryRow(small.layout), Mixing(8)))
    named = [str(place) for place in ((path, other) if damage is swapped else (path,))]
    assert any(name in str(caught.value) for name in named)
    assert f"of {array}" in str(caught.value)


@pytest.mark.parametrize("position", range(0, 300, 11))
def test_a_bit_of_any_block_is_found(position: int, small: Dataset) -> None:
    path, _ = paths(small, "x", 2)
    data = bytearray(path.read_bytes())
    data[position * (len(data) - index_bytes(small.layout)) // 300] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=str(path)):
        list(TrainStream(small, EveryRow(small.layout), Mixing(8)))


@pytest.mark.parametrize("damage", [missing, truncated, flipped])
def test_nothing_trains_with_a_damaged_index(damage: Damaging, small: Dataset) -> None:
    damage(small.root / INDEX, small.root)
    with pytest.raises(DamagedError, match=INDEX):
        list(TrainStream(open_dataset(small.root), EveryRow(small.layout), Mixing(8)))


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@kinds
def test_damage_is_found_and_repaired_from_the_source(damage: Damaging, small: Dataset) -> None:
    before = snapshot(small.root)
    places = [("x", 1), ("y", 5)]
    for array, shard in places:
        damage(*paths(small, array, shard))
    found = find_damage(small, SerialExecutor())
    files = {damage.path for damage in found}
    assert {str(paths(small, *place)[0]) for place in places} <= files
    assert len(files) == (4 if damage is swapped else 2)
    repair_shards(small, found, SerialExecutor())
    assert snapshot(small.root) == before
    assert find_damage(open_dataset(small.root), SerialExecutor()) == []
    assert sorted(path.name for path in small.root.parent.iterdir()) == ["data.csv", "small.zarr"]


class Counting(SerialExecutor):
    """Counts the tasks."""

    tasks = 0

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        for done in super().map(function, tasks):
            self.tasks += 1
            yield done


def test_each_shard_is_checked_in_a_task_of_its_own_with_progress(small: Dataset) -> None:
    executor, shown = Counting(), list[tuple[str, int, int, str]]()
    assert find_damage(small, executor, lambda *facts: shown.append(facts)) == []
    assert executor.tasks == SHARDS
    assert shown == [("verify", done, SHARDS, "shards") for done in range(SHARDS + 1)]


def test_a_source_that_changed_repairs_nothing(small: Dataset) -> None:
    flipped(*paths(small, "x", 1))
    before, source = snapshot(small.root), small.root.parent / "data.csv"
    source.write_text(table(300, seed=1))
    found = find_damage(small, SerialExecutor())
    with pytest.raises(SourceError, match="has changed since"):
        repair_shards(small, found, SerialExecutor())
    source.unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        repair_shards(small, found, SerialExecutor())
    assert snapshot(small.root) == before


def test_another_datasets_shard_is_damage(small: Dataset, write_csv: WriteCsv, tmp_path: Path) -> None:
    other = convert_file(write_csv(table(300, seed=1), "other.csv"), tmp_path / "other.zarr", label="label")
    shutil.copy(paths(other, "x", 1)[0], paths(small, "x", 1)[0])
    assert [(damage.array, damage.shard) for damage in find_damage(small, SerialExecutor())] == [("x", 1)]
