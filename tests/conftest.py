"""Fixtures shared by all tests. Clusters start slowly: tests that need one share it for the session."""

import gzip
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from foldstream.cluster.dask.local import dask_cluster
from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.sources import describe_source
from foldstream.pipeline.tables.spec import ConvertRequest
from foldstream.storage.dataset import Dataset
from foldstream.storage.tasks import SerialExecutor

EXAMPLES = Path(__file__).parent.parent / "examples" / "digits"

STARTED = time.monotonic()

WriteCsv = Callable[..., Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--budget", type=float, metavar="SECONDS", help="Skip tests marked long that would start after this time."
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run long tests last."""
    items.sort(key=lambda item: item.get_closest_marker("long") is not None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    budget = item.config.getoption("--budget")
    if budget and item.get_closest_marker("long") and time.monotonic() - STARTED > budget:
        pytest.skip(f"the --budget of {budget:.0f} seconds is used up")


@pytest.fixture(scope="session")
def digits_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV file with the first 1,200 rows of the digits example."""
    target = tmp_path_factory.mktemp("digits") / "digits.csv"
    with gzip.open(EXAMPLES / "train.csv.gz", "rt") as source:
        target.write_text("".join(line for line, _ in zip(source, range(1201), strict=False)))
    return target


@pytest.fixture(scope="session")
def digits(digits_csv: Path) -> Dataset:
    """A dataset of 1,200 digits, shared by tests, which must not modify it."""
    request = ConvertRequest((describe_source(str(digits_csv)),), labels=("label",), shape=(1, 28, 28))
    return convert(request, digits_csv.parent / "digits.zarr", SerialExecutor())


@pytest.fixture(scope="session")
def dask_client() -> Iterator[Client]:
    """Dask in this process, with two threads, shared by the session."""
    with dask_cluster(2) as client:
        yield client


@pytest.fixture(scope="session")
def dask_processes() -> Iterator[Client]:
    """A Dask cluster of two worker processes, shared by the session."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def write_csv(tmp_path: Path) -> WriteCsv:
    """A function that writes text to a CSV file and returns its path."""

    def write(text: str, name: str = "data.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode())
        return path

    return write


def convert_file(path: Path, out: Path, label: Any = (), **options: object) -> Dataset:
    """Convert one CSV file in this process."""
    labels = (label,) if isinstance(label, str) else label
    request = ConvertRequest((describe_source(str(path)),), labels, **options)  # type: ignore[arg-type]
    return convert(request, out, SerialExecutor())


def contents(dataset: Dataset) -> list[dict[str, str]]:
    """The content hashes of each shard."""
    return [entry.hashes for entry in dataset.manifest.shards]


def table(rows: int, seed: int = 0, columns: int = 4) -> str:
    """A CSV of integers, with a label that depends on them."""
    values = np.random.default_rng(seed).integers(0, 100, (rows, columns))
    names = ",".join(f"c{i}" for i in range(columns))
    lines = (",".join(map(str, [*row, "abc"[row.sum() % 3]])) for row in values)
    return f"{names},label\n" + "\n".join(lines) + "\n"
