"""The description of foreign arrays, as plain values: which files they lie in, and where each chunk is.

Descriptions are JSON, and what grows with the number of chunks lies in tables of one safetensors file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil, isfinite, prod
from typing import Any, Self, TypeAlias

import numpy as np

TABLE = "foreign.safetensors"
"""The name of the file of tables, beside the arrays of a dataset."""
LANCE = "lance:"  # the format of groups in a Lance dataset, before the number of its version
NOWHERE = -1  # the file of a chunk that was never written: its values are the fill value


@dataclass(frozen=True)
class Packing:
    """How stored numbers become values, by the conventions of NetCDF (CF), as xarray applies them: those equal to one
    of `fills` become NaN, the others are multiplied by `scale`, and `offset` is added."""

    fills: tuple[float, ...] = ()
    scale: float | None = None
    offset: float | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        return cls(tuple(value["fills"]), value["scale"], value["offset"])


@dataclass(frozen=True, eq=False)
class Chunked:
    """An array of `shape`, whose rows are along the axis `axis`, in chunks of the shape `chunk`.

    Each chunk has `dtype`, with a byte order, and its bytes are those of its axes in the order `axes`, encoded by
    `codecs` one after another (numcodecs' configurations). `chunks` (chunks, 3) int64 has the file, offset and length
    of each, in C order; `bounds` (bands + 1,) int64 are the first rows of the bands of chunks where these differ in
    length, otherwise empty. Chunks that were not written consist of `fill`.
    """

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: str
    chunks: np.ndarray
    axis: int = 0
    axes: tuple[int, ...] = ()
    codecs: tuple[Mapping[str, Any], ...] = ()
    fill: float = 0
    packing: Packing | None = None
    bounds: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def rows(self) -> int:
        return self.shape[self.axis]

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    @property
    def bands(self) -> np.ndarray:
        """The first row of each band of chunks, and the number of rows, (bands + 1,) int64."""
        if len(self.bounds):
            return self.bounds
        starts = np.arange(ceil(self.rows / self.chunk[self.axis]) + 1, dtype=np.int64)
        return np.minimum(starts * self.chunk[self.axis], self.rows)

    @property
    def decoded_bytes(self) -> int:
        """The size of the largest chunk in memory."""
        return prod(self.chunk) * np.dtype(self.dtype).itemsize

    def tables(self) -> dict[str, np.ndarray]:
        return {"chunks": self.chunks, "bounds": self.bounds}

    def to_json(self) -> dict[str, Any]:
        plain = {name: value for name, value in vars(self).items() if name not in ("chunks", "bounds", "packing")}
        fill = self.fill if isfinite(self.fill) else str(self.fill)  # JSON has no NaN
        return {"kind": "chunks", **plain, "fill": fill, "packing": self.packing and asdict(self.packing)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> Self:
        packing = value["packing"] and Packing.from_json(value["packing"])
        fill = float(value["fill"]) if isinstance(value["fill"], str) else value["fill"]
        fields: dict[str, Any] = {"fill": fill, **{name: value[name] for name in ("dtype", "axis")}}
        fields |= {name: tuple(value[name]) for name in ("shape", "chunk", "axes", "codecs")}
        return cls(**fields, packing=packing, chunks=tables["chunks"], bounds=tables["bounds"])


@dataclass(frozen=True, eq=False)
class Groups:
    """Columns of Parquet or Arrow files (`format`: "parquet", "file" or "stream"), which are read one row group or
    record batch at a time, or of a version of a Lance dataset ("lance:3"), which Lance reads in ranges of rows: one
    column of lists, or several of numbers, as `dtype`.

    `groups` (groups, 3) int64 has the file of each group, its number there (in a stream its offset, in a Lance dataset
    its first row among all) and its length in bytes. `bounds` (groups + 1,) int64 are the first rows of the groups, and
    the number of rows.
    """

    format: str
    columns: tuple[str, ...]
    row_shape: tuple[int, ...]
    dtype: str
    groups: np.ndarray
    bounds: np.ndarray

    @property
    def rows(self) -> int:
        return int(self.bounds[-1])

    @property
    def bands(self) -> np.ndarray:
        """The first row of each group, and the number of rows, (groups + 1,) int64."""
        return self.bounds

    @property
    def decoded_bytes(self) -> int:
        """The size of the largest group in memory."""
        return int(np.diff(self.bounds).max()) * prod(self.row_shape) * np.dtype(self.dtype).itemsize

    def tables(self) -> dict[str, np.ndarray]:
        return {"groups": self.groups, "bounds": self.bounds}

    def to_json(self) -> dict[str, Any]:
        plain = {name: value for name, value in vars(self).items() if name not in ("groups", "bounds")}
        return {"kind": "groups", **plain}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> Self:
        shape, columns = tuple(value["row_shape"]), tuple(value["columns"])
        return cls(value["format"], columns, shape, value["dtype"], tables["groups"], tables["bounds"])


@dataclass(frozen=True, eq=False)
class Sparse:
    """A matrix in compressed sparse rows (CSR): row `i` has the `values` at the positions `pointers[i]` to
    `pointers[i + 1]`, in the columns `indices`, and zeros in all others of its `width`."""

    width: int
    pointers: Chunked
    indices: Chunked
    values: Chunked

    @property
    def rows(self) -> int:
        return self.pointers.rows - 1

    @property
    def row_shape(self) -> tuple[int, ...]:
        return (self.width,)

    @property
    def dtype(self) -> str:
        return self.values.dtype

    @property
    def parts(self) -> dict[str, Chunked]:
        return {"pointers": self.pointers, "indices": self.indices, "values": self.values}

    def tables(self) -> dict[str, np.ndarray]:
        return {f"{part}.{name}": table for part, one in self.parts.items() for name, table in one.tables().items()}

    def to_json(self) -> dict[str, Any]:
        return {"kind": "sparse", "width": self.width, **{name: one.to_json() for name, one in self.parts.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> Self:
        names = ("pointers", "indices", "values")
        return cls(value["width"], *(Chunked.from_json(value[name], of(tables, name)) for name in names))


Description: TypeAlias = Chunked | Groups | Sparse
KINDS: dict[str, type[Description]] = {"chunks": Chunked, "groups": Groups, "sparse": Sparse}


def of(tables: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The tables whose names begin with a prefix and a dot, by the rest of their names."""
    return {name.removeprefix(f"{prefix}."): table for name, table in tables.items() if name.startswith(f"{prefix}.")}


@dataclass(frozen=True, eq=False)
class Foreign:
    """The foreign arrays of a dataset, by name, and the `files` they lie in, by absolute path or URL.

    `status` (files, 2) int64 are the size of each file in bytes and the time of its last change in nanoseconds since
    1970; `hashes` (files, 32) uint8 their SHA-256, empty if they were not hashed.
    """

    files: tuple[str, ...]
    status: np.ndarray
    arrays: Mapping[str, Description]
    hashes: np.ndarray = field(default_factory=lambda: np.zeros((0, 32), np.uint8))

    @property
    def stored_bytes(self) -> int:
        """The size of all files."""
        return int(self.status[:, 0].sum())

    def known(self, file: int) -> tuple[str, int, int]:
        """The path of a file, and the size and the time of its last change that it had when it was adopted."""
        size, mtime_ns = self.status[file].tolist()
        return self.files[file], size, mtime_ns

    def facts(self) -> dict[str, Any]:
        """A summary as JSON: the first file and the number of files, their size, and whether they were hashed."""
        hashed = len(self.hashes) > 0
        return {"file": self.files[0], "files": len(self.files), "bytes": self.stored_bytes, "hashed": hashed}

    def to_json(self) -> dict[str, Any]:
        return {name: array.to_json() for name, array in self.arrays.items()}

    def to_bytes(self) -> bytes:
        """The tables as a file."""
        from safetensors.numpy import save

        names = np.frombuffer("\0".join(self.files).encode(errors="surrogateescape"), np.uint8)
        tables = {"files": names, "status": self.status, "hashes": self.hashes}
        for array, one in self.arrays.items():
            tables |= {f"{array}.{name}": table for name, table in one.tables().items()}
        return save({name: np.ascontiguousarray(table) for name, table in tables.items()})

    @classmethod
    def of(cls, arrays: Mapping[str, Any], data: bytes) -> Self:
        """The arrays that `to_json` and `to_bytes` describe. Raises ValueError for a file of something else."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tables: dict[str, np.ndarray] = load(data)
        except SafetensorError as error:
            raise ValueError(str(error)) from None
        files = tables["files"].tobytes().decode(errors="surrogateescape").split("\0")
        described = {name: KINDS[value["kind"]].from_json(value, of(tables, name)) for name, value in arrays.items()}
        return cls(tuple(files), tables["status"], described, tables["hashes"])


def rows_in(array: Description, file: int) -> tuple[int, int]:
    """The first and the last row of an array that have something in a file; all of them for sparse arrays."""
    if isinstance(array, Sparse):
        return 0, array.rows - 1
    if isinstance(array, Groups):
        of_bands = array.groups[:, :1]
    else:
        grid = [ceil(size / length) for size, length in zip(array.shape, array.chunk, strict=True)]
        grid[array.axis] = len(array.bands) - 1
        of_bands = np.moveaxis(array.chunks[:, 0].reshape(grid), array.axis, 0).reshape(grid[array.axis], -1)
    found = np.flatnonzero((of_bands == file).any(axis=1))
    return int(array.bands[found[0]]), int(array.bands[found[-1] + 1]) - 1


def chunk_rows(array: Description) -> Sequence[int]:
    """The numbers of rows of the bands of chunks that are decoded at once. A sparse array has none: its rows are read
    one range at a time."""
    return [] if isinstance(array, Sparse) else [int(rows) for rows in np.diff(array.bands)]
