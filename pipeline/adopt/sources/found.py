"""What the exploration of a source finds: arrays, as descriptions of where their chunks are, and the files."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ....storage.errors import UsageError, suggest
from ....storage.foreign.codecs import decoder
from ....storage.foreign.format import Chunked, Description
from ....storage.places.place import Place

TABLES = (".parquet", ".arrow", ".feather", ".ipc")
"""The endings of files of tables."""
SPLITS = "dataset_dict.json"  # in a folder of several datasets that Hugging Face's library has saved
NAMES_LIMIT = 4_096  # of features of vectors that are called x0, x1, …


class UnsupportedError(UsageError):
    """An array that can only be copied, because chunks of this kind cannot be read in place."""


@dataclass(frozen=True)
class FoundArray:
    """An array of a source: `description` says where its rows are, None if only the source's library can read them, for
    the `reason`; `dtype` is that of the values, and `features` name the columns of vectors."""

    path: str
    rows: int
    row_shape: tuple[int, ...]
    dtype: str
    description: Description | None
    features: tuple[str, ...] = ()
    reason: str = ""


class Source(Protocol):
    """A file or a folder of arrays or columns."""

    place: Place

    def names(self) -> Sequence[str]:
        """The arrays or columns that there are."""
        ...

    def default(self, taken: Sequence[str]) -> tuple[str, ...]:
        """The features, if they are not named: what is not `taken` by labels and other columns. Empty if there are
        several that they may be."""
        ...

    def find(self, paths: Sequence[str], sample_dim: str | None, files: "FileList") -> FoundArray:
        """Find the features. Raises UsageError for names that do not exist, and for what is no array of numbers."""
        ...

    def column(self, path: str) -> np.ndarray | pa.Array:
        """All values of a column, (rows,) or (rows, columns). Raises UsageError for names that do not exist."""
        ...

    def read(self, paths: Sequence[str], sample_dim: str | None, start: int, stop: int) -> np.ndarray:
        """The rows `start` to `stop` of the features as the source's own library reads them, (rows, *row_shape)."""
        ...


class FileList:
    """The files of descriptions, each with its size and the time of its last change."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self._numbers: dict[str, int] = {}
        self._status: list[tuple[int, int]] = []

    def add(self, place: Place, status: tuple[int, int] | None = None) -> int:
        """The number of a file, whose size and time of last change may be known."""
        path = str(place)
        if path not in self._numbers:
            self._numbers[path] = len(self.paths)
            self.paths.append(path)
            self._status.append(status or place.describe())
        return self._numbers[path]

    @property
    def status(self) -> np.ndarray:
        """(files, 2) int64."""
        return np.array(self._status, np.int64).reshape(-1, 2)


def value_dtype(stored: Any, where: str) -> str:
    """The dtype in which stored numbers become values. Raises UsageError for what is no number."""
    kind = np.dtype(stored)
    if kind.kind not in "biuf" or kind.itemsize > 8:
        raise UsageError(f"{where} has values of type {kind}, which are not numbers to train on; name another array")
    others = {"bool": "uint8", "float16": "float32", "uint64": "float64"}
    name: str = kind.name
    return others.get(name, name)


def check_codecs(where: str, codecs: Iterable[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """The codecs. Raises UnsupportedError, with its name, for one that cannot be decoded."""
    found = tuple(codecs)
    try:
        decoder(found) if found else None
    except ValueError as error:
        raise UnsupportedError(f"{where}: chunks with the codec '{error}' cannot be read in place") from None
    return found


def of_chunks(path: str, make: Callable[[], Chunked], shape: Sequence[int], axis: int, dtype: str) -> FoundArray:
    """An array that `make` describes, unless it cannot be read in place."""
    row_shape = (*shape[:axis], *shape[axis + 1 :])
    try:
        return FoundArray(path, shape[axis], row_shape, dtype, make())
    except UnsupportedError as error:
        return FoundArray(path, shape[axis], row_shape, dtype, None, reason=str(error))


def single(paths: Sequence[str], place: Place) -> str:
    """The name of the only array. Raises UsageError for several."""
    if len(paths) != 1:
        raise UsageError(f"--x {listed(paths)}: features are one array of {place}; name a single one")
    return paths[0]


def in_arrow(values: np.ndarray) -> pa.Array:
    """A column of numbers, dates or texts, which may be bytes in UTF-8; NaN and NaT are null."""
    if values.dtype.kind == "f":
        values = values.astype(np.float64)  # whose text says the same number
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind == "T":  # NumPy's strings of any length, which Zarr gives
        values = values.astype(object)
    if values.dtype.kind == "M" and np.datetime_data(values.dtype)[0] in ("Y", "M", "W", "h", "m"):
        values = values.astype("datetime64[s]")  # Arrow has no such units
    if values.dtype.kind == "O":
        values = np.array([one.decode() if isinstance(one, bytes) else one for one in values], object)
    return pa.array(values.astype(values.dtype.newbyteorder("=")), from_pandas=True)


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names for a message, of which at most so many are shown."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (f" and {len(names) - most:,} more" if names[most:] else "")


def unknown(path: str, place: Place, names: Sequence[str]) -> UsageError:
    """The error for an array or column that does not exist."""
    return UsageError(f"{place} has no array '{path}'{suggest(path, list(names)).replace('its columns', 'its arrays')}")


def axis_named(sample_dim: str | None, names: Sequence[str | None], where: str) -> int:
    """The axis of the samples: the first one, or that of a name or number. Raises UsageError if there is none."""
    if not names:
        raise UsageError(f"{where} is a single value; name an array of samples with --x")
    if sample_dim is None:
        return 0
    if sample_dim in names:
        return list(names).index(sample_dim)
    if sample_dim.isdecimal() and int(sample_dim) < len(names):
        return int(sample_dim)
    known = ", ".join(str(name) for name in names if name) or f"0 to {len(names) - 1}"
    raise UsageError(f"--sample-dim {sample_dim}: {where} has no such dimension; its dimensions are {known}")


def with_names(found: FoundArray, names: Sequence[str]) -> FoundArray:
    """Vectors whose columns have names: those of the source, or x0, x1, …"""
    if len(found.row_shape) > 1:
        return found
    width = found.row_shape[0] if found.row_shape else 1
    if len(names) != width or len({*names}) != width:
        names = [f"x{number}" for number in range(width)] if width <= NAMES_LIMIT else []
    return replace(found, features=tuple(names))
