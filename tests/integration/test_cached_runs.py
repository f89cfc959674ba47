"""The cache of a machine for blocks in a bucket: its ranks, later runs and every kind of reading share it, and each run
tells how much of what it read came from there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import foldstream as fs
import pytest
from foldstream.cluster.runs.status import run_status
from foldstream.cluster.views.run_page import RunPage
from foldstream.storage.dataset import Dataset
from foldstream.storage.places.block_cache import FOLDER
from foldstream.storage.places.json_files import read_json
from foldstream.storage.places.locate import locate
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ..object_store import object_server, read_over
from ..slow_link import requests_since, slow_link

OPTIONS: dict[str, Any] = {"model": "mlp", "folds": 2, "epochs": 2, "workers": 0}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def link(digits: Dataset) -> Iterator[str]:
    """The address of a link to a server whose bucket has the digits. This process reads over the link."""
    with object_server() as server:
        server.upload(digits.root, "digits.zarr")
        with read_over(slow_link(server.port, 0.0, 0)) as address:
            yield address


def hit_rates(run: Path) -> list[float]:
    """The hit rate in each epoch of the first fold."""
    return [epoch["cache_hit_rate"] for epoch in read_json(locate(run / "folds/0/done.json"))["history"]]


def page_of(run: Path) -> str:
    """The table of folds on the live page of a run."""
    text: str = RunPage(str(run), "light", run_status(locate(run))).folds.text
    return text


def test_a_run_tells_what_came_from_the_cache_and_the_next_one_reads_nothing_else(
    link: str, digits: Dataset, tmp_path: Path
) -> None:
    first, second, local = (tmp_path / name for name in ("first", "second", "local"))
    fs.train("s3://bucket/digits.zarr", first, **OPTIONS)
    assert requests_since(link)["x"] > digits.layout.blocks
    assert hit_rates(first) == pytest.approx([0.5, 1.0], abs=0.1), "evaluation finds what training has read"
    fs.train("s3://bucket/digits.zarr", second, **OPTIONS)
    assert requests_since(link)["x"] == 0
    assert hit_rates(second) == [1.0, 1.0]
    events = EventAccumulator(str(second / "tensorboard/fold-0"))
    events.Reload()
    assert [event.value for event in events.Scalars("cache_hit_rate")] == [1.0, 1.0]
    assert [fold["cache_hit_rate"] for fold in read_json(locate(second / "report.json"))["folds"]] == [1.0, 1.0]
    assert "from the cache" in (second / "report.html").read_text()
    assert page_of(second).count("<td>100%</td>") == 2
    fs.train(digits.root, local, **OPTIONS)
    assert "cache_hit_rate" not in read_json(locate(local / "folds/0/done.json"))["history"][0]
    assert "from the cache" not in (local / "report.html").read_text() + page_of(local)


def test_ranks_read_what_the_others_have_cached(link: str, digits: Dataset) -> None:
    dataset = fs.open("s3://bucket/digits.zarr")
    ranks = [fs.stream(dataset, rank=rank, world_size=2, batch_size=48, cache="1GB") for rank in range(2)]
    for stream in ranks:
        stream.blocks.kept = 0  # type: ignore[union-attr]
    read = []
    for _ in range(2):
        for stream in ranks:
            assert len([*stream]) == 25
        read.append(sum(stream.blocks.bytes_read for stream in ranks))  # type: ignore[union-attr, misc]
    assert read[0] == sum(dataset.index.lengths(name).sum() for name in ("x", "y", "id")), "each block once"
    assert read[1] == read[0], "each rank reads other blocks in the second epoch"


def test_predictions_find_what_training_has_cached(link: str, tmp_path: Path) -> None:
    run = fs.train("s3://bucket/digits.zarr", tmp_path / "run", **{**OPTIONS, "epochs": 1})
    requests_since(link)
    assert len(run.predict("s3://bucket/digits.zarr")) == 1200
    assert requests_since(link)["x"] == 0
