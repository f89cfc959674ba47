"""`--shuffle SEED`: all rows, each once, in an order that the seed alone decides."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from foldstream.pipeline.tables import shuffle
from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.shuffle import FAN, READS, Partition
from foldstream.pipeline.tables.sources import describe_source
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.errors import ConflictError, UsageError
from foldstream.storage.places.local import LocalPlace
from foldstream.storage.random import shuffled_places
from foldstream.storage.tasks import Result, SerialExecutor, Task

from ..conftest import WriteCsv, contents, convert_file, table


@pytest.mark.parametrize("count", [1, 2, 3, 5, 1000, 4096, 100_003])
def test_every_row_has_a_place_of_its_own(count: int) -> None:
    places = shuffled_places(np.arange(count), count, 7)
    assert sorted(places.tolist()) == list(range(count))
    assert count < 1000 or (places != shuffled_places(np.arange(count), count, 8)).mean() > 0.99
    parts = [shuffled_places(np.arange(count)[part::3], count, 7) for part in range(3)]
    for part, expected in enumerate(parts):
        np.testing.assert_array_equal(places[part::3], expected)


def test_neighbours_part_and_no_stretch_keeps_its_place() -> None:
    count = 200_000
    places = shuffled_places(np.arange(count), count, 0)
    # Of a true shuffle: two neighbours are a third of the length apart, and every tenth gets a tenth of each tenth.
    assert np.abs(np.diff(places)).mean() == pytest.approx(count / 3, rel=0.01)
    cells = np.histogram2d(np.arange(count), places, bins=10)[0]
    assert np.abs(cells - count / 100).max() < 5 * np.sqrt(count / 100)


def test_a_shuffled_dataset_has_the_same_rows_in_another_order(write_csv: WriteCsv, tmp_path: Path) -> None:
    path = write_csv(table(3000) + "1000,1,2,3,a\n")  # the last row is what no sample shows
    plain = convert_file(path, tmp_path / "plain", label="label")
    shuffled = convert_file(path, tmp_path / "shuffled", label="label", shuffle=5)
    again = convert_file(path, tmp_path / "again", label="label", shuffle=5)
    other = convert_file(path, tmp_path / "other", label="label", shuffle=6)
    names = ("x", "y", "id")
    one, two = (BlockReader(d, names).read(range(d.layout.blocks)) for d in (plain, shuffled))
    places = shuffled_places(np.arange(3001), 3001, 5)
    for name in names:
        np.testing.assert_array_equal(two[name][places], one[name])
    assert [s.hashes for s in shuffled.manifest.shards] == [s.hashes for s in again.manifest.shards]
    assert [s.hashes for s in shuffled.manifest.shards] != [s.hashes for s in other.manifest.shards]
    assert shuffled.class_totals == plain.class_totals
    assert shuffled.statistics.mean == pytest.approx(plain.statistics.mean, rel=1e-12)


def test_a_seed_must_be_one(write_csv: WriteCsv, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the seed must be"):
        convert_file(write_csv(table(9)), tmp_path / "out", shuffle=-1)


@pytest.mark.parametrize("shards", [1, 2, 127, 128, 129, 130, 157, 1000, 10_000, 16_384, 16_385, 40_000])
def test_the_passes_bring_each_section_to_each_shard_with_few_reads(shards: int) -> None:
    partition = Partition.of(shards, FAN)
    assert partition.levels == 1 + (shards > 128) + (shards > 16_384)
    assert partition.files(0) == shards
    most = partition.fan**partition.levels / shards  # the rows of fan**level sections for fan**(levels - level) shards
    assert most < 4 / 3, "a file, which a task holds, is hardly larger than a shard"
    for level in range(1, partition.levels + 1):
        read = Counter[tuple[int, int]]()
        for file in range(partition.files(level)):
            group, segment = partition.made_of(level, file)
            files = partition.group_files(level - 1, group)
            assert 0 < len(files) <= 128
            assert {partition.group_of(level - 1, one) for one in (files[0], files[-1])} == {group}
            read[group, segment] += 1
        assert set(read.values()) == {1}
        assert partition.files(level) <= 1.4 * shards
    assert partition.files(partition.levels) == shards


@pytest.mark.parametrize(("shards", "fan"), [(1, 2), (7, 2), (8, 2), (30, 3), (65, 4)])
def test_a_row_of_each_section_gets_to_each_shard(shards: int, fan: int) -> None:
    partition = Partition.of(shards, fan)
    held = {section: {(section, shard) for shard in range(shards)} for section in range(shards)}
    for level in range(1, partition.levels + 1):
        made = {}
        for file in range(partition.files(level)):
            group, segment = partition.made_of(level, file)
            made[file] = set[tuple[int, int]]()
            for one in partition.group_files(level - 1, group):
                rows = sorted(held[one])
                found = partition.segments(level - 1, one, np.array([shard for _, shard in rows]))
                assert ((found >= 0) & (found < partition.fan)).all()
                made[file] |= {row for row, into in zip(rows, found.tolist(), strict=True) if into == segment}
        held = made
    assert held == {shard: {(section, shard) for section in range(shards)} for shard in range(shards)}


class Watched(SerialExecutor):
    """Counts the tasks, and the most files that lie between the passes; stops before a task, as a kill does."""

    def __init__(self, root: Path, last: int = -1) -> None:
        self.folder, self.last, self.tasks, self.most = root / ".work" / "shuffle", last, 0, 0

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        for done in super().map(function, tasks):
            if function.__module__ == shuffle.__name__:
                self.most = max(self.most, sum(file.suffix == "" and file.is_file() for file in self.folder.rglob("*")))
                if self.tasks == self.last:
                    raise KeyboardInterrupt
                self.tasks += 1
            yield done


def shuffled(path: Path, out: Path, last: int = -1) -> Watched:
    executor = Watched(out, last)
    convert(ConvertRequest((describe_source(str(path)),), ("label",), shuffle=5), out, executor)
    return executor


def test_more_passes_make_the_same_dataset_with_fewer_reads_in_the_space_of_one_copy(
    write_csv: WriteCsv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_csv(table(1500))
    expected = convert_file(path, tmp_path / "direct", label="label", shuffle=5)
    shards, reads = expected.layout.shards, list[str]()
    read_range = LocalPlace.read_range

    def counted(place: LocalPlace, start: int, length: int) -> bytes:
        if "/shuffle/" in place.path:
            reads.append(place.path)
        return read_range(place, start, length)

    monkeypatch.setattr(LocalPlace, "read_range", counted)
    monkeypatch.setattr(shuffle, "FAN", 3)
    watched = shuffled(path, tmp_path / "passes")
    partition = Partition.of(shards, 3)
    assert partition.levels == 2
    assert contents(convert_file(path, tmp_path / "passes", label="label", shuffle=5)) == contents(expected)
    segments = sum(partition.reads(level, range(partition.files(level))) for level in (1, 2))
    assert len(reads) == READS * segments < READS * shards**2
    assert watched.most <= shards + partition.fan + 1


def test_a_shuffle_killed_after_any_task_resumes_to_the_same_bytes(
    write_csv: WriteCsv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_csv(table(150))
    expected = convert_file(path, tmp_path / "direct", label="label", shuffle=5)
    monkeypatch.setattr(shuffle, "FAN", 2)
    whole = shuffled(path, tmp_path / "whole")
    for last in range(0, whole.tasks, 3):
        out = tmp_path / f"killed-{last}"
        with pytest.raises(KeyboardInterrupt):
            shuffled(path, out, last)
        again = shuffled(path, out)
        assert last + again.tasks <= whole.tasks + 1, "finished tasks were done again"
        assert contents(convert_file(path, out, label="label", shuffle=5)) == contents(expected)


def test_files_that_another_process_removed_are_a_conflict(
    write_csv: WriteCsv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Removing(SerialExecutor):
        def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
            if function is shuffle.gather_shard:
                LocalPlace(str(tmp_path / "out" / ".work" / "shuffle")).remove_tree()
            return super().map(function, tasks)

    request = ConvertRequest((describe_source(str(write_csv(table(150)))),), ("label",), shuffle=5)
    with pytest.raises(ConflictError, match="was removed, possibly by another process"):
        convert(request, tmp_path / "out", Removing())
