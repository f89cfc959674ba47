"""AnnData in HDF5 (h5ad) or Zarr: matrices, dense or sparse, and columns of observations, which may be categories.

Files of versions before 0.7 keep all observations in one table, and their categories apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....storage.errors import UsageError
from ....storage.foreign.format import Chunked, Sparse
from .found import FileList, FoundArray, Source, in_arrow, single, unknown, value_dtype

MATRICES = ("X", "layers", "obsm", "raw")
COLUMNS = "obs"
PARTS = (("data", "indices", "indptr"), ("codes", "categories"), ("values", "mask"))
"""The arrays in the group of a sparse matrix, of a categorical column, and of a column with missing values."""


class Nodes(Source, Protocol):
    """A file or store with groups and arrays."""

    def column(self, path: str) -> np.ndarray: ...

    def attributes(self, path: str) -> Mapping[str, Any]: ...


def is_anndata(nodes: Nodes) -> bool:
    """Whether a file or store was written by AnnData."""
    names = nodes.names()
    has_matrix = any(name == "X" or name.startswith("X/") for name in names)
    return has_matrix and any(name == COLUMNS or name.startswith(f"{COLUMNS}/") for name in names)


class AnnData:
    """The matrices of an AnnData file, and the columns of its observations, as `obs/NAME`."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes, self.place = nodes, nodes.place
        self._stored = set(nodes.names())
        self._table = nodes.column(COLUMNS) if COLUMNS in self._stored else None

    def names(self) -> Sequence[str]:
        return list(dict.fromkeys(self._names()))

    def _names(self) -> Sequence[str]:
        found = [self._whole(name) for name in self.nodes.names() if name != COLUMNS]
        if isinstance(self._table, np.ndarray) and self._table.dtype.names:
            found += [f"{COLUMNS}/{name}" for name in self._table.dtype.names]
        return found

    def _whole(self, name: str) -> str:
        """The name of the matrix or column that an array is a part of."""
        folder, _, last = name.rpartition("/")
        parts = next((parts for parts in PARTS if last in parts), ())
        return folder if parts and all(f"{folder}/{part}" in self._stored for part in parts) else name

    def default(self, taken: Sequence[str]) -> tuple[str, ...]:
        return ("X",)

    def find(self, paths: Sequence[str], sample_dim: str | None, files: FileList) -> FoundArray:
        path = single(paths, self.place)
        if path not in self.names():
            raise unknown(path, self.place, self.names())
        names = tuple(map(str, self._names_of_columns())) if path.startswith(("X", "layers/")) else ()
        if path in self._stored:
            found = self.nodes.find(paths, sample_dim, files)
            return FoundArray(
                found.path, found.rows, found.row_shape, found.dtype, found.description, names, found.reason
            )
        rows, width = self._shape(path)
        parts = {part: self.nodes.find([f"{path}/{part}"], None, files) for part in ("indptr", "indices", "data")}
        dtype = value_dtype(parts["data"].dtype, f"{self.place}: '{path}'")
        reasons = [part.reason for part in parts.values() if part.description is None]
        if reasons:
            return FoundArray(path, rows, (width,), dtype, None, names, reasons[0])
        chunked = [part.description for part in parts.values()]
        sparse = Sparse(width, *(one for one in chunked if isinstance(one, Chunked)))
        return FoundArray(path, rows, (width,), dtype, sparse, names)

    def _shape(self, path: str) -> tuple[int, int]:
        """The shape of a sparse matrix. Raises UsageError for one in compressed columns, whose rows lie nowhere."""
        attributes = self.nodes.attributes(path)
        kind = attributes.get("encoding-type") or attributes.get("h5sparse_format")
        if kind not in ("csr_matrix", "csr"):
            raise UsageError(
                f"{self.place}: '{path}' is sparse by columns ({kind}), so no row lies together; write it by rows, in "
                "AnnData with 'adata.X = adata.X.tocsr()'"
            )
        shape = attributes.get("shape", attributes.get("h5sparse_shape"))
        rows, width = (int(one) for one in shape)
        return rows, width

    def _names_of_columns(self) -> Sequence[Any]:
        """The names of the variables, if there are some."""
        if "var" in self._stored:
            table = self.nodes.column("var")
            return in_arrow(table["index"]).to_pylist() if "index" in (table.dtype.names or ()) else []
        index = str(self.nodes.attributes("var").get("_index", "_index"))
        return in_arrow(self.nodes.column(f"var/{index}")).to_pylist() if f"var/{index}" in self._stored else []

    def column(self, path: str) -> np.ndarray | pa.Array:
        if f"{path}/codes" in self._stored:
            return _categories(self.nodes.column(f"{path}/codes"), self.nodes.column(f"{path}/categories"))
        if f"{path}/mask" in self._stored and f"{path}/values" in self._stored:
            values = in_arrow(self.nodes.column(f"{path}/values"))
            return pc.if_else(pa.array(np.asarray(self.nodes.column(f"{path}/mask"), bool)), None, values)
        folder, _, name = path.rpartition("/")
        if folder == COLUMNS and isinstance(self._table, np.ndarray) and name in (self._table.dtype.names or ()):
            values = self._table[name]
            if f"uns/{name}_categories" in self._stored:
                return _categories(values, self.nodes.column(f"uns/{name}_categories"))
            return values
        if f"{COLUMNS}/__categories/{name}" in self._stored and folder == COLUMNS:
            return _categories(self.nodes.column(path), self.nodes.column(f"{COLUMNS}/__categories/{name}"))
        if path not in self.names():
            raise unknown(path, self.place, self.names())
        return self.nodes.column(path)

    def read(self, paths: Sequence[str], sample_dim: str | None, start: int, stop: int) -> np.ndarray:
        path = single(paths, self.place)
        if path in self._stored:
            return self.nodes.read(paths, sample_dim, start, stop)
        _, width = self._shape(path)
        pointers = np.asarray(self.nodes.read([f"{path}/indptr"], None, start, stop + 1)).astype(np.int64)
        indices, values = (
            self.nodes.read([f"{path}/{part}"], None, int(pointers[0]), int(pointers[-1]))
            for part in ("indices", "data")
        )
        rows = np.zeros((stop - start, width), values.dtype)
        np.add.at(rows, (np.repeat(np.arange(stop - start), np.diff(pointers)), indices.astype(np.int64)), values)
        return rows


def _categories(codes: np.ndarray, names: np.ndarray) -> pa.Array:
    """The category of each row; null where the code is -1."""
    codes = codes.astype(np.int64)
    return in_arrow(names).take(pa.array(codes, mask=codes < 0))
