"""SIGKILL for a worker that predicts, and for the command with all of its processes: the same file, each row once."""

import sys
from collections.abc import Iterator
from pathlib import Path

import foldstream as fs
import obstore
import pytest
import torch
from foldstream.storage.dataset import Dataset
from foldstream.storage.format.manifest import WORK
from foldstream.storage.places.requests import open_store
from pyarrow import parquet

from ..object_store import ObjectServer, object_server
from .processes import Deadline, assert_session_ended, finish, kill_session, session_processes, start

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

WORKER = "ray::run_task"
SLOW = """
import time
from torch import nn

class Slow(nn.Module):
    def __init__(self, sample_shape, outputs):
        super().__init__()
        self.last = nn.Sequential(nn.Flatten(), nn.Linear(784, outputs))

    def forward(self, x):
        if not self.training:
            time.sleep(0.2)
        return self.last(x)
"""


@pytest.fixture(scope="module")
def slow(digits: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose models take their time for each batch."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "own.py").write_text(SLOW)
    fs.train(digits, folder / "run", model=f"{folder}/own.py:Slow", folds=2, epochs=1)
    return folder / "run"


@pytest.fixture(autouse=True)
def as_many_threads_as_a_worker() -> Iterator[None]:
    """This process computes with one thread, like a worker with a core of its own: on some processors, the last digits
    depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with object_server() as started:
        open_store.cache_clear()
        yield started
    open_store.cache_clear()


def command(run: object, source: object, out: object, workers: int = 2) -> list[str]:
    words = ["predict", run, source, out, "--workers", workers, "--proba"]
    return [sys.executable, "-m", "foldstream.cli", *map(str, words)]


def receipts(out: Path) -> dict[str, int]:
    """The finished parts of a file, with the times at which they were written."""
    work = out.with_name(f".{out.name}{WORK}")
    finished = [path.stem for path in (work / "receipts").glob("*.npz")]
    return {name: (work / "parts" / name).stat().st_mtime_ns for name in finished}


@pytest.mark.parametrize("victim", ["worker", "command"])
def test_a_killed_prediction_becomes_the_same_file(victim: str, slow: Path, digits: Dataset, tmp_path: Path) -> None:
    out, whole, log = tmp_path / "out.csv", tmp_path / "whole.csv", tmp_path / "log"
    fs.predict(slow, digits, whole, proba=True, workers=0)
    process, deadline = start(command(slow, digits.root, out), log), Deadline()
    try:
        while len(receipts(out)) < 2:
            assert process.poll() is None, log.read_text()
            deadline.check("two finished parts")
        if victim == "worker":
            while not (busy := [one for one in session_processes(process.pid) if WORKER in " ".join(one.cmdline())]):
                deadline.check("a busy worker")
            busy[0].kill()
            finish(process, log)
    finally:
        kill_session(process)
    assert_session_ended(process.pid)
    if victim == "command":
        assert not out.exists()
        kept, again = receipts(out), start(command(slow, digits.root, out), log)
        while len(now := receipts(out)) == len(kept):
            assert again.poll() is None, log.read_text()
            deadline.check("another part")
        assert kept.items() <= now.items(), "a finished part was predicted again"
        finish(again, log)
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "out.csv", "whole.csv"]


def test_workers_write_to_a_bucket(slow: Path, digits: Dataset, server: ObjectServer, tmp_path: Path) -> None:
    whole, log = tmp_path / "whole.parquet", tmp_path / "log"
    fs.predict(slow, digits, whole, proba=True, workers=0)
    source = server.upload(digits.root, "digits.zarr")
    for out in ("s3://bucket/out.parquet", "s3://bucket/out/"):
        finish(start(command(slow, source, out), log), log)
    assert bytes(obstore.get(server.store, "out.parquet").bytes()) == whole.read_bytes()
    names = sorted(str(item["path"]) for batch in obstore.list(server.store) for item in batch)
    left = [name for name in names if not name.startswith("digits.zarr/")]
    parts = [f"out/part-{shard:05d}.parquet" for shard in range(digits.layout.shards)]
    assert left == ["out.parquet", "out/_SUCCESS", *parts, "ready"]
    for name in parts:
        (tmp_path / name.replace("/", "-")).write_bytes(bytes(obstore.get(server.store, name).bytes()))
    tables = parquet.ParquetDataset(sorted(tmp_path.glob("out-*.parquet"))).read()
    assert tables.equals(parquet.read_table(whole))
