"""Datasets in a bucket of a real S3 server: streamed, cached on local disk, trained from."""

from collections.abc import Iterator
from pathlib import Path

import foldstream as fs
import numpy as np
import obstore
import pyarrow as pa
import pytest
import zarr
from foldstream.cluster.api.predict import write_oof
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import ConflictError, DamagedError, DatasetError, ForeignError, UsageError
from foldstream.storage.places.block_cache import FOLDER
from foldstream.storage.places.requests import open_store
from pyarrow import parquet

from ..object_store import ObjectServer, object_server


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with object_server() as started:
        yield started
    open_store.cache_clear()


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
    assert rows(bucket, split="test", fold=1, cache=size) == rows(digits, split="test", fold=1)
    kept = sum(path.stat().st_size for path in cache.rglob("*-*"))
    assert kept <= {"0": 0, "50KB": 50_000, "1GB": 10**9}[size]
    assert (kept > 0) == (size != "0")


def test_what_is_cached_needs_no_store(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    with object_server() as own:
        open_store.cache_clear()
        dataset = fs.open(own.upload(digits.root, "other.zarr"))
        stream = fs.stream(dataset, batch_size=48)
        stream.blocks.kept = 0  # type: ignore[union-attr]
        first = [batch.id.tolist() for batch in stream]
        own.stop()
        assert len(list(stream)) == len(first)
        assert rows(dataset, split="test", fold=1) == rows(digits, split="test", fold=1)
    open_store.cache_clear()


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
    with pytest.raises(DamagedError, match=r"x/c/1/0/0/0: the block does not match its checksum \(rows"):
        rows(url)
    assert [(damage.array, damage.shard) for damage in fs.verify(url)] == [("x", 1)]


def test_what_is_not_there_or_not_allowed_is_said(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ForeignError, match="s3://bucket/nothing does not exist"):
        fs.open("s3://bucket/nothing")
    with pytest.raises(UsageError, match=r"as in s3://bucket/digits\.zarr"):
        fs.open("s3://bucket")
    with pytest.raises(UsageError, match="choose from s3, gs, az"):
        fs.open("reference://x/y")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    open_store.cache_clear()
    with pytest.raises(DatasetError, match="check the credentials") as refused:
        fs.open("s3://bucket/digits.zarr")
    assert "wrong" not in str(refused.value)
    open_store.cache_clear()


MODEL = """
from torch import nn

def linear(sample_shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(784, outputs))
"""


def test_a_run_in_a_bucket_is_the_run_in_a_folder(bucket: str, server: ObjectServer, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(MODEL)
    options = {
        "model": f"{tmp_path}/own.py:linear",
        "folds": 2,
        "epochs": 2,
        "batch_size": 64,
        "holdout": 0.2,
    }
    remote, local = "s3://bucket/runs/first", tmp_path / "run"
    summary = fs.train(bucket, remote, **options).summary  # type: ignore[arg-type]
    expected = fs.train(bucket, local, **options).summary  # type: ignore[arg-type]
    assert summary["out_of_fold"] == expected["out_of_fold"]
    assert summary["holdout"] == expected["holdout"]
    for path in ("folds/0/model.safetensors", "folds/1/model.safetensors", "code/own.py", "run.json"):
        assert bytes(obstore.get(server.store, f"runs/first/{path}").bytes()) == (local / path).read_bytes(), path
    stored = [str(item["path"]) for batch in obstore.list(server.store, "runs/first") for item in batch]
    assert any("/tensorboard/fold-0/events.out" in name for name in stored)
    assert sum("/checkpoints/epoch-" in name for name in stored) == 2
    (tmp_path / "own.py").unlink()
    (model, _), (same, _) = fs.load_models(remote), fs.load_models(local)
    assert all(one.equal(other) for one, other in zip(model.parameters(), same.parameters(), strict=True))
    for run, folder in ((remote, "s3://bucket/out"), (str(local), str(tmp_path))):
        assert fs.predict(run, bucket, f"{folder}/predictions.csv").rows == 1200
        assert write_oof(run, f"{folder}/oof.csv") == 1200
        assert write_oof(run, f"{folder}/oof.parquet") == 1200
    for name in ("predictions.csv", "oof.csv", "oof.parquet"):
        assert bytes(obstore.get(server.store, f"out/{name}").bytes()) == (tmp_path / name).read_bytes(), name


def test_a_run_in_a_bucket_goes_on_and_refuses_another_job(bucket: str, server: ObjectServer) -> None:
    place = "s3://bucket/runs/second"
    options = {"model": "mlp", "folds": 2, "epochs": 2, "batch_size": 64}
    summary = fs.train(bucket, place, **options).summary  # type: ignore[arg-type]
    weights = bytes(obstore.get(server.store, "runs/second/folds/1/model.safetensors").bytes())
    for name in ("folds/1/done.json", "folds/1/model.safetensors", "summary.json", "report.json"):
        obstore.delete(server.store, f"runs/second/{name}")
    again = fs.train(bucket, place, **options).summary  # type: ignore[arg-type]
    assert again["out_of_fold"] == summary["out_of_fold"]
    assert bytes(obstore.get(server.store, "runs/second/folds/1/model.safetensors").bytes()) == weights
    with pytest.raises(ConflictError, match="seed was 0 and is now 1"):
        fs.train(bucket, place, **{**options, "seed": 1})  # type: ignore[arg-type]
    more = fs.train(bucket, place, **{**options, "epochs": 3}).summary  # type: ignore[arg-type]
    assert more["folds"][1]["epoch"] == 3
    with pytest.raises(ConflictError, match="contains something that is not a run"):
        fs.train(bucket, "s3://bucket/digits.zarr", **options)  # type: ignore[arg-type]


def test_credentials_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError, match="set them in the environment") as refused:
        fs.open("s3://AKIAX:topsecret@bucket/digits.zarr")
    assert "topsecret" not in str(refused.value)


def test_arrays_in_a_bucket_are_adopted_in_place(server: ObjectServer, tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32), np.arange(500) % 3
    group = zarr.open_group(tmp_path / "store" / "a.zarr", mode="w")
    group.create_array("x", shape=x.shape, chunks=(50, 8), shards=(100, 8), dtype="float32")[...] = x
    group.create_array("y", shape=y.shape, chunks=(500,), dtype="int64")[...] = y
    np.savez_compressed(tmp_path / "store" / "b.npz", x=x, y=y)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 8)
    parquet.write_table(pa.table({"x": lists, "y": y}), tmp_path / "store" / "c.parquet", row_group_size=100)
    url = server.upload(tmp_path / "store", "store")
    for name in ("a.zarr", "b.npz", "c.parquet"):
        dataset = fs.adopt(f"{url}/{name}", f"{url}/{name}.adopted", y="y", progress=False)
        batches = list(fs.stream(dataset, batch_size=64))
        ids = np.concatenate([batch.id.numpy() for batch in batches])
        assert sorted(ids) == list(range(500))
        assert np.concatenate([batch.x.numpy() for batch in batches]).tobytes() == x[ids].tobytes()
