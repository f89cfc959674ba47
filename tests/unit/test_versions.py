"""Versions of a dataset: how they are named, opened, listed and removed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import foldstream as fs
import numpy as np
import pytest
from foldstream.pipeline.target.versions import remove_versions
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import Dataset, open_dataset
from foldstream.storage.errors import ConflictError, DamagedError, ForeignError, UsageError
from foldstream.storage.format.manifest import MANIFEST, WORK
from foldstream.storage.places.locate import locate
from foldstream.storage.versions import VERSIONS

from ..conftest import WriteCsv, append_files, convert_file, table

Tree = dict[str, bytes]


def tree(root: Path) -> Tree:
    """All files below a folder."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def rows_of(dataset: Dataset) -> dict[str, np.ndarray]:
    return BlockReader(dataset, [spec.name for spec in dataset.manifest.arrays]).read(range(dataset.layout.blocks))


@pytest.fixture
def grown(write_csv: WriteCsv, tmp_path: Path) -> Path:
    """A dataset of 300 rows, to which 50 and then 7 were appended."""
    root = tmp_path / "d.zarr"
    convert_file(write_csv(table(300)), root, label="label")
    append_files(root, write_csv(table(50, 1), "second.csv"))
    append_files(root, write_csv(table(7, 2), "third.csv"))
    return root


def test_a_location_names_a_version(grown: Path) -> None:
    assert [len(open_dataset(f"{grown}{name}")) for name in ("", "@1", "@2", "@3")] == [357, 300, 350, 357]
    assert [open_dataset(f"{grown}{name}").version for name in ("", "@1", "@2")] == [3, 1, 2]
    with pytest.raises(ForeignError, match=r"has no version 4, but versions 1 to 3; leave out '@4'"):
        open_dataset(f"{grown}@4")
    with pytest.raises(ForeignError, match="does not exist"):
        open_dataset(f"{grown}x@2")


def test_a_folder_whose_own_name_ends_like_a_version_comes_first(grown: Path) -> None:
    shutil.copytree(grown, f"{grown}@2")
    assert len(open_dataset(f"{grown}@2")) == 357
    assert len(open_dataset(f"{grown}@2@1")) == 300
    assert len(open_dataset(open_dataset(f"{grown}").at(2).reference)) == 350


def test_an_opened_dataset_stays_the_version_that_it_is(grown: Path, write_csv: WriteCsv) -> None:
    first, newest = fs.open(f"{grown}@1"), fs.open(grown)
    assert (first.location, newest.location) == (f"{grown}@1", str(grown))
    append_files(grown, write_csv(table(9, 3), "fourth.csv"))
    assert len(fs.open(first)) == 300
    assert len(fs.open(newest)) == 366
    assert len(open_dataset(newest.reference)) == 357


def test_earlier_versions_are_known_by_their_identity(grown: Path) -> None:
    newest, others = open_dataset(grown), [open_dataset(f"{grown}@{version}") for version in (1, 2)]
    assert newest.earlier == tuple(other.identity for other in others)
    assert [newest.earlier_version(other.identity) for other in others] == [newest.at(1), newest.at(2)]
    assert newest.earlier_version(newest.identity) is None


def test_another_dataset_in_the_place_of_the_first_version_is_an_error(grown: Path, write_csv: WriteCsv) -> None:
    other = grown.with_name("other.zarr")
    convert_file(write_csv(table(300, 9), "other.csv"), other, label="label")
    shutil.copy(other / MANIFEST, grown / MANIFEST)
    with pytest.raises(DamagedError, match=r"manifest\.json has changed since rows were appended"):
        open_dataset(grown).at(1)


def test_a_version_without_its_manifest_does_not_exist(grown: Path) -> None:
    (grown / VERSIONS / "0003.json").unlink()
    assert len(open_dataset(grown)) == 350


def test_pruning_takes_back_appends(grown: Path, write_csv: WriteCsv) -> None:
    two = rows_of(open_dataset(f"{grown}@2"))
    assert fs.prune(grown, keep=2) == [3]
    np.testing.assert_equal(rows_of(open_dataset(grown)), two)
    assert fs.prune(grown, keep=1) == [2]
    assert not (grown / VERSIONS).exists()
    assert not (grown / "parts").exists()
    again = append_files(grown, grown.parent / "third.csv")
    assert (again.version, len(again)) == (2, 307)


def test_a_dataset_from_which_all_appends_were_removed_is_as_before(write_csv: WriteCsv, tmp_path: Path) -> None:
    root = tmp_path / "d.zarr"
    convert_file(write_csv(table(300)), root, label="label")
    before = tree(root)
    append_files(root, write_csv(table(50, 1), "second.csv"))
    assert before.items() < tree(root).items()
    remove_versions(locate(root), 1)
    assert tree(root) == before


@pytest.mark.parametrize(
    ("location", "keep", "error", "message"),
    [
        ("@2", None, UsageError, r"name the dataset without a version, and the last one to keep with keep=2"),
        ("", 4, UsageError, r"keep=4: .* has versions 1 to 3; choose one of them"),
        ("", 0, UsageError, r"keep=0: must be at least 1"),
    ],
)
def test_what_cannot_be_pruned_is_refused(
    location: str, keep: int | None, error: type[Exception], message: str, grown: Path
) -> None:
    with pytest.raises(error, match=message):
        fs.prune(f"{grown}{location}", keep=keep)
    assert len(open_dataset(grown)) == 357


def test_what_an_append_is_writing_is_not_pruned(grown: Path) -> None:
    work = locate(grown) / "parts" / "4" / WORK
    with work.lock("busy"), pytest.raises(ConflictError, match="is being appended to by another process"):
        fs.prune(grown)
    assert fs.prune(grown) == []
    assert not (grown / "parts" / "4").exists()


@pytest.mark.parametrize("function", [fs.append, fs.verify, fs.split_rows])
def test_functions_take_a_version(function: Callable[..., object], grown: Path) -> None:
    if function is fs.append:
        with pytest.raises(UsageError, match=r"appended to the newest version; leave out '@1'"):
            fs.append(f"{grown}@1", grown.parent / "third.csv")
    else:
        function(f"{grown}@1")


def test_an_overwritten_dataset_has_one_version(grown: Path, write_csv: WriteCsv) -> None:
    found = fs.convert_csv(write_csv(table(20, 5), "new.csv"), grown, label="label", overwrite=True)
    assert (found.version, len(found), len(open_dataset(grown))) == (1, 20, 20)


def test_the_same_conversion_again_opens_what_has_grown(grown: Path) -> None:
    assert len(fs.convert_csv(grown.parent / "data.csv", grown, label="label")) == 357


def test_zarr_reads_the_rows_of_each_version(grown: Path) -> None:
    import zarr

    new, whole = zarr.open_group(grown / "parts" / "2", mode="r"), rows_of(open_dataset(grown))
    np.testing.assert_array_equal(np.asarray(new["x"]), whole["x"][300:350])
    assert len(open_dataset(grown / "parts" / "2")) == 50
