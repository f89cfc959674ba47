"""CSV and images in a bucket to Zarr in a bucket, on a real S3 server: killed, resumed, and trained from."""

import gzip
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import foldstream as fs
import numpy as np
import obstore
import psutil
import pyarrow as pa
import pytest
from foldstream.pipeline.images.convert import convert_images
from foldstream.pipeline.images.spec import ImageRequest
from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.fill import write_shard_task
from foldstream.pipeline.tables.sources import describe_source, find_sources
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.storage.blocks.reader import cached_reader
from foldstream.storage.dataset import Dataset, open_dataset
from foldstream.storage.errors import ConflictError, FoldstreamError, SourceError
from foldstream.storage.format.images import ImageForm
from foldstream.storage.places.locate import locate
from foldstream.storage.places.requests import open_store
from foldstream.storage.tasks import SerialExecutor
from pyarrow import parquet

from ..conftest import append_files, contents, convert_file, table
from ..object_store import ObjectServer, object_server

PATIENCE_SECONDS = 120
TEXTURES = Path(__file__).parents[2] / "examples" / "textures"


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with object_server() as started:
        yield started
    open_store.cache_clear()


def kill_after_a_receipt(command: list[str], server: ObjectServer) -> None:
    """Run a command in a process group of its own, and kill the group once a shard is in place."""
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not list(obstore.list(server.store, "killed.zarr/.work/receipts")):
            assert process.poll() is None, "the command ended before it was killed"
            assert time.monotonic() < deadline, "no shard was written"
            family = family or psutil.Process(process.pid).children(recursive=True)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    psutil.wait_procs(family, timeout=60)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_bucket_of_csv_becomes_a_dataset_in_a_bucket_though_it_is_killed(
    server: ObjectServer, digits_csv: Path, usual_blocks: None, tmp_path: Path
) -> None:
    header, *lines = digits_csv.read_bytes().splitlines(keepends=True)
    for part, rows in enumerate((lines[:700], lines[700:])):
        obstore.put(server.store, f"csv/part-{part}.csv", header + b"".join(rows))
    obstore.put(server.store, "csv/notes.txt", b"no CSV")
    command = [sys.executable, "-m", "foldstream.cli", "convert", "csv", "s3://bucket/csv", "s3://bucket/killed.zarr"]
    command += ["--label", "label", "--shape", "1,28,28"]
    kill_after_a_receipt(command, server)
    with pytest.raises(FoldstreamError):
        fs.open("s3://bucket/killed.zarr")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_SECONDS)
    dataset = open_dataset("s3://bucket/killed.zarr")
    here = convert_file(digits_csv, tmp_path / "here.zarr", "label", shape=(1, 28, 28))
    assert contents(dataset) == contents(here)
    assert not [batch for batch in obstore.list(server.store, "killed.zarr/.work") if batch]
    summary = fs.train("s3://bucket/killed.zarr", tmp_path / "run", model="mlp", folds=2, epochs=2, workers=1).summary
    assert summary["rows"] == 1200
    assert summary["out_of_fold"]["accuracy"] > 0.5


@pytest.mark.long
def test_a_dataset_in_a_bucket_grows_and_is_pruned(server: ObjectServer, tmp_path: Path) -> None:
    for name, rows, seed in (("one", 300, 0), ("two", 60, 1)):
        obstore.put(server.store, f"{name}.csv", table(rows, seed).encode())
        (tmp_path / f"{name}.csv").write_text(table(rows, seed))
    fs.convert_csv("s3://bucket/one.csv", "s3://bucket/grown.zarr", label="label")
    convert_file(tmp_path / "one.csv", tmp_path / "grown.zarr", label="label")
    grown = fs.append("s3://bucket/grown.zarr", "s3://bucket/two.csv")
    here = append_files(tmp_path / "grown.zarr", tmp_path / "two.csv")
    assert (contents(grown), grown.version, grown.layout) == (contents(here), 2, here.layout)
    assert [len(fs.open(f"s3://bucket/grown.zarr{name}")) for name in ("", "@1", "@2")] == [360, 300, 360]
    assert sum(len(y) for _, y, _ in fs.stream("s3://bucket/grown.zarr", batch_size=36)) == 360
    assert fs.verify("s3://bucket/grown.zarr") == []
    assert fs.append("s3://bucket/grown.zarr", "s3://bucket/two.csv").identity == grown.identity
    assert fs.prune("s3://bucket/grown.zarr", keep=1) == [2]
    left = [one["path"] for batch in obstore.list(server.store, "grown.zarr") for one in batch]
    assert not [path for path in left if "/parts/" in path or "/versions/" in path]
    assert len(fs.open("s3://bucket/grown.zarr")) == 300


def test_packed_sources_and_misleading_samples_work_in_a_bucket(server: ObjectServer, tmp_path: Path) -> None:
    text = table(3000) + "999,1,2,3,z\n"
    obstore.put(server.store, "odd.csv.gz", gzip.compress(text.encode()))
    request = ConvertRequest((describe_source("s3://bucket/odd.csv.gz"),), labels=("label",))
    dataset = convert(request, locate("s3://bucket/odd.zarr"), SerialExecutor())
    local = tmp_path / "odd.csv"
    local.write_text(text)
    same = convert(
        ConvertRequest((describe_source(str(local)),), labels=("label",)), tmp_path / "odd", SerialExecutor()
    )
    assert contents(dataset) == contents(same)
    assert dataset.schema.x_dtype == "uint16"
    again = convert(request, locate("s3://bucket/odd.zarr"), SerialExecutor())
    assert again.identity == dataset.identity
    with pytest.raises(ConflictError, match="contains another dataset"):
        convert(ConvertRequest(request.sources), locate("s3://bucket/odd.zarr"), SerialExecutor())
    other = ConvertRequest(request.sources, ignore=("label",))
    replaced = convert(other, locate("s3://bucket/odd.zarr"), SerialExecutor(), overwrite=True)
    assert not replaced.schema.labels
    assert np.prod(replaced.schema.sample_shape) == 4


def test_parquet_is_read_from_a_bucket(server: ObjectServer, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"a": np.arange(5000), "label": np.arange(5000) % 3}), path, row_group_size=1000)
    obstore.put(server.store, "t.parquet", path.read_bytes())
    places = ("s3://bucket/t.parquet", str(path))
    one, other = (
        convert(ConvertRequest((describe_source(place),), labels=("label",)), tmp_path / f"{i}.zarr", SerialExecutor())
        for i, place in enumerate(places)
    )
    assert contents(one) == contents(other)


def test_images_in_a_bucket_loose_and_in_archives_become_a_dataset_there(server: ObjectServer, tmp_path: Path) -> None:
    with zipfile.ZipFile(TEXTURES / "train.zip") as archive:
        archive.extractall(tmp_path / "loose")
    images = sorted((tmp_path / "loose").rglob("*.jpg"))
    names = {path: str(path.relative_to(tmp_path / "loose")) for path in images}
    for path in images:
        obstore.put(server.store, f"images/{names[path]}", path.read_bytes())
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path in images:
            tar.add(path, names[path])
    obstore.put(server.store, "textures.tar", packed.getvalue())
    obstore.put(server.store, "textures.zip", (TEXTURES / "train.zip").read_bytes())
    form = ImageForm((32, 32), "gray")

    def converted(source: str, target: str, encoded: bool = False) -> Dataset:
        request = ImageRequest((source,), form, shuffle=None, encoded=encoded)
        return convert_images(request, locate(target), SerialExecutor())

    expected = converted(str(tmp_path / "loose"), str(tmp_path / "local.zarr"))
    assert len(expected) == 168
    loose = converted("s3://bucket/images", "s3://bucket/images.zarr")
    tarred = converted("s3://bucket/textures.tar", str(tmp_path / "tar.zarr"))
    assert contents(loose) == contents(tarred) == contents(expected)
    zipped = converted("s3://bucket/textures.zip", "s3://bucket/zip.zarr")  # in the archive's order
    assert zipped.class_totals == expected.class_totals == (56, 56, 56)
    assert zipped.statistics.minimum == expected.statistics.minimum
    again = converted("s3://bucket/images", "s3://bucket/images.zarr")
    assert again.identity == loose.identity
    kept = converted("s3://bucket/textures.zip", "s3://bucket/files.zarr", encoded=True)
    reader, pixels = cached_reader(kept, ("x", "id")), cached_reader(zipped, ("x", "id"))
    reader.follow(iter(range(kept.layout.blocks)))
    blocks = range(kept.layout.blocks)
    np.testing.assert_equal(reader.read(blocks), pixels.read(blocks))
    with pytest.raises(SourceError, match="s3://bucket/nothing does not exist"):
        converted("s3://bucket/nothing", "s3://bucket/nothing.zarr")


def test_of_two_converters_of_one_target_exactly_one_commits(server: ObjectServer) -> None:

    obstore.put(server.store, "race.csv", table(300).encode())
    request = ConvertRequest((describe_source("s3://bucket/race.csv"),), labels=("label",))
    target = locate("s3://bucket/race.zarr")

    class Rival(SerialExecutor):
        """Carries the other conversion to its end as this one comes to its shards."""

        done = False

        def map(self, function, tasks):  # type: ignore[no-untyped-def]
            if function is write_shard_task and not Rival.done:
                Rival.done = True
                convert(request, target, SerialExecutor())
            return super().map(function, tasks)

    with pytest.raises(ConflictError, match="by another process in the meantime"):
        convert(request, target, Rival())
    assert open_dataset(target).layout.rows == 300


def test_objects_are_found_by_name_folder_and_pattern(server: ObjectServer) -> None:
    for name in ("many/b.csv", "many/a.csv.gz", "many/deep/c.tsv", "many/readme.md"):
        obstore.put(server.store, name, b"x")
    names = [source.path.removeprefix("s3://bucket/many/") for source in find_sources(["s3://bucket/many"])]
    assert names == ["a.csv.gz", "b.csv", "deep/c.tsv"]
    assert [s.path for s in find_sources(["s3://bucket/many/*.csv"])] == ["s3://bucket/many/b.csv"]
    with pytest.raises(SourceError, match="cannot be read: it does not exist"):
        find_sources(["s3://bucket/nothing"])
