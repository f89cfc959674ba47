"""NumPy's files: an NPY file is one chunk, and so is each member of an NPZ archive."""

import io
import struct
import zipfile
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from ....storage.errors import SourceError, UsageError
from ....storage.foreign.format import Chunked
from ....storage.places.place import Place
from .found import FileList, FoundArray, UnsupportedError, axis_named, of_chunks, single, unknown, value_dtype

MAGIC = b"\x93NUMPY"
HEADER_BYTES = 64 << 10
LOCAL_HEADER = struct.Struct("<26xHH")  # of a member of an archive: the lengths of its name and of the extra field
FAVORITES = ("x", "X", "data", "features", "images", "x_train", "arr_0")


class NumpyFile:
    """An NPY file, whose only array is called by the file's name, or an NPZ archive."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._members: dict[str, zipfile.ZipInfo] = {}
        if place.suffix == ".npz" or place.read_range(0, 2) == b"PK":
            with self._open() as archive:
                self._members = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.place.file_argument())
        except zipfile.BadZipFile as error:
            raise SourceError(f"{self.place} is no intact NPZ archive ({error}); write it again") from None

    def names(self) -> Sequence[str]:
        return [*self._members] or [self.place.name.removesuffix(".npy")]

    def default(self, taken: Sequence[str]) -> tuple[str, ...]:
        names = [name for name in self.names() if name not in taken]
        return next(((name,) for name in FAVORITES if name in names), tuple(names) if len(names) == 1 else ())

    def find(self, paths: Sequence[str], sample_dim: str | None, files: FileList) -> FoundArray:
        path = single(paths, self.place)
        shape, dtype, fortran, header = self._header(path)
        where = f"{self.place}: '{path}'"
        values = value_dtype(dtype, where)
        axis = axis_named(sample_dim, [None] * len(shape), where)
        member = self._members.get(path)

        def describe() -> Chunked:
            file, size = files.add(self.place), prod(shape) * dtype.itemsize
            axes = tuple(reversed(range(len(shape)))) if fortran else ()
            codecs: tuple[dict[str, Any], ...] = ()
            offset, length = header, size
            if member:
                names = LOCAL_HEADER.unpack(self.place.read_range(member.header_offset, LOCAL_HEADER.size))
                offset = member.header_offset + LOCAL_HEADER.size + sum(names)
                if member.compress_type == zipfile.ZIP_DEFLATED:
                    codecs, length = ({"id": "deflate", "skip": header},), member.compress_size
                elif member.compress_type == zipfile.ZIP_STORED:
                    offset += header
                else:
                    raise UnsupportedError(f"{where} is compressed by a method that cannot be read in place")
            chunks = np.array([[file, offset, length]], np.int64)
            return Chunked(shape, shape, dtype.str, chunks, axis, axes, codecs, bounds=np.array([0, shape[axis]]))

        return of_chunks(path, describe, shape, axis, values)

    def _header(self, path: str) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
        """The shape, the dtype, whether the first axis is the fastest, and the length of the header in bytes."""
        if path not in self.names():
            raise unknown(path, self.place, self.names())
        if self._members:
            with self._open() as archive, archive.open(self._members[path]) as member:
                data = member.read(HEADER_BYTES)
        else:
            data = self.place.read_range(0, HEADER_BYTES)
        stream = io.BytesIO(data)
        try:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(stream)
        except ValueError as error:
            raise SourceError(f"{self.place}: '{path}' is no intact NPY file ({error}); write it again") from None
        if dtype.hasobject:
            raise UsageError(f"{self.place}: '{path}' has Python objects, which are not read; save numbers or text")
        return shape, dtype, fortran, stream.tell()

    def _load(self, path: str) -> np.ndarray:
        self._header(path)
        if self._members:
            with self._open() as archive, archive.open(self._members[path]) as member:
                return np.asarray(np.lib.format.read_array(member, allow_pickle=False))
        return np.asarray(np.load(self.place.file_argument(), allow_pickle=False))

    def column(self, path: str) -> np.ndarray:
        return self._load(path)

    def read(self, paths: Sequence[str], sample_dim: str | None, start: int, stop: int) -> np.ndarray:
        found = self._load(single(paths, self.place))
        axis = axis_named(sample_dim, [None] * found.ndim, str(self.place))
        return np.moveaxis(found, axis, 0)[start:stop]
