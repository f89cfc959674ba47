"""Appended rows are those that a conversion of all sources gives; nothing that was there changes."""

import itertools
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pandas as pd
import pytest
from foldstream.cluster.listener import Listener
from foldstream.pipeline.append import append_request, append_rows
from foldstream.pipeline.images.convert import convert_images
from foldstream.pipeline.images.spec import ImageRequest
from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.sources import find_sources
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.pipeline.target.receipts import RECEIPTS
from foldstream.pipeline.verify import find_damage, repair_shards
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import Dataset, open_dataset
from foldstream.storage.errors import ConflictError, FoldstreamError, RowError, SourceError, UsageError
from foldstream.storage.format.images import ImageForm
from foldstream.storage.format.manifest import LEFT_OUT, WORK
from foldstream.storage.tasks import SerialExecutor, silent
from foldstream.training.splits.plan import make_plan
from foldstream.training.splits.split import Split
from PIL import Image
from pyarrow import csv, parquet

from ..conftest import WriteCsv, append_files, convert_file, silently, table
from .test_resumed import Interrupting, InterruptionError
from .test_versions import rows_of, tree

ROWS = 300, 50, 7, 1
ROLES: dict[str, tuple[str, ...]] = {
    "group": ("shop",),
    "time": ("day",),
    "fold": ("part",),
    "weight": ("w",),
    "keep": ("note",),
}


def mixed(rows: range, seed: int = 0) -> str:
    """A table with every kind of column; texts beside the features become longer."""
    draws = np.random.default_rng((seed, rows.start))
    lines = ["number,colour,when,gap,name,shop,day,part,w,note,label,target,p,q"]
    for row in rows:
        color, gap = ("r", "g", "b", "")[draws.integers(4)], "" if draws.integers(4) == 0 else f"{draws.normal():.3f}"
        longer = 3 if row < ROWS[0] else 8
        known = f"s{draws.integers(1 + row // 3)}" if draws.integers(2) else "s" + longer * str(row)
        day = f"2026-{1 + row // 100:02}-{1 + row % 28:02}"
        numbers = f"{row % 3},{draws.integers(1, 5)},{'x' * (1 + row // 10)}"
        labels = f"{'uvw'[draws.choice(3, p=[0.6, 0.3, 0.1])]},{draws.random():.3f},{draws.integers(2)},{row % 2}"
        lines.append(f"{draws.integers(100)},{color},{day},{gap},k{row},{known},{day},{numbers},{labels}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def files(write_csv: WriteCsv) -> list[Path]:
    """The rows of four versions."""
    ends = np.cumsum((0, *ROWS)).tolist()
    return [write_csv(mixed(range(a, b)), f"{a}.csv") for a, b in itertools.pairwise(ends)]


def request_for(files: list[Path], labels: tuple[str, ...] = ("label",), **options: Any) -> ConvertRequest:
    ignore = tuple({"label", "target", "p", "q"} - {*labels})
    return ConvertRequest(find_sources(list(map(str, files))), labels, "name", roles=ROLES, ignore=ignore, **options)


def grow(root: Path, files: list[Path], labels: tuple[str, ...] = ("label",), **options: Any) -> Dataset:
    """Convert the first file, and append the others one by one."""
    dataset = convert(request_for(files[:1], labels, **options), root, SerialExecutor())
    for path in files[1:]:
        dataset = append_files(root, path)
    return dataset


@pytest.mark.parametrize("labels", [("label",), ("target",), ("p", "q")], ids="-".join)
def test_appended_rows_are_those_of_a_conversion_of_all(
    labels: tuple[str, ...], files: list[Path], tmp_path: Path
) -> None:
    grown = grow(tmp_path / "grown.zarr", files, labels)
    whole = convert(request_for(files, labels), tmp_path / "whole.zarr", SerialExecutor())
    assert grown.layout.parts == ROWS
    np.testing.assert_equal(rows_of(grown), rows_of(whole))
    assert (grown.schema, grown.class_totals) == (whole.schema, whole.class_totals)
    if grown.schema.classes:
        assert grown.class_counts.sum(axis=0).tolist() == list(grown.class_totals)
    one, other = grown.statistics, whole.statistics
    assert (one.missing, one.minimum, one.maximum) == (other.missing, other.minimum, other.maximum)
    for name in ("mean", "std", "y_mean", "y_std"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-12)


def test_nothing_that_was_there_changes(files: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "d.zarr"
    grow(root, files[:2])
    before, rows = tree(root), rows_of(open_dataset(root))
    append_files(root, files[2])
    assert before.items() < tree(root).items()
    np.testing.assert_equal(rows_of(open_dataset(f"{root}@2")), rows)


def test_rows_of_any_format_are_appended(files: list[Path], tmp_path: Path) -> None:
    table = csv.read_csv(files[1])
    parquet.write_table(table, tmp_path / "second.parquet")
    rows = [{k: str(v) if k == "day" or k == "when" else v for k, v in row.items()} for row in table.to_pylist()]
    (tmp_path / "second.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    wanted = rows_of(grow(tmp_path / "csv.zarr", files[:2]))
    for name in ("second.parquet", "second.jsonl"):
        np.testing.assert_equal(rows_of(grow(tmp_path / f"{name}.zarr", [files[0], tmp_path / name])), wanted)


def test_shuffled_rows_are_appended_in_a_random_order(files: list[Path], tmp_path: Path) -> None:
    plain, shuffled = grow(tmp_path / "a.zarr", files[:2]), grow(tmp_path / "b.zarr", files[:2], shuffle=3)
    wanted, found = rows_of(plain), rows_of(shuffled)
    assert sorted(found["id"][300:]) == list(range(300, 350)) != found["id"][300:].tolist()
    order = np.argsort(found["id"])
    np.testing.assert_equal({name: values[order] for name, values in found.items()}, wanted)


def test_the_same_append_again_changes_nothing(files: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "d.zarr"
    convert(request_for(files[:1]), root, SerialExecutor())
    first = fs.append(root, files[1])
    before = tree(root)
    assert fs.append(root, files[1]).identity == first.identity
    assert tree(root) == before


def test_a_source_is_appended_once(files: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "d.zarr"
    grow(root, files[:2])
    with pytest.raises(ConflictError, match=r"0\.csv is already part of .*, since version 1; name only new sources"):
        fs.append(root, [files[2], files[0]])
    with pytest.raises(ConflictError, match=r"300\.csv is already part of .*, since version 2"):
        fs.append(root, [files[2], files[1]])
    files[1].write_text(mixed(range(350, 360)))
    told: list[str] = []
    listener = fs.Listener(announce=lambda name, what: told.append(f"{name}: {what}"))
    assert len(fs.append(root, files[1], listener=listener)) == 360
    assert any("300.csv has changed since its rows became part of" in one for one in told)


Change = Callable[[list[str]], list[str]]


def changed(column: int, value: str) -> Change:
    """Another value in the second row."""

    def change(lines: list[str]) -> list[str]:
        cells = lines[2].split(",")
        cells[column] = value
        return [*lines[:2], ",".join(cells), *lines[3:]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed(1, "pink"), r"(?s)line 3.*'pink' does not occur in the training data.*on_error=\"skip\".*new dataset"),
        (changed(10, "z"), r"(?s)line 3.*'z' does not occur in the training data"),
        (changed(0, "ten"), r"(?s)line 3.*'ten' is not a number"),
        (changed(2, "2026-01-01 10:30"), r"'when' contains times of day, unlike in the dataset"),
        (changed(7, "first"), r"'part' is not always an integer, unlike in the dataset"),
        (lambda lines: [line.partition(",")[2] for line in lines], r"does not have the expected columns: .*'number'"),
        (lambda lines: [line.replace("note", "notes", 1) for line in lines], r"has no column 'note'"),
    ],
    ids=["category", "class", "number", "time", "fold", "column", "beside"],
)
def test_rows_that_do_not_fit_are_refused(change: Change, message: str, files: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "d.zarr"
    convert(request_for(files[:1]), root, SerialExecutor())
    before = tree(root)
    files[1].write_text("\n".join(change(files[1].read_text().splitlines())) + "\n")
    with pytest.raises((RowError, SourceError, UsageError), match=message):
        fs.append(root, files[1])
    assert len(open_dataset(root)) == 300
    assert tree(root) == before


def test_a_number_that_the_dtype_cannot_store_is_named(write_csv: WriteCsv, tmp_path: Path) -> None:
    root = tmp_path / "d.zarr"
    convert_file(write_csv(table(300)), root, label="label")
    path = write_csv(table(50, 1) + "1,2,3,1000,a\n", "large.csv")
    with pytest.raises(SourceError, match=r"line 52.*1000.* cannot be stored as uint8, unlike .*together"):
        append_files(root, path)
    path.write_text(table(50, 1) + "1,2,3,,a\n")
    with pytest.raises(SourceError, match=r"the column 'c3' has missing values, unlike in the dataset"):
        append_files(root, path)


def test_invalid_rows_are_skipped_and_numbered_like_all_rows(write_csv: WriteCsv, tmp_path: Path) -> None:
    first = write_csv(table(20) + "1,2,x,4,a\n" + table(5, 1).partition("\n")[2], "first.csv")
    second = write_csv(table(3, 2) + "1,2,3,4,new\n" + table(4, 3).partition("\n")[2], "second.csv")
    root = tmp_path / "d.zarr"
    request = {"on_error": "skip", "labels": ("label",)}
    whole = convert(ConvertRequest(find_sources([str(first)]), **request), root, SerialExecutor())  # type: ignore[arg-type]
    grown = append_files(root, second)
    assert (whole.left_out, grown.left_out, len(grown)) == (1, 2, 32)
    positions = grown.source_rows(np.arange(32)).tolist()
    assert positions == [*range(20), *range(21, 26), *range(26, 29), *range(30, 34)]
    assert b"second.csv,5,label" in (root / "parts" / "2" / LEFT_OUT).read_bytes()


def test_rows_without_a_label_are_left_out_as_in_the_conversion(write_csv: WriteCsv, tmp_path: Path) -> None:
    root = tmp_path / "d.zarr"
    convert_file(write_csv(table(100) + "1,2,3,4,\n"), root, label="label")
    grown = append_files(root, write_csv("1,2,3,4,\n".join([table(10, 1), ""]), "second.csv"))
    assert (len(grown), grown.left_out) == (110, 2)


def test_an_interrupted_append_is_resumed(files: list[Path], tmp_path: Path) -> None:
    root, other = tmp_path / "d.zarr", tmp_path / "other.zarr"
    grow(other, files[:2])
    dataset = convert(request_for(files[:1]), root, SerialExecutor())
    request = append_request(dataset, [str(files[1])])
    with pytest.raises(InterruptionError):
        append_rows(dataset, request, Interrupting(1), silent, silently)
    assert len(list((root / "parts" / "2" / WORK / RECEIPTS).iterdir())) == 1
    assert len(open_dataset(root)) == 300
    with pytest.raises(ConflictError, match=r"has an unfinished append of .*300\.csv; repeat that command .*fs\.prune"):
        fs.append(root, files[2])
    append_files(root, files[1])
    assert tree(root) == tree(other)


def test_an_interrupted_append_is_discarded(files: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "d.zarr"
    dataset = convert(request_for(files[:1]), root, SerialExecutor())
    with pytest.raises(InterruptionError):
        append_rows(dataset, append_request(dataset, [str(files[1])]), Interrupting(1), silent, silently)
    fs.prune(root)
    assert len(fs.append(root, files[2])) == 307


def test_damage_is_repaired_from_the_sources_of_its_version(files: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "d.zarr"
    grown = grow(root, files[:3])
    before = tree(root)
    damaged = [grown.shard_place("x", shard) for shard in (1, grown.layout.shards - 2, grown.layout.shards - 1)]
    for place in damaged:
        os.truncate(str(place), 10)
    found = find_damage(open_dataset(root), SerialExecutor())
    assert [damage.path for damage in found] == list(map(str, damaged))
    assert [damage.last_row for damage in found][1:] == [349, 356]
    assert len(find_damage(open_dataset(f"{root}@1"), SerialExecutor())) == 1
    repair_shards(open_dataset(root), found, SerialExecutor())
    assert tree(root) == before


SPLITS = [
    Split(kind="kfold", holdout=0.2, repeats=2),
    Split(kind="stratified", folds=3),
    Split(kind="stratified", holdout=0.1, repeats=2),
    Split(kind="contiguous", holdout=0.1),
    Split(kind="group", column="shop", holdout=0.2),
    Split(kind="time", column="day", folds=3, holdout=0.1),
    Split(kind="column", column="part"),
]


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four versions of a dataset, by its label."""
    folder = tmp_path_factory.mktemp("versions")
    ends, files = np.cumsum((0, *ROWS)).tolist(), []
    for start, stop in itertools.pairwise(ends):
        files.append(folder / f"{start}.csv")
        files[-1].write_text(mixed(range(start, stop)))
    found = {"label": ("label",), "target": ("target",), "p": ("p", "q")}
    for name, labels in found.items():
        grow(folder / f"{name}.zarr", files, labels)
    return {name: folder / f"{name}.zarr" for name in found}


def codes_of(dataset: Dataset, split: Split, root: Path) -> dict[str, np.ndarray]:
    plan = make_plan(dataset, split, root)
    return BlockReader(plan, [spec.name for spec in plan.manifest.arrays]).read(range(plan.layout.blocks))


@pytest.mark.parametrize(
    ("split", "label"),
    [*((split, "label") for split in SPLITS), *((split, label) for split in SPLITS[1:3] for label in ("target", "p"))],
    ids=lambda one: one if isinstance(one, str) else f"{one.kind}-{one.folds}-{one.holdout}",
)
def test_rows_keep_their_folds(split: Split, label: str, versions: dict[str, Path], tmp_path: Path) -> None:
    before: dict[str, np.ndarray] = {}
    for version in (1, 2, 3, 4):
        dataset = open_dataset(f"{versions[label]}@{version}")
        codes = codes_of(dataset, split, tmp_path / "folds")
        for name, values in before.items():
            np.testing.assert_array_equal(codes[name][: len(values)], values)
        before = codes
        sizes = np.bincount(codes["fold"], minlength=split.folds + 1)
        if split.kind in ("kfold", "stratified", "contiguous"):
            held = sizes[split.folds]
            assert sizes[: split.folds].max() - sizes[: split.folds].min() <= (2 if label == "p" else 1)
            assert abs(held - split.holdout * len(dataset)) <= 3
        if split.kind == "group":
            assert sizes.max() < 2 * sizes.min()


def test_the_folds_of_classes_stay_even(versions: dict[str, Path], tmp_path: Path) -> None:
    dataset = open_dataset(versions["label"])
    codes = codes_of(dataset, Split(kind="stratified", folds=4), tmp_path / "folds")["fold"]
    y = rows_of(dataset)["y"]
    for code in range(3):
        sizes = np.bincount(codes[y == code], minlength=4)
        assert sizes.max() - sizes.min() <= 1


def test_new_rows_of_a_group_stay_with_it(versions: dict[str, Path], tmp_path: Path) -> None:
    dataset = open_dataset(versions["label"])
    codes = codes_of(dataset, Split(kind="group", column="shop"), tmp_path / "folds")["fold"]
    stored = np.ascontiguousarray(rows_of(dataset)["column_shop"])
    groups = stored.view(f"S{stored.shape[1]}")
    across = [group for group in np.unique(groups[300:]) if group in groups[:300]]
    assert across
    assert all(len({*codes[groups[:, 0] == group]}) == 1 for group in np.unique(groups))


def test_a_time_split_with_groups_holds_out_the_same_rows_and_leaks_nothing(
    versions: dict[str, Path], tmp_path: Path
) -> None:
    split = Split(kind="time", column="day", group_column="shop", folds=3)
    one, two = (codes_of(open_dataset(f"{versions['label']}@{v}"), split, tmp_path / "folds") for v in (1, 2))
    for name, codes in one.items():
        np.testing.assert_array_equal(two[name][:300] == 2, codes == 2)
        assert not ((two[name][:300] == 1) & (codes != 1)).any()  # rows of groups that are now held out are not used


def test_new_folds_of_the_user_come_after_the_known_ones(write_csv: WriteCsv, tmp_path: Path) -> None:
    root = tmp_path / "d.zarr"
    text = "a,part\n" + "".join(f"{row},{(5, 9, -1)[row % 3]}\n" for row in range(30))
    convert(ConvertRequest(find_sources([str(write_csv(text))]), roles={"fold": ("part",)}), root, SerialExecutor())
    split = Split(kind="column", column="part")
    before = codes_of(open_dataset(root), split, tmp_path / "folds")["fold"]
    append_files(root, write_csv("a,part\n1,2\n2,9\n3,-1\n", "more.csv"))
    after = codes_of(open_dataset(root), split, tmp_path / "folds")["fold"]
    assert after.tolist() == [*(3 if code == 2 else code for code in before.tolist()), 2, 1, 3]


def write_images(folder: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draws = np.random.default_rng((number, len(names)))
        Image.fromarray(draws.integers(0, 256, (8, 8), np.uint8)).save(path)
    return folder


@pytest.mark.parametrize("encoded", [False, True], ids=["as pixels", "as files"])
def test_images_are_appended(encoded: bool, tmp_path: Path) -> None:
    root = tmp_path / "d.zarr"
    old = write_images(tmp_path / "old", [f"{'uv'[n % 2]}/{n}.png" for n in range(10)])
    new = write_images(tmp_path / "new", [f"{'uv'[n % 2]}/photo {n}.png" for n in range(5)])
    request = ImageRequest((str(old),), ImageForm((8, 8), "gray"), encoded=encoded)
    convert_images(request, root, SerialExecutor())
    grown = append_files(root, new)
    rows = rows_of(grown)
    assert (len(grown), grown.class_totals, rows["id"].tolist()) == (15, (8, 7), list(range(15)))
    keys = [bytes(key).rstrip(b"\0").decode() for key in rows["key"]]
    for row, key in enumerate(keys):
        path = (old if row < 10 else new) / key
        np.testing.assert_array_equal(rows["x"][row, 0], np.asarray(Image.open(path)))
        assert "uv"[rows["y"][row]] == key[0]
    assert {*keys[10:]} == {f"{'uv'[n % 2]}/photo {n}.png" for n in range(5)}  # longer paths than those before
    assert append_files(root, new).version == 2
    with pytest.raises(ConflictError, match="old is already part of"):
        append_files(root, old)


def test_images_of_a_new_class_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "d.zarr"
    old = write_images(tmp_path / "old", [f"{'uv'[n % 2]}/{n}.png" for n in range(10)])
    convert_images(ImageRequest((str(old),), ImageForm((8, 8), "gray")), root, SerialExecutor())
    new = write_images(tmp_path / "new", ["u/1.png", "w/2.png"])
    with pytest.raises(FoldstreamError, match=r"w/2\.png: the class 'w' does not occur in the dataset"):
        append_files(root, new)
    assert [path.name for path in root.glob("parts")] == []
    fs.append(root, new, on_error="skip", progress=False)
    assert len(grown := open_dataset(root)) == 11
    assert grown.left_out == 1
    assert b"w/2.png,,,\"the class 'w' does not occur" in (root / "parts" / "2" / LEFT_OUT).read_bytes()
    other = write_images(tmp_path / "other", ["w/3.png"])
    with pytest.raises(FoldstreamError, match=r"none of the 1 images is valid; .*w/3\.png: the class"):
        fs.append(root, other, on_error="skip", progress=False)


def test_appending_much_to_little_warns_of_small_blocks(files: list[Path], write_csv: WriteCsv, tmp_path: Path) -> None:
    root, told = tmp_path / "d.zarr", list[str]()
    convert_file(write_csv(table(40), "few.csv"), root, label="label")
    listener = Listener(announce=lambda name, text: told.append(f"{name}: {text}"))
    fs.append(root, write_csv(table(40, 1), "more.csv"), listener=listener)
    assert not any("blocks" in text for text in told)
    fs.append(root, write_csv(table(4000, 2), "many.csv"), listener=listener)
    (warning,) = [text for text in told if "blocks" in text]
    assert re.match(r"warning: .*d.zarr has blocks of \d+ rows, .* convert all sources together", warning)


def test_tables_in_memory_are_appended(files: list[Path], tmp_path: Path) -> None:
    root = tmp_path / "d.zarr"
    convert(request_for(files[:1]), root, SerialExecutor())
    frame = pd.read_csv(files[1])
    assert fs.append(root, frame).version == fs.append(root, frame.copy()).version == 2
    wanted = rows_of(grow(tmp_path / "files.zarr", files[:2]))
    np.testing.assert_equal(rows_of(open_dataset(root)), wanted)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("d.zarr.")]


@pytest.mark.parametrize("shape", [(4,), (8, 8)], ids=["table", "images"])
def test_arrays_are_appended(shape: tuple[int, ...], tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).integers(0, 256, (30, *shape), np.uint8), np.arange(30) % 2
    fs.convert(x[:20], tmp_path / "d.zarr", label=y[:20], shuffle=None)
    grown = fs.append(tmp_path / "d.zarr", x[20:], label=y[20:])
    rows = rows_of(grown)
    np.testing.assert_array_equal(rows["x"].reshape(x.shape), x)
    np.testing.assert_array_equal(rows["y"], y)
    assert fs.append(tmp_path / "d.zarr", x[20:], label=y[20:]).version == 2


def test_texts_in_blocks_that_compiled_code_reads_are_padded(
    write_csv: WriteCsv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foldstream.storage.blocks.reader.LONG", 0)
    texts = [f"{row:0{size}}t" for row, size in enumerate((40,) * 100 + (60,) * 10)]
    lines = [f"{row % 7},{text}\n" for row, text in enumerate(texts)]
    first = write_csv("a,note\n" + "".join(lines[:100]), "first.csv")
    convert_file(first, tmp_path / "d.zarr", roles={"keep": ("note",)})
    grown = append_files(tmp_path / "d.zarr", write_csv("a,note\n" + "".join(lines[100:]), "more.csv"))
    stored = rows_of(grown)["column_note"]
    assert [bytes(row).rstrip(b"\0").decode() for row in stored] == texts


def test_texts_of_a_tokenizer_are_appended_and_repaired(write_csv: WriteCsv, tmp_path: Path) -> None:
    """The tokenizer is the copy in the dataset, and longer texts are cut at the length of the dataset."""
    own = tmp_path / "lengths.py"
    own.write_text("def words(texts):\n    return [[len(word) for word in text.split()] for text in texts]\n")
    lines = [f"{'x' * (1 + row % 9)} bb c,{row % 2}\n" for row in range(200)]
    first = write_csv("text,label\n" + "".join(lines))
    second = write_csv("text,label\n" + "".join([*lines[:5], "aaaa b b b,1\n"]), "more.csv")
    root = tmp_path / "texts.zarr"
    fs.convert_csv(first, root, label="label", tokens="text", tokenizer=f"{own}:words", progress=False)
    own.unlink()
    grown = fs.append(root, second, progress=False)
    assert rows_of(grown)["x"][-6:].tolist() == [[1 + row % 9, 2, 1] for row in range(5)] + [[4, 1, 1]]
    assert len(grown) == 206
    whole = tree(root)
    (path,) = (root / "parts" / "2" / "x").glob("c/0/*")
    path.write_bytes(b"")
    assert len(fs.verify(root, repair=True, progress=False)) == 1
    assert tree(root) == whole


def test_windows_over_time_series_are_not_appended_to(write_csv: WriteCsv, tmp_path: Path) -> None:
    lines = [f"2026-01-{1 + hour // 24:02} {hour % 24:02}:00,{hour % 7}\n" for hour in range(100)]
    first = write_csv("hour,load\n" + "".join(lines[:80]))
    second = write_csv("hour,load\n" + "".join(lines[80:]), "more.csv")
    fs.convert_csv(first, tmp_path / "w.zarr", label="load", time="hour", window_of=4, progress=False)
    with pytest.raises(SourceError, match="convert all sources again"):
        fs.append(tmp_path / "w.zarr", second, progress=False)
