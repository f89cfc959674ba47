"""Places in an object store: `s3://`, `gs://`, `az://`. An object is written by a single request, or not at all.

Credentials and endpoints come from the same environment variables that the store's own tools read
(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …), and are never part of a URL.
"""

import hashlib
import io
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any
from urllib.parse import quote

import numpy as np
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import ObjectStore, from_url

from ..errors import DatasetError, UsageError
from .place import Entry, Place, Status, in_threads
from .requests import in_background, open_store

STREAM_BYTES = 4 << 20


@dataclass(frozen=True)
class BucketPlace(Place):
    """An object, or the objects whose names begin with its name and a slash."""

    bucket: str
    """The bucket with its scheme: `s3://bucket`."""
    key: str
    """The literal name of the object, without escapes; empty for the bucket itself."""

    waits_for_network = True

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"

    def __fspath__(self) -> str:
        raise UsageError(f"{self} is in an object store, but a local file is required here; use a local copy")

    def __truediv__(self, name: str) -> "BucketPlace":
        return BucketPlace(self.bucket, f"{self._prefix}{name}")

    def __lt__(self, other: "BucketPlace") -> bool:
        return str(self) < str(other)

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> "BucketPlace":
        return BucketPlace(self.bucket, self.key.rpartition("/")[0])

    @property
    def latency(self) -> float:
        return open_store(self.bucket).latency

    @property
    def _store(self) -> ObjectStore:
        return open_store(self.bucket).store

    @property
    def _prefix(self) -> str:
        """The common prefix of the names of all objects below this place."""
        return f"{self.key}/" if self.key else ""

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Turn every error of the store except FileNotFoundError into a DatasetError with the remedy."""
        started = monotonic()
        try:
            yield
        except FileNotFoundError:
            raise
        except BaseError as error:
            raise self._refused(error) from None
        open_store(self.bucket).answered(monotonic() - started)

    def _refused(self, error: Exception) -> DatasetError:
        reason = str(error).splitlines()[0]
        return DatasetError(
            f"{self}: unexpected response from the object store ({reason}); check the credentials in the environment, "
            "the endpoint and the network, then run the same command again"
        )

    def is_file(self) -> bool:
        try:
            self.describe()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        with self._answers():
            return any(len(batch) for batch in obstore.list(self._store, self._prefix, chunk_size=1))

    def describe(self) -> Status:
        with self._answers():
            found = obstore.head(self._store, self.key)
        return Status(found["size"], int(found["last_modified"].timestamp() * 1e9))

    def names(self) -> list[str]:
        return sorted({entry.name.partition("/")[0] for entry in self.walk()})

    def subfolders(self) -> list[str]:
        with self._answers():
            found = obstore.list_with_delimiter(self._store, self._prefix)["common_prefixes"]
        return sorted(path.removeprefix(self._prefix) for path in found if path.startswith(self._prefix))

    def walk(self, follow_links: bool = False) -> Iterator[Entry]:
        with self._answers():
            found = [
                Entry(str(item["path"]).removeprefix(self._prefix), int(item["size"]), 0)
                for batch in obstore.list(self._store, self._prefix)
                for item in batch
            ]
        return iter(sorted(found))

    def read_bytes(self) -> bytes:
        with self._answers():
            return bytes(obstore.get(self._store, self.key).bytes())

    def read_range(self, start: int, length: int) -> bytes:
        return self.request_range(start, length).result().tobytes()

    def request_range(self, start: int, length: int) -> Future[np.ndarray]:
        return in_background(self._range(start, length))

    async def _range(self, start: int, length: int) -> np.ndarray:
        client = open_store(self.bucket)

        async def ask() -> np.ndarray:
            answer = await obstore.get_range_async(client.store, self.key, start=start, length=length)
            return np.frombuffer(memoryview(answer), np.uint8)

        try:
            return await client.first_answer(ask)
        except FileNotFoundError:
            raise
        except (BaseError, ValueError) as error:
            with self._answers():
                size = (await obstore.head_async(client.quick, self.key))["size"]
            if start >= size or not length:  # a range without any bytes is refused
                return np.empty(0, np.uint8)
            raise self._refused(error) from None

    def read_into(self, start: int, out: np.ndarray) -> int:
        data = self.request_range(start, len(out)).result()
        out[: len(data)] = data
        return len(data)

    def open_stream(self) -> io.BufferedReader:
        with self._answers():
            return io.BufferedReader(_ObjectStream(self._store, self.key), STREAM_BYTES)

    def open_ranges(self, size: int) -> "_OpenObject":
        return _OpenObject(self)

    def file_argument(self) -> io.BufferedReader:
        return self.open_stream()

    def zarr_store(self) -> Any:
        from zarr.storage import ObjectStore as ZarrStore  # it takes long to import

        return ZarrStore(from_url(f"{self.bucket}/{quote(self.key)}"))

    def write(self, data: bytes | memoryview, durable: bool = True) -> None:
        with self._answers():
            obstore.put(self._store, self.key, data)

    def write_parts(self, parts: Iterable[bytes | memoryview]) -> tuple[int, str]:
        data = b"".join(parts)
        self.write(data)
        return len(data), hashlib.sha256(data).hexdigest()

    @contextmanager
    def whole_file(self, durable: bool = True) -> Iterator[Any]:
        with self._answers(), obstore.open_writer(self._store, self.key) as stream:  # an error drops what was sent
            yield _Sink(stream)

    def write_files(self, files: Mapping[str, bytes]) -> None:
        in_threads(lambda name: (self / name).write(files[name]), files)

    def sync_folders(self) -> None:
        """Do nothing: objects are durable, and there are no folders."""

    def create(self, data: bytes) -> bool:
        try:
            obstore.put(self._store, self.key, data, mode="create")
        except AlreadyExistsError:
            return False
        except BaseError as error:
            raise self._refused(error) from None
        return True

    def append_line(self, line: bytes) -> None:
        try:
            before = self.read_bytes()
        except FileNotFoundError:
            before = b""
        self.write(before + line)

    def remove(self) -> None:
        self._remove([self.key])

    def remove_tree(self) -> None:
        self._remove([self._prefix + entry.name for entry in self.walk()])

    def remove_contents(self, keep: str) -> None:
        names = (entry.name for entry in self.walk())
        self._remove([self._prefix + name for name in names if not name.startswith(f"{keep}/")])

    def remove_if_empty(self) -> None:
        """Do nothing: object stores have no empty folders."""

    def clean_temporaries(self) -> None:
        """Do nothing: object stores have no temporary files."""

    def new_folder_beside(self) -> "BucketPlace":
        return BucketPlace(self.bucket, f"{self.key}.{uuid.uuid4().hex}")

    @contextmanager
    def lock(self, busy: str) -> Iterator[None]:
        yield

    def _remove(self, keys: Sequence[str]) -> None:
        try:
            with self._answers():
                obstore.delete(self._store, keys)
        except FileNotFoundError:
            return


class _OpenObject:
    """An object read in ranges. Its size is not requested: the checksums of the data read are enough."""

    descriptor: int | None = None

    def __init__(self, place: BucketPlace) -> None:
        self._place = place

    def read(self, offset: int, memory: np.ndarray) -> np.ndarray:
        return self._place.request_range(offset, len(memory)).result()


class _ObjectStream(io.RawIOBase):
    """An object as a Python stream."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._stream = obstore.open_reader(store, key, buffer_size=STREAM_BYTES)

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


class _Sink(io.RawIOBase):
    """An object's writer as a file that libraries may write to but not close."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._stream.write(bytes(data))
        return len(data)
