"""A resumed conversion trusts receipts and lengths, and tasks carry where their plan lies, not what is in it."""

import pickle
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import pytest
from foldstream.pipeline.images.convert import convert_images
from foldstream.pipeline.images.spec import ImageRequest
from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.fill import ShardPlan, ShardTask, write_shard_task
from foldstream.pipeline.tables.sources import describe_source
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.pipeline.target import plan as stored_plans
from foldstream.pipeline.target.combine import Combined
from foldstream.pipeline.target.finished import finished_shards
from foldstream.pipeline.target.plan import PLANS, StoredPlan
from foldstream.pipeline.target.receipts import RECEIPTS, summarize
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import ConflictError
from foldstream.storage.format.images import ImageForm
from foldstream.storage.format.layout import Layout
from foldstream.storage.format.manifest import WORK, ShardEntry
from foldstream.storage.format.schema import Schema
from foldstream.storage.places.local import LocalPlace
from foldstream.storage.places.locate import locate
from foldstream.storage.tasks import Executor, Progress, Result, SerialExecutor, Task, silent

from ..conftest import WriteCsv, contents, table
from .test_image_folders import write_images

SHARDS = 8
Convert = Callable[..., Dataset]


def convert_table(
    path: Path, out: Path, executor: Executor | None = None, progress: Progress = silent, **options: Any
) -> Dataset:
    """Convert a CSV file with a label."""
    request = ConvertRequest((describe_source(str(path)),), ("label",), **options)
    return convert(request, out, executor or SerialExecutor(), progress)


class InterruptionError(Exception):
    """A conversion is killed."""


class Interrupting(SerialExecutor):
    """Runs a number of the tasks that write shards."""

    def __init__(self, tasks: int) -> None:
        self.left = tasks

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        for position, task in enumerate(tasks):
            if function.__name__ in ("write_shard_task", "write_image_shard", "gather_shard"):
                if not self.left:
                    raise InterruptionError
                self.left -= 1
            yield position, function(task)


class Elsewhere(SerialExecutor):
    """Runs each task as another process would: from its pickled form, and without what this process knows."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[tuple[int, Result]]:
        for position, task in enumerate(tasks):
            data = pickle.dumps(task)
            self.bytes[function.__name__] = max(len(data), self.bytes.get(function.__name__, 0))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(stored_plans, "_here", WeakValueDictionary())
                yield position, function(pickle.loads(data))  # noqa: S301


def rows(shuffle: int | None) -> Callable[[Path], Convert]:
    """A conversion of a table."""

    def prepare(folder: Path) -> Convert:
        (folder / "rows.csv").write_text(table(300))
        return lambda out, **how: convert_table(folder / "rows.csv", out, shuffle=shuffle, **how)

    return prepare


def images(encoded: bool) -> Callable[[Path], Convert]:
    """A conversion of images."""

    def prepare(folder: Path) -> Convert:
        write_images(folder / "photos", [f"{'ab'[i % 2]}/{i}.bmp" for i in range(16)])
        request = ImageRequest((str(folder / "photos"),), ImageForm((4, 4), "gray"), encoded=encoded)
        return lambda out, executor, progress=silent: convert_images(request, locate(out), executor, progress)

    return prepare


@pytest.fixture(
    params=[rows(None), rows(5), images(False), images(True)], ids=["rows", "shuffled", "images", "encoded images"]
)
def conversion(request: pytest.FixtureRequest, tmp_path: Path) -> Convert:
    made: Convert = request.param(tmp_path)
    return made


def test_a_resumed_conversion_reads_no_finished_shard(
    conversion: Convert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = conversion(tmp_path / "expected", executor=SerialExecutor())
    with pytest.raises(InterruptionError):
        conversion(tmp_path / "out", executor=Interrupting(SHARDS - 2))
    read, stages = list[str](), list[tuple[str, int, int]]()
    whole = LocalPlace.read_bytes
    monkeypatch.setattr(LocalPlace, "read_bytes", lambda place: read.append(str(place)) or whole(place))  # type: ignore[func-returns-value]
    again = Interrupting(2)
    resumed = conversion(
        tmp_path / "out",
        executor=again,
        progress=lambda stage, done, total, remark="": stages.append((stage, done, total)),
    )
    assert contents(resumed) == contents(expected)
    assert (resumed.statistics, resumed.class_totals) == (expected.statistics, expected.class_totals)
    assert again.left == 0  # two shards were written
    assert not [path for path in read if "/c/" in path and "/blocks/" not in path]
    counted = [done for stage, done, _ in stages if stage == "resume"]
    assert counted == [0, SHARDS - 2]


def test_a_finished_shard_is_trusted_by_its_length(write_csv: WriteCsv, tmp_path: Path) -> None:
    path = write_csv(table(300))
    with pytest.raises(InterruptionError):
        convert_table(path, tmp_path / "out", executor=Interrupting(SHARDS - 2))
    for file in (tmp_path / "out" / "x" / "c").rglob("0"):
        if file.is_file():
            file.write_bytes(bytes(file.stat().st_size))
    again = Interrupting(2)
    convert_table(path, tmp_path / "out", executor=again)
    assert again.left == 0, "only the two others were written"


def removed(path: Path) -> None:
    path.unlink()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize("change", [removed, truncated])
@pytest.mark.parametrize("name", ["x/c/3/0", "y/c/3", f"{WORK}/{RECEIPTS}/00000003.json"])
def test_a_shard_that_is_not_whole_is_written_again(
    name: str, change: Callable[[Path], None], write_csv: WriteCsv, tmp_path: Path
) -> None:
    path = write_csv(table(300))
    expected = convert_table(path, tmp_path / "expected")
    with pytest.raises(InterruptionError):
        convert_table(path, tmp_path / "out", executor=Interrupting(SHARDS - 2))
    change(tmp_path / "out" / name)
    again = Interrupting(3)
    assert contents(convert_table(path, tmp_path / "out", executor=again)) == contents(expected)
    assert again.left == 0


def test_the_lengths_of_all_files_come_from_one_listing_of_each_array(
    write_csv: WriteCsv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InterruptionError):
        convert_table(write_csv(table(300)), tmp_path / "out", executor=Interrupting(6))
    listed, walk = list[str](), LocalPlace.walk
    monkeypatch.setattr(LocalPlace, "walk", lambda place: listed.append(place.name) or walk(place))  # type: ignore[func-returns-value]
    monkeypatch.setattr(LocalPlace, "describe", lambda place: pytest.fail(f"a request for {place}"))
    schema = Schema(("c0", "c1", "c2", "c3"), (4,), "uint8", ("label",), "classification", "int64")
    elsewhere = Elsewhere()
    found = finished_shards(locate(tmp_path / "out"), schema.arrays(), elsewhere, silent)
    assert [*found] == [0, 1, 2, 3, 4, 5]
    assert [*elsewhere.bytes] == ["read_lengths"], "receipts are read in tasks"
    assert listed == ["x", "y", "id"]


CATEGORIES, COLUMNS = 2_000, 4


@pytest.fixture
def categories(tmp_path: Path) -> Path:
    """A table with columns of thousands of categories; the schema is about 200 KB."""
    names = [f"c{i}" for i in range(COLUMNS)]
    lines = (
        ",".join([f"{name} has value {row % CATEGORIES:06d}" for name in names] + ["ab"[row % 2]])
        for row in range(4_000)
    )
    path = tmp_path / "categories.csv"
    path.write_text(",".join([*names, "label"]) + "\n" + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("options", [{}, {"shuffle": 3}, {"on_error": "skip"}], ids=["plain", "shuffled", "scanned"])
def test_tasks_run_elsewhere_without_the_schema_in_them(
    options: dict[str, Any], categories: Path, tmp_path: Path
) -> None:
    options = {"categories": tuple(f"c{i}" for i in range(COLUMNS)), **options}
    expected = convert_table(categories, tmp_path / "expected", **options)
    assert len(expected.schema.categories["c0"]) == CATEGORIES
    elsewhere = Elsewhere()
    dataset = convert_table(categories, tmp_path / "out", executor=elsewhere, **options)
    assert contents(dataset) == contents(expected)
    assert {"scan_piece"} < elsewhere.bytes.keys()
    assert max(elsewhere.bytes.values()) < 1_500


def test_tasks_of_wide_tables_and_of_images_are_small(write_csv: WriteCsv, tmp_path: Path) -> None:
    elsewhere = Elsewhere()
    convert_table(write_csv(table(40, columns=3_000)), tmp_path / "wide", executor=elsewhere)
    classes = [f"{number:04d} is a class with a long name" for number in range(200)]
    write_images(tmp_path / "photos", [f"{name}/a.bmp" for name in classes])
    request = ImageRequest((str(tmp_path / "photos"),), ImageForm((4, 4), "gray"))
    dataset = convert_images(request, locate(tmp_path / "images"), elsewhere)
    assert len(dataset.schema.classes) == 200
    assert {"cut_ranges", "scan_piece", "write_shard_task", "write_image_shard"} <= elsewhere.bytes.keys()
    assert max(elsewhere.bytes.values()) < 1_500


def test_a_process_reads_a_plan_once(write_csv: WriteCsv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, whole = list[str](), LocalPlace.read_bytes
    monkeypatch.setattr(LocalPlace, "read_bytes", lambda place: read.append(str(place)) or whole(place))  # type: ignore[func-returns-value]
    path = write_csv(table(300))
    convert_table(path, tmp_path / "here")
    assert not [path for path in read if PLANS in path]  # this process has it already
    convert_table(path, tmp_path / "out", executor=Elsewhere())
    assert len([path for path in read if PLANS in path]) == 2  # of the scan of a sample, and of the shards


def test_a_plan_that_is_gone_or_damaged_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    stored = StoredPlan(str(tmp_path), ShardPlan, "0" * 64)
    with pytest.raises(ConflictError, match="run the command again"):
        write_shard_task(ShardTask(stored, 0))
    Path(stored.path).parent.mkdir(parents=True)
    Path(stored.path).write_text("{}")
    with pytest.raises(ConflictError, match="run the command again"):
        write_shard_task(ShardTask(stored, 0))


def test_the_commit_holds_one_receipt_at_a_time() -> None:
    columns, block = 2_000, 4
    schema = Schema(tuple(f"c{i}" for i in range(columns)), (columns,), "float32")

    def peak(shards: int) -> int:
        layout = Layout(shards * block, block, 1)
        plan = ShardPlan(layout, schema, None, (), np.zeros(0), False, "none", False, False, False, ())  # type: ignore[arg-type]
        arrays: dict[str, np.ndarray] = {"x": np.ones((block, columns), np.float32), "id": np.arange(block)}

        def receipts() -> Iterator[dict[str, Any]]:
            for _ in range(shards):
                entry = ShardEntry(block, {"x": 1, "id": 1}, {"x": "0", "id": "1"})
                summary = summarize(plan, arrays, np.ones(columns, np.int64))
                yield {"entry": vars(entry), "blocks": {"x": [8, 1], "id": [8, 2]}, **summary}

        tracemalloc.start()
        combined = Combined.of(layout, schema, receipts())
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (combined.statistics().mean[0], combined.statistics().missing[0]) == (1, shards)
        assert list(combined.blocks["id"]) == [8, 2] * shards
        return most

    peak(2)
    assert peak(60) < 1.3 * peak(6)
