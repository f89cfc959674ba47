"""A dataset is whole or refused; damage is named; unfinished work is resumed to the same bytes."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import foldstream as fs
import numpy as np
import pytest
import xarray
import zarr
from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.sources import describe_source
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import Dataset, open_dataset
from foldstream.storage.errors import ConflictError, DamagedError, ForeignError, IncompleteError, UsageError
from foldstream.storage.format.layout import choose_layout
from foldstream.storage.tasks import Result, SerialExecutor, Task

from ..conftest import convert_file


class Killed(BaseException):
    """Stands for the death of the process in the middle of its tasks."""


class DyingExecutor(SerialExecutor):
    """Dies after some tasks."""

    def __init__(self, tasks: int) -> None:
        self.left = tasks

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        for item in super().map(function, tasks):
            if not self.left:
                raise Killed
            self.left -= 1
            yield item


def files_of(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_plain_zarr_and_xarray_open_it_without_foldstream(digits: Dataset) -> None:
    group = zarr.open_group(digits.root, mode="r")
    x = group["x"]
    assert isinstance(x, zarr.Array)
    assert x.shape == (1200, 1, 28, 28)
    assert x.dtype == np.dtype("uint8")
    rows = BlockReader(digits, ("x", "y", "id")).read(range(digits.layout.blocks))
    with xarray.open_zarr(digits.root) as data:
        for name in ("x", "y", "id"):
            np.testing.assert_array_equal(data[name].to_numpy(), rows[name])
        assert data.x.dims == ("row", "channel", "height", "width")


@pytest.mark.parametrize(
    ("rows", "row_bytes"), [(1, 8), (5, 784), (60, 784), (300, 8), (1200, 784), (60_000, 784), (10**9, 784), (7, 10**9)]
)
@pytest.mark.usefixtures("usual_blocks")
def test_layouts_are_within_their_bounds(rows: int, row_bytes: int) -> None:
    layout = choose_layout(rows, row_bytes)
    assert layout.block_rows * row_bytes <= max(row_bytes, 2 << 20)
    assert layout.blocks >= (256 if rows >= 60_000 else min(rows, 8))
    assert layout.shards >= min(rows, 8)
    assert sum(layout.block_sizes()) == rows
    assert layout.shard_range(layout.shards - 1)[1] == rows
    if rows == 10**9:
        assert 64 << 20 <= layout.shard_rows * row_bytes <= 256 << 20


@pytest.mark.parametrize("tasks", [0, 1, 2, 5, 9])
def test_a_conversion_that_died_resumes_to_the_same_bytes(
    tasks: int, digits: Dataset, digits_csv: Path, tmp_path: Path
) -> None:
    request = ConvertRequest((describe_source(str(digits_csv)),), labels=("label",), shape=(1, 28, 28))
    out = tmp_path / "again.zarr"
    with pytest.raises(Killed):
        convert(request, out, DyingExecutor(tasks))
    if out.exists():
        with pytest.raises(IncompleteError, match="run the same command again"):
            open_dataset(out)
    convert(request, out, SerialExecutor())
    assert files_of(out) == files_of(digits.root)


def test_the_same_request_on_a_finished_dataset_does_nothing(digits: Dataset, digits_csv: Path) -> None:
    request = ConvertRequest((describe_source(str(digits_csv)),), labels=("label",), shape=(1, 28, 28))
    assert convert(request, digits.root, DyingExecutor(0)).identity == digits.identity


def test_another_request_on_a_target_is_refused(digits: Dataset, digits_csv: Path, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match=r"another dataset: --shape was 1,28,28 and is now not given; choose"):
        convert_file(digits_csv, digits.root, label="label")
    unfinished = tmp_path / "u.zarr"
    with pytest.raises(Killed):
        convert(ConvertRequest((describe_source(str(digits_csv)),), labels=("label",)), unfinished, DyingExecutor(3))
    before = files_of(unfinished)
    with pytest.raises(ConflictError, match=r"unfinished conversion with other options .*\(--dtype was auto"):
        convert_file(digits_csv, unfinished, label="label", dtype="float32")
    assert files_of(unfinished) == before


def test_what_differs_from_another_request_is_said(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("x,y,g\n1,2,3\n3,4,5\n")
    out, one, other = tmp_path / "out.zarr", str(tmp_path / "a.csv"), str(tmp_path / "b.csv")
    fs.convert_csv(one, out, label="y", group="g")
    with pytest.raises(ConflictError, match=r"label was y and is now x; group was g and is now not given; delim"):
        fs.convert_csv(one, out, label="x", csv={"delimiter": ","})
    with pytest.raises(ConflictError, match=r"dataset: sources that are new: .*/b\.csv; choose"):
        fs.convert_csv([one, other], out, label="y", group="g")
    Path(one).write_text("x,y,g\n9,9,9\n1,2,3\n")
    with pytest.raises(ConflictError, match=r"sources that are new: .*/b\.csv, changed: .*/a\.csv; choose"):
        fs.convert_csv([one, other], out, label="y", group="g")


def test_overwrite_replaces_a_dataset_and_spares_it_if_the_new_command_fails(digits_csv: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.zarr"
    convert_file(digits_csv, out, label="label")
    before = files_of(out)
    source = describe_source(str(digits_csv))
    with pytest.raises(UsageError):
        convert(ConvertRequest((source,), labels=("lable",)), out, SerialExecutor(), overwrite=True)
    assert files_of(out) == before
    request = ConvertRequest((source,), labels=("label",), dtype="float32", shape=(1, 28, 28))
    with pytest.raises(Killed):
        convert(request, out, DyingExecutor(4), overwrite=True)
    replaced = convert(request, out, SerialExecutor(), overwrite=True)
    assert files_of(out) == files_of(convert(request, tmp_path / "fresh.zarr", SerialExecutor()).root)
    assert replaced.schema.x_dtype == "float32"


def test_a_folder_that_is_no_dataset_is_left_alone(digits_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConflictError, match="not a dataset"):
        convert_file(digits_csv, tmp_path, label="label")
    with pytest.raises(ForeignError):
        open_dataset(tmp_path)
    with pytest.raises(ForeignError, match="does not exist"):
        open_dataset(tmp_path / "nothing")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_manifest_of_another_format_is_refused(digits: Dataset, tmp_path: Path) -> None:
    copy = shutil.copytree(digits.root, tmp_path / "copy.zarr")
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(ForeignError, match="format 3"):
        open_dataset(copy)


def damage_missing(path: Path) -> None:
    path.unlink()


def damage_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def damage_flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)


def damage_swapped(path: Path) -> None:
    other = path.with_name("1") if path.name != "1" else path.with_name("0")
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)


@pytest.mark.parametrize("damage", [damage_missing, damage_truncated, damage_flipped, damage_swapped])
@pytest.mark.parametrize("array", ["x", "y", "id"])
def test_damage_is_an_error_that_names_the_place(
    damage: Callable[[Path], None], array: str, digits: Dataset, tmp_path: Path
) -> None:
    copy = shutil.copytree(digits.root, tmp_path / "copy.zarr")
    path = copy / array / "c" / "0"
    while path.is_dir():
        path = path / "0"
    if damage is damage_swapped and array == "x":
        path = copy / "x" / "c" / "0" / "0" / "0" / "0"
        other = copy / "x" / "c" / "1" / "0" / "0" / "0"
        one, two = path.read_bytes(), other.read_bytes()
        path.write_bytes(two)
        other.write_bytes(one)
    else:
        damage(path)
    with pytest.raises(DamagedError) as caught:
        BlockReader(open_dataset(copy), (array,)).read([0])
    assert str(path) in str(caught.value)
    assert f"of {array}" in str(caught.value)
