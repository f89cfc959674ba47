"""`--shuffle SEED`: all rows, each once, in an order that the seed alone decides."""

from pathlib import Path

import numpy as np
import pytest
from foldstream.storage.errors import UsageError
from foldstream.storage.random import shuffled_places
from foldstream.storage.reader import BlockReader

from ..conftest import WriteCsv, convert_file, table


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
