"""Fixtures shared by all tests. Clusters start slowly: tests that need one share it for the session."""

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from foldstream.cluster.dask.local import dask_cluster
from foldstream.pipeline.append import append_request, append_rows, appended_version
from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.sources import describe_source
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.storage.dataset import Dataset, open_dataset
from foldstream.storage.format import layout as layouts
from foldstream.storage.format.layout import SMALL_BLOCK_BYTES
from foldstream.storage.tasks import SerialExecutor, silent

EXAMPLES = Path(__file__).parent.parent / "examples" / "digits"

PARTS = 8
LEFT_OUT = pytest.StashKey[list[str]]()

WriteCsv = Callable[..., Path]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--part",
        type=int,
        metavar="NUMBER",
        help=f"Run one in {PARTS} of the tests marked long; NUMBER says which, and is the seed of random moments.",
    )


def pytest_report_header(config: pytest.Config) -> str:
    part = config.getoption("--part")
    return "long tests: all, seed 0" if part is None else f"long tests: part {part % PARTS + 1} of {PARTS}, seed {part}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run long tests last, and of these only the wanted part."""
    part = config.getoption("--part")
    long = [item for item in items if item.get_closest_marker("long")]
    left_out = [] if part is None else [item for number, item in enumerate(long) if (number - part) % PARTS]
    items[:] = [*(item for item in items if item not in long), *(item for item in long if item not in left_out)]
    config.hook.pytest_deselected(items=left_out)
    config.stash[LEFT_OUT] = [item.nodeid for item in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which tests were left out, and how they are run."""
    if left_out := config.stash.get(LEFT_OUT, []):
        terminalreporter.section("long tests left out")
        terminalreporter.write_line("\n".join([*left_out, "All tests: make test-all"]))


@pytest.fixture(scope="session", autouse=True)
def many_blocks() -> Iterator[None]:
    """Small data are converted to as many blocks as large data have, so that tests see windows, lanes and blocks at
    work. A test of what users get turns this off by `usual_blocks`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "SMALL_BLOCK_BYTES", 0)
        yield


@pytest.fixture
def usual_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks as users get them."""
    monkeypatch.setattr(layouts, "SMALL_BLOCK_BYTES", SMALL_BLOCK_BYTES)


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of what long tests draw at random: another one for each run of CI."""
    return request.config.getoption("--part") or 0


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


def append_files(root: Path, *paths: Path, **options: Any) -> Dataset:
    """Append files or folders to a dataset in this process, or do nothing if that is done."""
    dataset = open_dataset(root)
    request = append_request(dataset, [str(path) for path in paths], **options)
    if appended_version(dataset, request, silently):
        return dataset
    return append_rows(dataset, request, SerialExecutor(), silent, silently)


def silently(name: str, what: str) -> None:
    """Tell nobody."""
