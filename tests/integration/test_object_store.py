"""Datasets in a bucket of a real S3 server: streamed, cached on local disk, trained from."""

from collections.abc import Iterator
from pathlib import Path

import foldstream as fs
import obstore
import pytest
from foldstream.storage.block_cache import FOLDER
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import DamagedError, DatasetError, ForeignError, UsageError
from foldstream.storage.object_path import _open_store

from ..object_store import ObjectServer, object_server


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with object_server() as started:
        yield started
    _open_store.cache_clear()


@pytest.fixture(scope="module")
def bucket(server: ObjectServer, digits: Dataset) -> str:
    return server.upload(digits.root, "digits.zarr")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    return tmp_path / "cache"


def rows(dataset: str | Dataset, epochs: int = 1, **options: object) -> list[tuple[list[int], int]]:
    stream = fs.stream(dataset, batch_size=48, **options)  # type: ignore[arg-type]
    return [(batch.id.tolist(), int(batch.x.sum())) for _ in range(epochs) for batch in stream]


@pytest.mark.parametrize("size", ["0", "50KB", "1GB"])
def test_a_bucket_gives_the_batches_of_the_folder(size: str, bucket: str, digits: Dataset, cache: Path) -> None:
    assert rows(bucket, epochs=2, cache=size, memory="300MB", threads=4) == rows(digits, epochs=2)
    assert rows(bucket, split="test", fold=1) == rows(digits, split="test", fold=1)
    kept = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    assert kept <= {"0": 0, "50KB": 50_000, "1GB": 10**9}[size]
    assert (kept > 0) == (size != "0")


def test_what_is_cached_needs_no_store(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    with object_server() as own:
        _open_store.cache_clear()
        stream = fs.stream(own.upload(digits.root, "other.zarr"), batch_size=48)
        stream.blocks.kept = 0  # type: ignore[union-attr]
        first = [batch.id.tolist() for batch in stream]
        own.stop()
        assert len(list(stream)) == len(first)
    _open_store.cache_clear()


def test_a_damaged_cache_is_read_from_the_store_again(bucket: str, digits: Dataset, cache: Path) -> None:
    expected = rows(bucket, cache="1GB")
    for path in cache.rglob("x-*"):
        path.write_bytes(path.read_bytes()[:-7])
    assert rows(bucket, cache="1GB") == expected


def test_damage_in_a_bucket_is_named(server: ObjectServer, digits: Dataset) -> None:
    url = server.upload(digits.root, "damaged.zarr")
    obstore.delete(server.store, "damaged.zarr/x/c/1/0/0/0")
    with pytest.raises(DamagedError, match=r"s3://bucket/damaged\.zarr/x/c/1/0/0/0: the file is missing"):
        rows(url)
    data = bytearray((digits.root / "x/c/1/0/0/0").read_bytes())
    data[100] ^= 1
    obstore.put(server.store, "damaged.zarr/x/c/1/0/0/0", bytes(data))
    with pytest.raises(DamagedError, match=r"x/c/1/0/0/0: the block fails its checksum \(rows"):
        rows(url)
    assert [(damage.array, damage.shard) for damage in fs.verify(url)] == [("x", 1)]


def test_what_is_not_there_or_not_allowed_is_said(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ForeignError, match="s3://bucket/nothing holds no dataset"):
        fs.open("s3://bucket/nothing")
    with pytest.raises(UsageError, match=r"as in s3://bucket/digits\.zarr"):
        fs.open("s3://bucket")
    with pytest.raises(UsageError, match="choose from s3, gs, az"):
        fs.open("reference://x/y")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    _open_store.cache_clear()
    with pytest.raises(DatasetError, match="look at the credentials") as refused:
        fs.open("s3://bucket/digits.zarr")
    assert "wrong" not in str(refused.value)
    _open_store.cache_clear()


def test_a_run_trains_from_a_bucket(bucket: str, tmp_path: Path) -> None:
    summary = fs.train(bucket, tmp_path / "run", model="mlp", folds=2, epochs=2, workers=1, batch_size=64)
    assert summary["rows"] == 1200
    assert summary["out_of_fold"]["accuracy"] > 0.5
