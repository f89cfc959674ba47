"""Zarr stores of format 2 and 3, with shards or without, also those of xarray, OME-NGFF and AnnData. Where the chunks
are follows from the metadata, the names of files, and the indexes of shards."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod
from typing import Any

import google_crc32c
import numpy as np

from ....storage.errors import SourceError, UsageError
from ....storage.foreign.format import NOWHERE, Chunked
from ....storage.places.json_files import parse_json
from ....storage.places.place import THREADS, Place
from .conventions import FILL, Values, dimension_names, values_of, with_times
from .found import FileList, FoundArray, UnsupportedError, axis_named, check_codecs, of_chunks, single, unknown

MISSING = 2**64 - 1  # the offset of a chunk in a shard's index that was not written
NUMBERS = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}
ARRAYS = ("zarr.json", ".zarray")  # files that may describe an array


@dataclass(frozen=True)
class ZarrArray:
    """The metadata of an array, of either format. `shard` is the shape of what a file contains, and `index` the length
    of a shard's index in bytes with whether it is at the end, if there are shards."""

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    dtype: np.dtype[Any]
    axes: tuple[int, ...]
    codecs: tuple[Mapping[str, Any], ...]
    fill: Any
    separator: str
    prefix: str
    index: tuple[int, bool] | None = None


class ZarrStore:
    """A group of arrays, or a single array, which is then called by the name of its folder."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._files = {entry.name: (entry.size, entry.mtime_ns) for entry in place.walk()}

    def names(self) -> Sequence[str]:
        return self._arrays

    @cached_property
    def _arrays(self) -> Sequence[str]:
        folders = [name.rpartition("/")[0] for name in self._files if name.rpartition("/")[2] in ARRAYS]
        return [folder or self.place.name for folder in sorted({*folders}) if self._is_array(folder)]

    def _is_array(self, folder: str) -> bool:
        start = f"{folder}/" if folder else ""
        return f"{start}.zarray" in self._files or self._json(folder, "zarr.json").get("node_type") == "array"

    def _json(self, folder: str, name: str) -> dict[str, Any]:
        path = f"{folder}/{name}" if folder else name
        if path not in self._files:
            return {}
        found: dict[str, Any] = parse_json((self.place / path).read_bytes(), str(self.place / path))
        return found

    def attributes(self, path: str) -> dict[str, Any]:
        """The attributes of an array or a group."""
        return self._json(path, ".zattrs") or self._json(path, "zarr.json").get("attributes", {})

    def default(self, taken: Sequence[str]) -> tuple[str, ...]:
        attributes = self.attributes("")
        image = attributes.get("ome", attributes).get("multiscales")
        if image:
            return (str(image[0]["datasets"][0]["path"]),)
        names = [name for name in self.names() if name not in taken]
        return ("x",) if "x" in names else tuple(names) if len(names) == 1 else ()

    def array(self, path: str) -> ZarrArray:
        """The metadata of an array. Raises UsageError if there is none, and UnsupportedError for chunks that cannot be
        read in place."""
        folder = self._folder(path)
        where = f"{self.place}: '{path}'"
        if found := self._json(folder, ".zarray"):
            return _second_format(found, where)
        return _third_format(self._json(folder, "zarr.json"), where)

    def _folder(self, path: str) -> str:
        """The folder of an array. Raises UsageError if there is none."""
        if path not in self._arrays:
            raise unknown(path, self.place, self._arrays)
        return "" if path == self.place.name and self._is_array("") else path

    def find(self, paths: Sequence[str], sample_dim: str | None, files: FileList) -> FoundArray:
        path = single(paths, self.place)
        opened, where = self._open(path), f"{self.place}: '{path}'"
        axis, values = self._axis(path, opened, sample_dim), self._values(path, opened)

        def describe() -> Chunked:
            array = self.array(path)
            chunks, fill = self._chunks(self._folder(path), array, files), _number(array.fill, where)
            stored = array.dtype.str
            return Chunked(
                array.shape, array.chunk, stored, chunks, axis, array.axes, array.codecs, fill, values.packing
            )

        return of_chunks(path, describe, opened.shape, axis, values.dtype)

    def _axis(self, path: str, opened: Any, sample_dim: str | None) -> int:
        names = getattr(opened.metadata, "dimension_names", None)
        attributes = self.attributes(self._folder(path))
        return axis_named(sample_dim, dimension_names(attributes, names, opened.ndim), f"{self.place}: '{path}'")

    def _values(self, path: str, opened: Any) -> Values:
        folder = self._folder(path)
        attributes = dict(self.attributes(folder))
        if self._json(folder, ".zarray") and "_ARRAY_DIMENSIONS" in attributes and opened.fill_value is not None:
            attributes[FILL] = opened.fill_value  # as xarray reads stores of format 2
        return values_of(attributes, opened.dtype, f"{self.place}: '{path}'")

    def _open(self, path: str) -> Any:
        """The array, opened by zarr. Raises UsageError for chunks that are pickled objects, which may run any code."""
        import zarr

        folder = self._folder(path)
        if "pickle" in repr((self._json(folder, ".zarray"), self._json(folder, "zarr.json").get("codecs"))):
            raise UsageError(f"{self.place}: '{path}' has pickled objects, which are not read; write numbers or text")
        try:
            return zarr.open_array(self.place.zarr_store(), path=folder, mode="r")
        except (ValueError, KeyError, TypeError, NotImplementedError) as error:
            raise SourceError(f"{self.place}: zarr cannot open '{path}' ({error}); write it again") from None

    def column(self, path: str) -> np.ndarray:
        opened = self._open(path)
        stored = np.asarray(opened[...])
        if stored.dtype.kind not in "iuf":
            return stored
        return with_times(self._values(path, opened).of(stored), self.attributes(self._folder(path)))

    def read(self, paths: Sequence[str], sample_dim: str | None, start: int, stop: int) -> np.ndarray:
        path = single(paths, self.place)
        opened = self._open(path)
        axis = self._axis(path, opened, sample_dim)
        stored = np.asarray(opened[(*(slice(None) for _ in range(axis)), slice(start, stop))])
        return self._values(path, opened).of(stored, axis)

    def _chunks(self, folder: str, array: ZarrArray, files: FileList) -> np.ndarray:
        """Where each chunk is, (chunks, 3) int64."""
        grid = [ceil(size / length) for size, length in zip(array.shape, array.chunk, strict=True)]
        table = np.full((*grid, 3), NOWHERE, np.int64)
        of_files = [ceil(size / length) for size, length in zip(array.shape, array.shard, strict=True)]
        inside = tuple(whole // part for whole, part in zip(array.shard, array.chunk, strict=True))
        present = list(self._present(folder, array, of_files, files))
        if array.index is None:
            for position, (file, _, size) in present:
                table[position] = file, 0, size
            return table.reshape(-1, 3)
        with ThreadPoolExecutor(THREADS) as pool:
            indexes = pool.map(lambda one: _shard_index(one[1][1], one[1][2], array, inside), present)
            for (position, (file, _, _)), index in zip(present, indexes, strict=True):
                places = tuple(slice(at * many, at * many + many) for at, many in zip(position, inside, strict=True))
                target = table[places]  # smaller at the edge of the array
                written = index[tuple(slice(size) for size in target.shape[:-1])]
                there = written[..., 0] != MISSING
                target[there, 0], target[there, 1:] = file, written[there].astype(np.int64)
        return table.reshape(-1, 3)

    def _present(
        self, folder: str, array: ZarrArray, grid: Sequence[int], files: FileList
    ) -> Iterator[tuple[tuple[int, ...], tuple[int, Place, int]]]:
        """The files of an array: the position in the grid of files, and the number, the place and the size."""
        start = f"{folder}/" if folder else ""
        for position in np.ndindex(*grid):
            key = array.separator.join([*([array.prefix] if array.prefix else []), *map(str, position)])
            if status := self._files.get(f"{start}{key}"):
                place = self.place / f"{start}{key}"
                yield position, (files.add(place, status), place, status[0])


def _shard_index(place: Place, size: int, array: ZarrArray, inside: tuple[int, ...]) -> np.ndarray:
    """The index of a shard, (*inside, 2) uint64. Raises SourceError if it does not match its checksum."""
    assert array.index
    length, at_end = array.index
    data = place.read_range(size - length if at_end else 0, length)
    entries = data[: prod(inside) * 16]
    if len(data) != length or (
        len(entries) < length and google_crc32c.value(entries) != int.from_bytes(data[len(entries) :], "little")
    ):
        raise SourceError(f"{place}: the shard's index does not match its checksum; restore the file")
    return np.frombuffer(entries, "<u8").reshape(*inside, 2)


def _second_format(found: Mapping[str, Any], where: str) -> ZarrArray:
    shape, chunk = tuple(found["shape"]), tuple(found["chunks"])
    codecs = [*(found.get("filters") or ()), *([found["compressor"]] if found.get("compressor") else [])]
    axes = tuple(reversed(range(len(shape)))) if found.get("order") == "F" else ()
    return ZarrArray(
        shape,
        chunk,
        chunk,
        np.dtype(found["dtype"]),
        axes,
        check_codecs(where, codecs),
        found.get("fill_value"),
        found.get("dimension_separator", "."),
        "",
    )


def _third_format(found: Mapping[str, Any], where: str) -> ZarrArray:
    shape, grid = tuple(found["shape"]), found["chunk_grid"]
    if grid["name"] != "regular" or not isinstance(found["data_type"], str):
        raise UnsupportedError(f"{where}: chunks of a '{grid['name']}' grid cannot be read in place")
    shard = chunk = tuple(grid["configuration"]["chunk_shape"])
    codecs, index = list(found["codecs"]), None
    if codecs[0]["name"] == "sharding_indexed":
        of_shards = codecs[0]["configuration"]
        index_codecs = [one["name"] for one in of_shards["index_codecs"]]
        if len(codecs) > 1 or index_codecs not in (["bytes"], ["bytes", "crc32c"]):
            raise UnsupportedError(f"{where}: shards that are encoded once more cannot be read in place")
        chunk, codecs = tuple(of_shards["chunk_shape"]), list(of_shards["codecs"])
        inside = prod(whole // part for whole, part in zip(shard, chunk, strict=True))
        length = inside * 16 + (4 if "crc32c" in index_codecs else 0)
        index = length, of_shards.get("index_location", "end") == "end"
    axes, dtype, configs = (), np.dtype(found["data_type"]), []
    for codec in codecs:
        name, options = codec["name"], codec.get("configuration") or {}
        if name == "transpose":
            axes = tuple(options["order"])
        elif name == "bytes":
            dtype = dtype.newbyteorder("<" if options.get("endian", "little") == "little" else ">")
        elif name.startswith("numcodecs."):
            configs.append({"id": name.removeprefix("numcodecs."), **options})
        elif name in ("blosc", "gzip", "zstd", "crc32c"):
            configs.append({"id": name})
        else:
            raise UnsupportedError(f"{where}: chunks with the codec '{name}' cannot be read in place")
    keys = found["chunk_key_encoding"]
    default = keys["name"] == "default"
    separator = (keys.get("configuration") or {}).get("separator", "/" if default else ".")
    return ZarrArray(
        shape,
        chunk,
        shard,
        dtype,
        axes,
        check_codecs(where, configs),
        found["fill_value"],
        separator,
        "c" if default else "",
        index,
    )


def _number(fill: Any, where: str) -> float:
    """A fill value as a number; chunks that were not written consist of it."""
    if isinstance(fill, str):
        if fill not in NUMBERS:
            raise UnsupportedError(f"{where}: the fill value '{fill}' cannot be read in place")
        return float(NUMBERS[fill])
    return 0 if fill is None else fill
