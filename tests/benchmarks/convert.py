"""`make bench-convert`: CSV to Zarr, compared with common tools on the same file, in one run.

python -m tests.benchmarks.convert DIGITS RESULT.json [CASE…]. The contenders take turns, each in its own
process, ROUNDS times, and the median counts. The Dask clusters have two cores, in threads of this process for
Foldstream and in two processes for dask.dataframe, and are started before timing.
"""

import gzip
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import zarr
from distributed import Client, LocalCluster
from foldstream import convert_csv
from foldstream.cluster.dask.local import dask_cluster
from pyarrow import csv as pa_csv
from rich.console import Console
from rich.table import Table

ROUNDS = int(os.environ.get("ROUNDS", "3"))
BYTES = 1_000_000_000
TABLE_BYTES = 2_000_000_000
CATEGORIES = [f"category-{letter}" for letter in "abcdefgh"]


def make_digits(digits: Path, target: Path) -> None:
    """The full digits, repeated up to one gigabyte."""
    with gzip.open(digits / "train.csv.gz", "rb") as file:
        header, rows = file.readline(), file.read()
    with open(target, "wb") as out:
        out.write(header)
        while out.tell() < BYTES:
            out.write(rows)


def make_packed(digits: Path, target: Path) -> None:
    """The same file, compressed."""
    plain = target.with_suffix("")
    make_digits(digits, plain)
    with open(plain, "rb") as file, gzip.open(target, "wb", 6) as out:
        shutil.copyfileobj(file, out, 1 << 20)
    plain.unlink()


def make_table(digits: Path, target: Path) -> None:
    """2 GB of 40 float columns with 6 digits, 5 categorical columns, a date and a label."""
    generator = np.random.default_rng(0)
    rows = 200_000
    frame = pd.DataFrame(generator.uniform(-1, 1, (rows, 40)).round(6), columns=[f"f{i}" for i in range(40)])
    for i in range(5):
        frame[f"c{i}"] = np.array(CATEGORIES)[generator.integers(0, len(CATEGORIES), rows)]
    frame["day"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(generator.integers(0, 2000, rows), unit="D")
    frame["label"] = generator.integers(0, 2, rows)
    text = frame.to_csv(index=False, float_format="%.6f").encode()
    header, _, body = text.partition(b"\n")
    with open(target, "wb") as out:
        out.write(header + b"\n")
        while out.tell() < TABLE_BYTES:
            out.write(body)


CASES: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "digits, 1 GB": ("digits.csv", make_digits),
    "digits, 1 GB, .csv.gz": ("digits.csv.gz", make_packed),
    "table, 2 GB": ("table.csv", make_table),
}


def dtypes_of(path: Path) -> dict[str, Any]:
    """The dtype of each column, for the tools that accept dtypes instead of inferring them."""
    header = pd.read_csv(path, nrows=0).columns
    if "pixel0" in header:
        return dict.fromkeys(header, np.uint8)
    kinds: dict[str, Any] = {name: np.float64 for name in header if name.startswith("f")}
    kinds |= {name: pd.CategoricalDtype(CATEGORIES) for name in header if name.startswith("c")}
    return {**kinds, "day": "datetime64[s]", "label": np.uint8}


def make_coder() -> Callable[[Any], Any]:
    """A function that turns the columns of a frame into numbers: categories into codes, dates into days.

    It is a closure, so that it is pickled by value for Dask's workers, which cannot import this module.
    """

    def code(frame: Any) -> Any:
        for name, kind in frame.dtypes.items():
            if isinstance(kind, pd.CategoricalDtype):
                frame[name] = frame[name].cat.codes
            elif np.issubdtype(kind, np.datetime64):
                frame[name] = frame[name].astype("int64") // 86_400
        return frame

    return code


def read_options(path: Path) -> dict[str, Any]:
    kinds = dtypes_of(path)
    dates = [name for name, kind in kinds.items() if kind == "datetime64[s]"]
    return {"dtype": {n: k for n, k in kinds.items() if n not in dates}, "parse_dates": dates or False}


def with_foldstream(path: Path, out: Path) -> float:
    with dask_cluster(2) as client:
        started = perf_counter()
        convert_csv(path, out, label="label", client=client)
        return perf_counter() - started


def with_dask(path: Path, out: Path) -> float:
    import dask.dataframe as dd

    packed = path.suffix == ".gz"
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        client.wait_for_workers(2)
        started = perf_counter()
        options: dict[str, Any] = {"blocksize": None, "compression": "gzip"} if packed else {"blocksize": "16MB"}
        table = dd.read_csv(path, **read_options(path), **options).map_partitions(make_coder())
        values = table.to_dask_array(lengths=True)
        rows = max(1, 2_000_000 // (values.shape[1] * values.dtype.itemsize))
        values.rechunk((rows, values.shape[1])).to_zarr(str(out))
        return perf_counter() - started


def with_pyarrow(path: Path, out: Path) -> float:
    """Parses into memory with two threads; nothing is written."""
    pa.set_cpu_count(2)
    started = perf_counter()
    known = {np.uint8: pa.uint8(), np.float64: pa.float64(), "datetime64[s]": pa.date32()}
    kinds = {name: known.get(kind, pa.string()) for name, kind in dtypes_of(path).items()}
    pa_csv.read_csv(path, convert_options=pa_csv.ConvertOptions(column_types=kinds))
    return perf_counter() - started


def with_pandas(path: Path, out: Path) -> float:
    started = perf_counter()
    frame = make_coder()(pd.read_csv(path, **read_options(path)))
    x, y = frame.drop(columns="label").to_numpy(), frame["label"].to_numpy()
    rows = max(1, 2_000_000 // (x.shape[1] * x.dtype.itemsize))
    group = zarr.create_group(str(out))
    for name, values in (("x", x), ("y", y)):
        chunks = (rows, *values.shape[1:])
        group.create_array(name, shape=values.shape, chunks=chunks, dtype=values.dtype)[...] = values
    return perf_counter() - started


CONTENDERS = {
    "Foldstream": with_foldstream,
    "dask.dataframe to Zarr": with_dask,
    "pyarrow, parsing alone": with_pyarrow,
    "pandas to Zarr": with_pandas,
}


def run(name: str, path: str, out: str, results: Any) -> None:
    results.put(CONTENDERS[name](Path(path), Path(out)))


def measure(name: str, path: Path, folder: Path) -> float:
    """Seconds of one contender, in its own process."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=run, args=(name, str(path), str(folder / "out"), results))
    process.start()
    while process.is_alive() and results.empty():
        process.join(0.1)
    seconds = float(results.get(timeout=5))
    process.join()
    shutil.rmtree(folder / "out", ignore_errors=True)
    return seconds


def main(digits: Path, result: Path, cases: list[str]) -> None:
    figures: dict[str, Any] = {}
    table = Table("", "", "seconds", "MB/s of text", "Foldstream is", title="convert")
    for case in cases or CASES:
        name, make = CASES[case]
        with tempfile.TemporaryDirectory(prefix="bench-convert-") as folder:
            path = Path(folder) / name
            make(digits, path)
            text_bytes = TABLE_BYTES if "table" in case else BYTES
            seconds: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
            for _ in range(ROUNDS):
                for contender in CONTENDERS:
                    seconds[contender].append(measure(contender, path, Path(folder)))
                    print(case, contender, seconds[contender], flush=True)
        ours = median(seconds["Foldstream"])
        for contender, taken in seconds.items():
            spent = median(taken)
            speed = text_bytes / 1e6 / spent
            table.add_row(case, contender, f"{spent:.1f}", f"{speed:,.0f}", f"{spent / ours:.2f} times as fast")
        figures[case] = seconds
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps(figures, indent=2) + "\n")
    Console(width=110).print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
