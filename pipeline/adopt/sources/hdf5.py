"""HDF5 files, also of h5ad and NetCDF4. The h5py library says where the chunks are; nothing needs it later."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any

import numpy as np

from ....storage.errors import SourceError, UsageError
from ....storage.foreign.format import NOWHERE, Chunked
from ....storage.places.place import Place
from .conventions import Values, values_of, with_times
from .found import FileList, FoundArray, UnsupportedError, axis_named, check_codecs, of_chunks, single, unknown

FILTERS = {1: "zlib", 3: "fletcher32", 32001: "blosc", 32015: "zstd"}
SHUFFLE = 2


class Hdf5File:
    """The datasets of an HDF5 file, by their paths."""

    def __init__(self, place: Place) -> None:
        self.place = place
        with self.opened() as file:
            self._shapes = dict(_datasets(file))

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """The open file. Raises UsageError without h5py, and SourceError for a file that it cannot open."""
        try:
            import h5py
        except ImportError:
            raise UsageError(
                f"{self.place} is an HDF5 file, which h5py explores; install it with 'pip install foldstream[hdf5]'"
            ) from None
        try:
            file = h5py.File(self.place.file_argument(), "r")
        except OSError as error:
            raise SourceError(f"{self.place}: h5py cannot open it ({error}); write it again") from None
        with file:
            yield file

    def names(self) -> Sequence[str]:
        return [*self._shapes]

    def attributes(self, path: str) -> dict[str, Any]:
        """The attributes of a dataset or a group."""
        with self.opened() as file:
            found = dict(file[path].attrs) if path in file else {}
        return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}

    def default(self, taken: Sequence[str]) -> tuple[str, ...]:
        arrays = [name for name, shape in self._shapes.items() if shape and name not in taken]
        return ("x",) if "x" in arrays else tuple(arrays) if len(arrays) == 1 else ()

    @contextmanager
    def _dataset(self, path: str) -> Iterator[Any]:
        name = path.strip("/")
        if name not in self._shapes:
            raise unknown(path, self.place, self.names())
        with self.opened() as file:
            yield file[name]

    def find(self, paths: Sequence[str], sample_dim: str | None, files: FileList) -> FoundArray:
        path = single(paths, self.place)
        where = f"{self.place}: '{path}'"
        with self._dataset(path) as dataset:
            axis, values = axis_named(sample_dim, dimensions_of(dataset), where), self._values(path, dataset)
            return of_chunks(
                path, lambda: self.describe(path, dataset, files, values, axis), dataset.shape, axis, values.dtype
            )

    def _values(self, path: str, dataset: Any) -> Values:
        return values_of(dict(dataset.attrs), dataset.dtype, f"{self.place}: '{path}'")

    def describe(self, path: str, dataset: Any, files: FileList, values: Values, axis: int = 0) -> Chunked:
        """Where the chunks of a dataset are. Raises UnsupportedError for those that cannot be read in place."""
        where, shape = f"{self.place}: '{path}'", tuple(dataset.shape)
        if dataset.is_virtual or dataset.external or dataset.file.userblock_size:
            raise UnsupportedError(f"{where} lies in several files or behind a user block, and cannot be read in place")
        number, fill, stored = files.add(self.place), dataset.fillvalue.item(), dataset.dtype.str
        if dataset.chunks is None:
            offset = dataset.id.get_offset()
            if offset is None and dataset.id.get_storage_size():
                raise UnsupportedError(f"{where} lies in the header of the file, and cannot be read in place")
            place = [NOWHERE, 0, 0] if offset is None else [number, offset, dataset.nbytes]
            whole, bounds = np.array([place], np.int64), np.array([0, shape[axis]])
            return Chunked(shape, shape, stored, whole, axis, (), (), fill, values.packing, bounds)
        codecs = check_codecs(where, _codecs(dataset, where))
        grid = [ceil(size / length) for size, length in zip(shape, dataset.chunks, strict=True)]
        table = np.full((*grid, 3), NOWHERE, np.int64)

        def add(chunk: Any) -> None:
            if chunk.filter_mask:
                raise UnsupportedError(f"{where} has chunks that skip a filter, and cannot be read in place")
            position = tuple(at // length for at, length in zip(chunk.chunk_offset, dataset.chunks, strict=True))
            table[position] = number, chunk.byte_offset, chunk.size

        dataset.id.chunk_iter(add)
        chunks = table.reshape(-1, 3)
        return Chunked(shape, tuple(dataset.chunks), stored, chunks, axis, (), codecs, fill, values.packing)

    def column(self, path: str) -> np.ndarray:
        with self._dataset(path) as dataset:
            stored = np.asarray(dataset[...])  # of objects for texts, which are bytes, and for what is no column
            if names := _names_of_values(dataset):
                return np.array([names.get(value) for value in stored.ravel().tolist()], object).reshape(stored.shape)
            if stored.dtype.kind not in "iuf":
                return stored
            return with_times(self._values(path, dataset).of(stored), dict(dataset.attrs))

    def read(self, paths: Sequence[str], sample_dim: str | None, start: int, stop: int) -> np.ndarray:
        path = single(paths, self.place)
        with self._dataset(path) as dataset:
            axis = axis_named(sample_dim, dimensions_of(dataset), path)
            stored = dataset[(*(slice(None) for _ in range(axis)), slice(start, stop))]
            return self._values(path, dataset).of(np.asarray(stored), axis)


def _datasets(file: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The paths and shapes of all datasets."""
    import h5py

    found: list[tuple[str, tuple[int, ...]]] = []
    file.visititems(lambda name, one: found.append((name, one.shape)) if isinstance(one, h5py.Dataset) else None)
    yield from found


def dimensions_of(dataset: Any) -> list[str | None]:
    """The names of a dataset's dimensions: those of its dimension scales, or its labels."""
    names: list[str | None] = []
    if not dataset.shape:
        return names
    for dimension in dataset.dims:
        scales = [scale.name.rpartition("/")[2] for scale in dimension.values()]
        names.append(scales[0] if scales else dimension.label or None)
    return names


def _names_of_values(dataset: Any) -> Mapping[int, str]:
    """The names of an enumeration's values; empty for other types."""
    import h5py

    return {value: name for name, value in (h5py.check_enum_dtype(dataset.dtype) or {}).items()}


def _codecs(dataset: Any, where: str) -> Iterator[Mapping[str, Any]]:
    """The filters of a dataset as codecs. Raises UnsupportedError, with the name, for one that is not known."""
    properties = dataset.id.get_create_plist()
    for position in range(properties.get_nfilters()):
        code, _, values, name = properties.get_filter(position)
        if code == SHUFFLE:
            yield {"id": "shuffle", "elementsize": int(values[0])}
        elif code in FILTERS:
            yield {"id": FILTERS[code]}
        else:
            what = name.decode(errors="replace") or code
            raise UnsupportedError(f"{where}: chunks with the filter '{what}' cannot be read in place")
