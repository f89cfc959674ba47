"""An object store that fails, answers late or is away for a while: reading goes on, with the same rows in the same
order, and tells how long it waited."""

import logging
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import foldstream as fs
import pytest
from foldstream.cluster.runs.journal import Journal
from foldstream.cluster.runs.schedule import Ended, Silent
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import Dataset
from foldstream.storage.places import requests
from foldstream.storage.places.locate import locate
from foldstream.storage.places.requests import open_store
from foldstream.training.engine.loop import Clock
from foldstream.training.run import RunFolder

from ..chaos.fold_kills import command, training, wait_for
from ..object_store import ObjectServer, object_server, read_over
from ..slow_link import Faults, requests_since, set_faults, slow_link

EPOCHS = 4


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with object_server() as started:
        yield started


@pytest.fixture(scope="module")
def bucket(server: ObjectServer, digits: Dataset) -> str:
    open_store.cache_clear()
    return server.upload(digits.root, "failures.zarr")  # other tests have opened digits.zarr, and its index is kept


@pytest.fixture
def link(server: ObjectServer, bucket: str) -> Iterator[str]:
    """The address of a link to the server, over which this process reads the bucket."""
    with read_over(slow_link(server.port, 0.002, 0)) as address:
        yield address


def rows(dataset: str | Dataset, clock: Clock | None = None) -> list[tuple[list[int], int]]:
    """The rows of some epochs, each of which reads all blocks. The clock is that of training."""
    stream = fs.stream(dataset, batch_size=48, cache="0", threads=4)
    stream.blocks.kept = 0  # type: ignore[union-attr]
    clock = clock or Clock()
    return [(batch.id.tolist(), int(batch.x.sum())) for _ in range(EPOCHS) for batch in clock.waiting(stream)]


def test_opening_takes_three_requests_and_a_block_one_at_most(
    link: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_LATE", "LEAST_LATE"):  # a request that a busy machine delays is not repeated
        monkeypatch.setattr(requests, name, 60.0)
    dataset = fs.open(bucket)
    assert dataset.index.tables  # what a stream reads first
    assert requests_since(link)["GET"] == 3, "the list of versions, the manifest and the index"
    blocks, shards = dataset.layout.blocks, dataset.layout.shards
    for _ in range(2):  # the blocks stay in memory
        assert sum(len(batch.id) for batch in fs.stream(dataset, batch_size=48, cache="0")) == len(dataset)
    shuffled = requests_since(link)["GET"]
    assert 2 * blocks * 0.9 <= shuffled <= 2 * blocks * 1.1
    assert sum(len(batch.id) for batch in fs.stream(dataset, split="test", cache="0")) == len(dataset)
    assert requests_since(link)["GET"] == shards, "blocks that follow one another are one request"


def test_columns_of_a_shard_are_read_by_one_request_each(
    link: str, bucket: str, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_LATE", "LEAST_LATE"):
        monkeypatch.setattr(requests, name, 60.0)
    dataset, names = fs.open(bucket), ("y", "id")
    assert dataset.index.tables
    requests_since(link)
    reader, other = BlockReader(dataset, names), BlockReader(digits, names)
    for shard in (0, 1):
        blocks = dataset.layout.blocks_of(shard)
        found, expected = reader.read(blocks), other.read(blocks)
        assert all(found[name].tolist() == expected[name].tolist() for name in names)
        assert requests_since(link)["GET"] == len(names)


def test_failed_and_late_answers_change_no_row_and_take_little_time(link: str, bucket: str, digits: Dataset) -> None:
    expected = rows(digits)
    fs.open(bucket)
    set_faults(link, faults := Faults(failed=0.01, slow=0.001, seconds=30.0, seed=38))
    started = monotonic()
    assert rows(bucket) == expected
    assert monotonic() - started < faults.seconds, "a late answer was waited for"
    count = requests_since(link)
    assert count.keys() >= {"slow", "500", "503", "429", "dropped", "cut"}, "each of them has happened"


@pytest.mark.parametrize("seconds", [6.0, pytest.param(60.0, marks=pytest.mark.long)])
def test_a_store_that_is_away_is_waited_for(
    seconds: float,
    link: str,
    bucket: str,
    digits: Dataset,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requests, "AWAY_SECONDS", min(requests.AWAY_SECONDS, seconds / 2))
    log = logging.Logger("requests")  # other libraries may have disabled the loggers of this process
    log.addHandler(caplog.handler)
    monkeypatch.setattr(requests, "_log", log)
    expected = rows(digits)
    fs.open(bucket)
    set_faults(link, Faults(failed=0.01, slow=0.01, away=seconds, after=100))
    clock = Clock()
    assert rows(bucket, clock) == expected
    assert clock.spent["data_wait"] > seconds / 2, "what has arrived before is still decoded meanwhile"
    gone, back, *_ = (record.getMessage() for record in caplog.records)
    assert gone.startswith("s3://bucket: the object store has not answered for"), gone
    assert back.startswith("s3://bucket: the object store answers again, after"), back


@pytest.mark.long
@pytest.mark.timeout(600)
def test_workers_that_wait_for_a_store_do_not_count_as_hung(link: str, bucket: str, tmp_path: Path) -> None:
    run, log = RunFolder(locate(tmp_path / "run")), tmp_path / "log"
    options = ["--workers", "1", "--cache", "0", "--hang-timeout", "10"]
    with training(command(bucket, run.root, *options), log) as process:
        wait_for(process, run, 1)
        set_faults(link, Faults(away=25.0))
        started = monotonic()
        assert process.wait() == 0, log.read_text()
    assert monotonic() - started > 25
    events = list(Journal(run.journal).read())
    assert not [event for event in events if isinstance(event, Silent) or (isinstance(event, Ended) and event.error)]
