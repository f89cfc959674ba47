"""Objects in a store by URL, used like paths as far as datasets need it: `s3://`, `gs://`, `az://`.

Credentials and endpoints come from the environment, as the store's own tools read them (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL, …), and are never part of a URL.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore, from_url

from .errors import DatasetError, UsageError, check_choice

SCHEMES = ("s3", "gs", "az")
STREAM_BYTES = 4 << 20


@dataclass(frozen=True)
class ObjectPath:
    """An object, or what begins with its name and a slash."""

    bucket: str
    """With its scheme: `s3://bucket`."""
    key: str

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(self.bucket, f"{self.key}/{name}")

    @property
    def store(self) -> ObjectStore:
        return _open_store(self.bucket)

    @property
    def folder(self) -> ObjectStore:
        """A store whose names begin behind this one and its slash."""
        return from_url(str(self))

    def exists(self) -> bool:
        """Whether there is an object of this name. A prefix alone is none."""
        try:
            obstore.head(self.store, self.key)
        except FileNotFoundError:
            return False
        except BaseError as error:
            raise self._refused(error) from None
        return True

    def describe(self) -> tuple[int, int]:
        """Size in bytes, and when it was written, in nanoseconds since 1970. Raises FileNotFoundError."""
        try:
            found = obstore.head(self.store, self.key)
        except FileNotFoundError:
            raise
        except BaseError as error:
            raise self._refused(error) from None
        return found["size"], int(found["last_modified"].timestamp() * 1e9)

    def read_bytes(self) -> bytes:
        """The whole object. Raises FileNotFoundError."""
        try:
            return bytes(obstore.get(self.store, self.key).bytes())
        except FileNotFoundError:
            raise
        except BaseError as error:
            raise self._refused(error) from None

    def read_range(self, start: int, length: int) -> bytes:
        """`length` bytes from `start` on, fewer where the object ends before. Raises FileNotFoundError."""
        try:
            return bytes(obstore.get_range(self.store, self.key, start=start, length=length))
        except FileNotFoundError:
            raise
        except BaseError as error:
            raise self._refused(error) from None

    def write_bytes(self, data: bytes | memoryview) -> None:
        """Put the whole object in place, or nothing."""
        try:
            obstore.put(self.store, self.key, data)
        except BaseError as error:
            raise self._refused(error) from None

    def create(self, data: bytes) -> bool:
        """Put an object that must not be there yet (a conditional PUT); returns whether it was not."""
        try:
            obstore.put(self.store, self.key, data, mode="create")
        except AlreadyExistsError:
            return False
        except BaseError as error:
            raise self._refused(error) from None
        return True

    def sizes(self) -> Sequence[tuple[str, int]]:
        """The names of all objects behind this one and its slash, relative to it, in order, with their bytes."""
        prefix = f"{self.key}/" if self.key else ""
        try:
            return sorted(
                (str(item["path"]).removeprefix(prefix), int(item["size"]))
                for batch in obstore.list(self.store, prefix)
                for item in batch
            )
        except BaseError as error:
            raise self._refused(error) from None

    def list(self) -> list[str]:
        """The names of all objects behind this one and its slash, relative to it, in order."""
        return [name for name, _ in self.sizes()]

    def names(self) -> Sequence[str]:
        """The first parts of the names of all objects behind this one and its slash, in order; some stores also have
        folders that have become empty."""
        prefix = f"{self.key}/" if self.key else ""
        try:
            found = obstore.list_with_delimiter(self.store, prefix)
        except BaseError as error:
            raise self._refused(error) from None
        paths = [*found["common_prefixes"], *(item["path"] for item in found["objects"])]
        return sorted({str(path).removeprefix(prefix) for path in paths if str(path).startswith(prefix)})

    def remove(self) -> None:
        """Remove the object, if there is one."""
        self._remove([self.key])

    def remove_all(self, names: Sequence[str]) -> None:
        """Remove objects behind this one and its slash."""
        self._remove([f"{self.key}/{name}" for name in names])

    def _remove(self, keys: Sequence[str]) -> None:
        try:
            obstore.delete(self.store, keys)
        except FileNotFoundError:
            return
        except BaseError as error:
            raise self._refused(error) from None

    def _refused(self, error: Exception) -> DatasetError:
        reason = str(error).splitlines()[0]
        return DatasetError(
            f"{self}: the store does not answer as it should ({reason}); look at the credentials in "
            "the environment, the endpoint and the network, then run the same command again"
        )


AnyPath = Path | ObjectPath


def list_bucket(bucket: str) -> list[str]:
    """The URLs of all objects of a bucket (`s3://bucket`), in order."""
    return [f"{bucket}/{name}" for name in ObjectPath(bucket, "").list()]


def read_bytes(place: AnyPath | str, start: int, length: int) -> bytes:
    """`length` bytes of a file or an object from `start` on, fewer where it ends before. Text is a path here."""
    if isinstance(place, ObjectPath):
        return place.read_range(start, length)
    with open(place, "rb") as file:
        if start:  # a pipe can be read, but only from its beginning
            file.seek(start)
        return file.read(length)


def read_into(place: AnyPath, start: int, out: np.ndarray) -> int:
    """Fill `out`, (length,) uint8, from a file or an object from `start` on. Returns the bytes that were there."""
    if isinstance(place, ObjectPath):
        data = place.read_range(start, len(out))
        out[: len(data)] = np.frombuffer(data, np.uint8)
        return len(data)
    with open(place, "rb", buffering=0) as file:
        file.seek(start)
        done = 0
        while done < len(out) and (count := file.readinto(out[done:].data)):
            done += count
        return done


class _ObjectStream(io.RawIOBase):
    """An object's bytes as Python's streams have them."""

    def __init__(self, place: ObjectPath) -> None:
        self._stream = obstore.open_reader(place.store, place.key, buffer_size=STREAM_BYTES)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, out: Any) -> int:
        data = self._stream.read(len(out))
        out[: len(data)] = bytes(data)
        return len(data)


def open_stream(place: AnyPath) -> io.BufferedReader:
    """A file or an object to be read from its beginning to its end."""
    if isinstance(place, ObjectPath):
        return io.BufferedReader(_ObjectStream(place), STREAM_BYTES)
    return open(place, "rb")


def locate(place: str | Path | ObjectPath) -> AnyPath:
    """A path on this machine made absolute, or a URL's object. Raises UsageError for schemes that are not known."""
    if isinstance(place, ObjectPath):
        return place
    scheme, separator, rest = str(place).partition("://")
    if not separator:
        return Path(place).absolute()
    if scheme in ("http", "https"):
        raise UsageError(f"{place}: download it, and give the file's path; object stores are s3://, gs:// and az://")
    check_choice("the scheme", scheme, SCHEMES)
    bucket, _, key = rest.strip("/").partition("/")
    if "@" in bucket:
        raise UsageError(
            f"a URL of {scheme} with credentials in it; put those into the environment, and name the bucket"
        )
    if not bucket or not key:
        raise UsageError(f"{place}: name a bucket and what is in it, as in {scheme}://bucket/digits.zarr")
    return ObjectPath(f"{scheme}://{bucket}", key)


@lru_cache
def _open_store(bucket: str) -> ObjectStore:
    return from_url(bucket)
