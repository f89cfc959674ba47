"""A dataset's rows as users look at them: as arrays, as a table, and in torch's DataLoader."""

from pathlib import Path

import foldstream as fs
import numpy as np
import pandas as pd
import pytest
import torch
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import UsageError
from torch.utils.data import DataLoader

from ..conftest import convert_file

TEXT = "id,age,city,born,label,w,note\n" + "".join(
    f"{i + 100},{'' if i % 7 == 3 else i % 90},{('Rome', 'Oslo', '')[i % 3]},{1990 + i % 30}-05-0{i % 9 + 1},"
    f"{'yes' if i % 4 else 'no'},{i % 5}.5,text {i}\n"
    for i in range(200)
)


@pytest.fixture
def people(tmp_path: Path) -> fs.Dataset:
    (tmp_path / "people.csv").write_text(TEXT)
    roles = {"weight": ("w",), "keep": ("note",)}
    convert_file(tmp_path / "people.csv", tmp_path / "people.zarr", "label", id="id", roles=roles)
    return fs.open(tmp_path / "people.zarr")


def test_rows_are_the_arrays_that_are_stored(digits: Dataset) -> None:
    dataset = fs.open(digits.place)
    stored = BlockReader(digits, ("x", "y", "id")).read(range(digits.layout.blocks))
    for index in (0, -1, 77):
        row = dataset[index]
        assert (row.x.shape, row.y, row.id) == (digits.schema.sample_shape, stored["y"][index], stored["id"][index])
        np.testing.assert_array_equal(row.x, stored["x"][index])
    for several in (slice(5, 900, 7), [4, 3, 900, 3], np.arange(len(dataset)) % 100 == 1):
        for found, name in zip(dataset[several], ("x", "y", "id"), strict=True):
            np.testing.assert_array_equal(found, stored[name][several])
    with pytest.raises(UsageError, match="row 1200 does not exist; use rows from 0 to 1,199"):
        dataset[1200]


def test_a_data_loader_takes_the_dataset(digits: Dataset) -> None:
    batches = list(DataLoader(fs.open(digits.place), batch_size=500))  # type: ignore[arg-type]
    assert [len(batch.id) for batch in batches] == [500, 500, 200]
    assert torch.cat([batch.id for batch in batches]).tolist() == list(range(1200))


def test_a_table_has_the_names_and_values_of_the_source(people: fs.Dataset, tmp_path: Path) -> None:
    source = pd.read_csv(tmp_path / "people.csv", keep_default_na=True)
    found = people.rows([3, 150, 8])
    expected = source.iloc[[3, 150, 8]]
    assert found.index.tolist() == [3, 150, 8]
    assert sorted(found.columns) == sorted(source.columns)
    for name in ("id", "age", "w"):
        np.testing.assert_array_equal(found[name].astype(float), expected[name].astype(float))
    for name in ("city", "label", "note"):
        assert found[name].fillna("").tolist() == expected[name].fillna("").tolist()
    assert found["born"].tolist() == pd.to_datetime(expected["born"]).tolist()
    assert people.rows().index.tolist() == list(range(10))
    assert people.rows(slice(-2, None)).index.tolist() == [198, 199]
    with pytest.raises(UsageError, match="does not exist"):
        people.rows([200])
