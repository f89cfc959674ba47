"""Columns that lie beside the rows, free text, the types that people expect, and the table of what columns became."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from foldstream.cluster.api.split import split_rows
from foldstream.cluster.listener import Listener
from foldstream.pipeline.images.convert import convert_images
from foldstream.pipeline.images.spec import ImageRequest
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import ForeignError, UsageError
from foldstream.storage.format.images import ImageForm
from foldstream.storage.format.manifest import MANIFEST, Manifest
from foldstream.storage.places.json_files import read_json
from foldstream.storage.tasks import SerialExecutor
from foldstream.training.splits.choose import choose_split
from foldstream.training.splits.columns import find_column, read_column
from foldstream.training.splits.split import SplitOptions
from PIL import Image

from ..conftest import WriteCsv, contents, convert_file

TEXT = "id,patient,day,hour,w,note,a,label\n" + "".join(
    f"{i},p{i // 4},2024-01-{i % 28 + 1:02d},2024-01-01 {i % 24:02d}:30:00,{i / 2},"
    f"{'' if i == 7 else i},{i % 5},{i % 2}\n"
    for i in range(60)
)
ROLES = {"group": ("patient",), "time": ("day",), "weight": ("w",), "keep": ("hour", "note")}


def column(dataset: Dataset, name: str) -> np.ndarray:
    """All values of a column."""
    found = find_column(dataset.schema, name)
    return np.concatenate([read_column(dataset, found, shard) for shard in range(dataset.layout.shards)])


@pytest.mark.parametrize("shuffle", [None, 3])
def test_columns_with_a_role_lie_beside_the_rows(shuffle: int | None, write_csv: WriteCsv, tmp_path: Path) -> None:
    dataset = convert_file(
        write_csv(TEXT), tmp_path / "out", "label", id="id", roles=ROLES, features=("w",), shuffle=shuffle
    )
    assert dataset.schema.features == ("w", "a")
    order = np.array(column(dataset, "id"))
    assert sorted(order) == list(range(60))
    assert column(dataset, "patient").tolist() == [f"p{i // 4}".encode() for i in order]
    assert column(dataset, "day").tolist() == [19723 + i % 28 for i in order]
    assert column(dataset, "hour").tolist() == [1704067200 + i % 24 * 3600 + 1800 for i in order]
    assert column(dataset, "w").tolist() == [i / 2 for i in order]
    note = next(beside for beside in dataset.schema.beside if beside.name == "note")
    notes = BlockReader(dataset, (note.array,)).read(range(dataset.layout.blocks))[note.array]
    np.testing.assert_array_equal(notes, [np.nan if i == 7 else i for i in order])
    with pytest.raises(UsageError, match="column 'note' has a missing value in row"):
        column(dataset, "note")


def test_a_parquet_file_has_the_roles_of_its_csv(write_csv: WriteCsv, tmp_path: Path) -> None:
    path = write_csv(TEXT)
    from pyarrow import csv

    pq.write_table(csv.read_csv(path), tmp_path / "data.parquet", row_group_size=7)
    one, other = (
        convert_file(source, tmp_path / source.suffix[1:], "label", id="id", roles=ROLES)
        for source in (path, tmp_path / "data.parquet")
    )
    assert contents(one) == contents(other)


def test_a_test_set_keeps_the_columns_that_it_has(write_csv: WriteCsv, tmp_path: Path) -> None:
    train = convert_file(write_csv(TEXT), tmp_path / "train", "label", id="id", roles=ROLES)
    test = convert_file(write_csv("a,patient\n1,x\n2,yy\n", "test.csv"), tmp_path / "test", like=train.schema)
    assert (test.schema.features, [beside.name for beside in test.schema.beside]) == (("a",), ["patient"])
    assert column(test, "patient").tolist() == [b"x", b"yy"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roles": {"group": ("patent",)}}, "--group: .* has no column 'patent'; did you mean 'patient'"),
        ({"features": ("label",)}, "--feature label: the column is also a label, the id or ignored"),
    ],
)
def test_roles_that_no_column_can_have_are_refused(
    options: dict[str, object], message: str, write_csv: WriteCsv, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        convert_file(write_csv(TEXT), tmp_path / "out", "label", **options)


def test_images_get_their_roles_from_the_file_of_their_labels(tmp_path: Path) -> None:
    lines = ["image,patient,taken,label"]
    (tmp_path / "photos").mkdir()
    for number in range(12):
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / "photos" / f"{number}.png")
        lines.append(f"{number}.png,p{number // 3},2024-05-{number + 1:02d},{number % 2}.0")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    request = ImageRequest(
        (str(tmp_path / "photos"),),
        ImageForm((8, 8), "gray"),
        labels=str(tmp_path / "labels.csv"),
        label=("label",),
        roles={"group": ("patient",), "time": ("taken",)},
    )
    dataset = convert_images(request, tmp_path / "out", SerialExecutor())
    x = BlockReader(dataset, ("x",)).read(range(dataset.layout.blocks))["x"][:, 0, 0, 0].astype(int)
    assert column(dataset, "patient").tolist() == [f"p{number // 3}".encode() for number in x]
    assert column(dataset, "taken").tolist() == [19844 + number for number in x]
    assert dataset.schema.classes == ("0", "1")
    assert column(dataset, "label").tolist() == [number % 2 for number in x]
    with pytest.raises(UsageError, match=r"--group: .*has no column 'patent'"):
        convert_images(
            ImageRequest(request.sources, request.form, request.labels, roles={"group": ("patent",)}),
            tmp_path / "no",
            SerialExecutor(),
        )


@pytest.mark.parametrize("rows", [100, 60_000])
def test_text_that_differs_in_every_row_is_left_out_unless_it_is_asked_for(
    rows: int, write_csv: WriteCsv, tmp_path: Path
) -> None:
    text = "name,city,a,label\n" + "".join(f"Person {i},{'ABC'[i % 3]},{i % 7},{i % 2}\n" for i in range(rows))
    dataset = convert_file(write_csv(text), tmp_path / "out", "label")
    assert dataset.schema.features == ("city", "a")
    assert dataset.schema.left_out == {"name": f"text with {rows:,} distinct values in {rows:,} rows"}
    assert dataset.statistics.missing == (0, 0)
    kept = convert_file(tmp_path / "data.csv", tmp_path / "kept", "label", categories=("name",))
    assert kept.schema.features == ("name", "city", "a")
    assert not kept.schema.left_out


def test_text_with_more_values_than_can_be_counted_is_left_out(write_csv: WriteCsv, tmp_path: Path) -> None:
    text = "name,a,label\n" + "".join(f"{i:x}x,{i % 7},{i % 2}\n" for i in range(70_000))
    dataset = convert_file(write_csv(text), tmp_path / "out", "label")
    assert dataset.schema.left_out == {"name": "text with more than 65,536 distinct values"}
    with pytest.raises(UsageError, match=r"'name' has too many distinct values to be a category .*--keep 'name'"):
        convert_file(tmp_path / "data.csv", tmp_path / "kept", "label", categories=("name",))


def test_labels_written_as_decimals_are_classes(write_csv: WriteCsv, tmp_path: Path) -> None:
    written = ["0.0", "1.0", "1", "2.0", "1e0"]
    text = "a,label\n" + "".join(f"{i},{written[i % 5]}\n" for i in range(50))
    dataset = convert_file(write_csv(text), tmp_path / "out", "label")
    assert dataset.schema.classes == ("0", "1", "2")
    assert column(dataset, "label").tolist() == [[0, 1, 1, 2, 1][i % 5] for i in range(50)]
    plain = convert_file(write_csv("a,label\n1,0.5\n2,1.0\n", "plain.csv"), tmp_path / "plain", "label")
    assert plain.schema.task == "regression"


@pytest.mark.usefixtures("usual_blocks")
def test_small_tables_have_blocks_of_some_rows(write_csv: WriteCsv, tmp_path: Path) -> None:
    text = "a,label\n" + "".join(f"{i},{i % 2}\n" for i in range(1000))
    layout = convert_file(write_csv(text), tmp_path / "out", "label").layout
    assert (layout.block_rows, layout.blocks, layout.shards) == (16, 63, 8)


def test_the_table_of_columns_tells_what_each_has_become(write_csv: WriteCsv, tmp_path: Path) -> None:
    text = "name,city,day,a,label\n" + "".join(
        f"Person {i},{'ABC'[i % 3]},2024-01-{i % 20 + 1:02d},{'' if i < 5 else i / 4},{i % 2}\n" for i in range(40)
    )
    dataset = convert_file(write_csv(text), tmp_path / "out", "label", roles={"time": ("day",)}, features=("day",))
    table = {one.name: (one.role, one.kind, one.dtype, one.missing, one.distinct) for one in dataset.columns()}
    assert table == {
        "label": ("label", "class", "uint8", None, 2),
        "city": ("feature", "category", "float32", 0, 3),
        "day": ("feature, time", "days", "float32", 0, None),
        "a": ("feature", "number", "float32", 5, None),
        "name": ("left out", "", "", None, None),
    }
    a = next(one for one in dataset.columns() if one.name == "a")
    assert (a.minimum, a.maximum) == (1.25, 9.75)
    assert a.mean == pytest.approx(np.mean(np.arange(5, 40) / 4))


def test_a_dataset_of_the_first_format_is_read_unless_its_numbers_were_filled(
    write_csv: WriteCsv, tmp_path: Path
) -> None:
    manifest = read_json(convert_file(write_csv(TEXT), tmp_path / "out", "label").place / MANIFEST)
    schema = {**manifest["details"]["schema"], "fills": {}, "indicators": []}
    for name in ("roles", "beside", "left_out"):
        del schema[name]
    old = {**manifest, "format": 1, "details": {**manifest["details"], "schema": schema}}
    assert Manifest.from_json(old, "old").details["schema"].keys() == schema.keys() - {"fills", "indicators"}
    schema["fills"] = {"a": 2.5}
    with pytest.raises(ForeignError, match="its missing values were filled from all rows"):
        Manifest.from_json(old, "old")


@pytest.mark.parametrize(
    ("roles", "options", "expected"),
    [
        ({}, {}, ("stratified", None, None)),
        ({"group": ("patient",)}, {}, ("stratified-group", "patient", None)),
        ({"time": ("day",)}, {}, ("time", "day", None)),
        ({"group": ("patient",), "time": ("day",)}, {}, ("time", "day", "patient")),
        ({"group": ("patient",), "fold": ("a",)}, {}, ("column", "a", None)),
        ({"group": ("patient",), "time": ("day",)}, {"split": "group"}, ("group", "patient", None)),
        ({"group": ("patient",), "time": ("day",)}, {"order_column": "day"}, ("time", "day", None)),
        ({"group": ("patient",)}, {"split": "kfold"}, ("kfold", None, None)),
    ],
    ids=str,
)
def test_a_split_follows_the_roles_of_the_columns(
    roles: dict[str, tuple[str, ...]],
    options: dict[str, Any],
    expected: tuple[str, str | None, str | None],
    write_csv: WriteCsv,
    tmp_path: Path,
) -> None:
    schema = convert_file(write_csv(TEXT), tmp_path / "out", "label", roles=roles, features=("a",)).schema
    split = choose_split(schema, SplitOptions(**options), 0)
    assert (split.kind, split.column, split.group_column) == expected


def test_a_split_by_a_feature_is_told(write_csv: WriteCsv, tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    listener = Listener(announce=lambda heading, text: told.append((heading, text)))
    for name, convert in (("beside", {"roles": {"group": ("patient",)}}), ("feature", {})):
        dataset = convert_file(write_csv(TEXT), tmp_path / name, "label", **convert)
        split_rows(dataset.place, group_column="patient", listener=listener)
    assert [heading for heading, _ in told] == ["warning"]
    assert told[0][1].startswith("the folds are split by 'patient', which is also a feature; to exclude it")
