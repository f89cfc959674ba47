"""Folders such as day=mon give columns, as Hive, Spark, pyarrow and Polars write them."""

from pathlib import Path

import foldstream as fs
import pandas as pd
import pytest
from foldstream.pipeline.csv.options import CsvOptions
from foldstream.pipeline.sample import sample_texts
from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.sources import find_sources
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import RowError, SourceError, UsageError
from foldstream.storage.format.arrays import keys_of
from foldstream.storage.tasks import SerialExecutor

from ..conftest import contents
from .test_csv import read_all
from .test_dataset import DyingExecutor, Killed

NOTHING = "__HIVE_DEFAULT_PARTITION__"


def write_parts(folder: Path, parts: dict[str, str]) -> Path:
    """CSV files in folders of these names."""
    for name, text in parts.items():
        path = folder / name / "part-0.csv"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return folder


@pytest.fixture
def hive(tmp_path: Path) -> Path:
    """Two folders, one row each."""
    return write_parts(tmp_path / "hive", {"day=mon": "a,y\n1,0\n", "day=tue": "a,y\n3,1\n"})


def convert_all(out: Path, *places: Path | str, **options: object) -> Dataset:
    request = ConvertRequest(find_sources(list(map(str, places))), **options)  # type: ignore[arg-type]
    return convert(request, out, SerialExecutor())


def test_the_name_of_a_folder_is_a_column_of_any_role(hive: Path, tmp_path: Path) -> None:
    feature = convert_all(tmp_path / "feature", hive, labels=("y",))
    assert feature.schema.categories == {"day": ("mon", "tue")}
    assert read_all(feature)["x"].tolist() == [[1, 0], [3, 1]]
    label = convert_all(tmp_path / "label", hive, labels=("day",))
    assert (label.schema.classes, read_all(label)["y"].tolist()) == (("mon", "tue"), [0, 1])
    key = convert_all(tmp_path / "key", hive, labels=("y",), id="day", shuffle=1)
    assert sorted(keys_of(read_all(key)["key"])) == ["mon", "tue"]
    group = convert_all(tmp_path / "group", hive, roles={"group": ("day",)})
    assert (group.schema.features, [column.name for column in group.schema.beside]) == (("a", "y"), ["day"])


def test_parquet_and_nested_folders(tmp_path: Path) -> None:
    frame = pd.DataFrame({"v": [1.5, 2.5, 4.0], "year": [2024, 2024, 2025], "place": ["a b", "ü/x", None]})
    frame.to_parquet(tmp_path / "hive", partition_cols=["year", "place"])
    dataset = convert_all(tmp_path / "out", tmp_path / "hive")
    assert dataset.schema.features == ("v", "year", "place")
    assert dataset.schema.categories == {"place": ("", "a b", "ü/x")}
    assert sorted(read_all(dataset)["x"].tolist()) == [[1.5, 2024, 1], [2.5, 2024, 2], [4, 2025, 0]]
    assert fs.open(dataset.root).statistics.missing == (0, 0, 1)


@pytest.mark.parametrize(
    ("values", "categories"),
    [(("1", "007"), {}), (("1", "x"), {"p": ("1", "x")}), (("0.5", NOTHING), {})],
    ids=["numbers", "mixed", "missing"],
)
def test_values_are_numbers_if_all_are(values: tuple[str, str], categories: dict[str, object], tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "hive", {f"p={value}": "a\n1\n" for value in values})
    dataset = convert_all(tmp_path / "out", folder)
    assert dataset.schema.categories == categories
    if values[0] == "1" and not categories:
        assert sorted(read_all(dataset)["x"][:, 1].tolist()) == [1, 7]
    assert dataset.statistics.missing == (0, int(NOTHING in values))


def test_dates_in_the_names_of_folders(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "hive", {f"on=2026-01-0{day}": "a\n1\n" for day in (1, 2)})
    dataset = convert_all(tmp_path / "out", folder)
    assert dataset.schema.dates == {"on": "days"}
    assert (read_all(dataset)["x"][1, 1] - read_all(dataset)["x"][0, 1]) == 1


def test_only_folders_below_the_sources_common_folder_give_columns(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "run=7", {"day=mon": "a,y\n1,0\n", "day=tue": "a,y\n3,1\n"})
    files = [folder / "day=mon" / "part-0.csv", folder / "day=tue" / "part-0.csv"]
    named = [[str(folder)], [f"{folder}/*/*.csv"], [str(file.parent) for file in files], list(map(str, files))]
    assert all([one.partitions for one in find_sources(p)] == [{"day": "mon"}, {"day": "tue"}] for p in named)
    assert find_sources([str(files[0])])[0].partitions == find_sources([str(files[0].parent)])[0].partitions == {}
    assert find_sources([str(files[0])], ("day",))[0].partitions == {"day": "mon"}


def test_a_conversion_without_partitions_keeps_its_identity(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a\n1\n")
    [source] = ConvertRequest(find_sources([str(tmp_path)])).to_json()["sources"]
    assert list(source) == ["path", "bytes", "mtime_ns"]


def test_a_label_that_a_folder_lacks_is_a_fault_of_its_rows(tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "hive", {f"day={d}": f"a\n{i}\n9\n" for i, d in enumerate(("mon", NOTHING, "tue"))})
    with pytest.raises(RowError, match="'day': the value is missing; fill it in"):
        convert_all(tmp_path / "out", folder, labels=("day",), missing="error")
    dataset = convert_all(tmp_path / "out", folder, labels=("day",))
    assert (len(dataset), dataset.left_out) == (4, 2)
    with pytest.raises(RowError, match="'day': the value is missing"):
        convert_all(tmp_path / "none", folder, missing="error")


def test_what_cannot_be_one_table_is_refused(hive: Path, tmp_path: Path) -> None:
    write_parts(hive, {"day=wed": "day,a,y\nx,1,0\n"})
    with pytest.raises(SourceError, match=r"day=wed/part-0\.csv has a column 'day', and so have its folders"):
        convert_all(tmp_path / "out", hive)
    (hive / "day=wed" / "part-0.csv").rename(hive / "part-1.csv")
    (hive / "part-1.csv").write_text("a,y\n1,0\n")
    with pytest.raises(UsageError, match=r"expected columns: (missing|unexpected): 'day'"):
        convert_all(tmp_path / "out", hive)


def test_like_finds_the_folders_of_a_single_file(hive: Path, tmp_path: Path) -> None:
    like = convert_all(tmp_path / "out", hive, labels=("y",)).schema

    def convert_like(file: Path, out: Path) -> Dataset:
        sources = find_sources([str(file)], like.features)
        return convert(ConvertRequest(sources, labels=("y",), like=like), out, SerialExecutor())

    assert read_all(convert_like(hive / "day=tue" / "part-0.csv", tmp_path / "other"))["x"].tolist() == [[3, 1]]
    (hive / "day=tue").rename(hive / "day=wed")
    with pytest.raises(RowError, match="column 'day': 'wed' does not occur in the training data"):
        convert_like(hive / "day=wed", tmp_path / "new")


def test_they_are_kept_by_specs_samples_and_repairs(hive: Path, tmp_path: Path) -> None:
    dataset = convert_all(tmp_path / "out", hive, labels=("day",))
    assert ConvertRequest.from_json(dataset.request).sources[0].partitions == {"day": "mon"}
    shard = next((tmp_path / "out" / "y" / "c").iterdir())
    shard.write_bytes(b"damaged")
    assert fs.verify(tmp_path / "out", repair=True)
    assert read_all(fs.open(tmp_path / "out"))["y"].tolist() == [0, 1]
    (tmp_path / "copies").mkdir()
    for count in (1, 2):
        (copies := tmp_path / "copies" / str(count)).mkdir()
        sample = sample_texts(find_sources([str(hive)])[:count], CsvOptions(), copies)
        assert [one.partitions for one in find_sources(sample.places)] == [{"day": "mon"}, {"day": "tue"}][:count]
    with pytest.raises(Killed):
        convert(request := ConvertRequest.from_json(dataset.request), tmp_path / "killed", DyingExecutor(7))
    assert contents(convert(request, tmp_path / "killed", SerialExecutor())) == contents(dataset)


def test_folders_of_other_programs_are_passed_over(tmp_path: Path) -> None:
    write_parts(tmp_path, dict.fromkeys(("x", "_delta_log", ".cache/y", "__MACOSX"), "a\n1\n"))
    assert [Path(source.path).parent.name for source in find_sources([str(tmp_path)])] == ["x"]
