"""Files that are whole or absent: written to a temporary name, fsynced, renamed."""

import fcntl
import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore

from .errors import ConflictError, DamagedError
from .object_path import AnyPath, ObjectPath


@contextmanager
def whole_file(place: AnyPath, durable: bool = True) -> Iterator[Any]:
    """A file or an object to write: a crash at any moment leaves the old one or the new one, never a part.

    The temporary name is unique, so two writers of one path do not meet; the last rename wins. With `durable=False`
    nothing waits for the disk: a crash of the machine, not of the process, may leave the file empty.
    """
    if isinstance(place, ObjectPath):
        with obstore.open_writer(place.store, place.key) as stream:  # what is not closed in peace is not put in place
            yield _Sink(stream)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, place)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(place.parent)


class _Sink(io.RawIOBase):
    """What writes an object, as a file that others may write to: they must not close it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._stream.write(bytes(data))
        return len(data)


def write_atomic(place: AnyPath, data: bytes, durable: bool = True) -> None:
    """Write `data` to a file or an object, whole or not at all; see `whole_file`."""
    if isinstance(place, ObjectPath):
        place.write_bytes(data)
        return
    with whole_file(place, durable) as file:
        file.write(data)


def write_parts(place: AnyPath, parts: Iterable[bytes | memoryview]) -> tuple[int, str]:
    """Write bytes that come in parts, as `write_atomic` does. Returns their length and their SHA-256.

    On this machine no more than a part is held at a time; an object is put in place as one.
    """
    if isinstance(place, ObjectPath):
        data = b"".join(parts)
        place.write_bytes(data)
        return len(data), content_hash(data)
    digest = hashlib.sha256()
    with whole_file(place) as file:
        for part in parts:
            file.write(part)
            digest.update(part)
        length: int = file.tell()
    return length, digest.hexdigest()


def create_json(place: AnyPath, value: Any) -> bool:
    """Write JSON where nothing is yet; returns whether nothing was.

    On this machine the caller holds a lock; in an object store of several writers exactly one is told that it was.
    """
    if isinstance(place, ObjectPath):
        return place.create(to_json(value))
    if place.exists():
        return False
    write_json(place, value)
    return True


def remove_tree(place: AnyPath) -> None:
    """Remove a folder, or all objects behind a name and a slash, if there are any."""
    if isinstance(place, ObjectPath):
        place.remove_all(place.list())
    else:
        shutil.rmtree(place, ignore_errors=True)


def remove_file(place: AnyPath) -> None:
    """Remove a file or an object, if it is there."""
    if isinstance(place, ObjectPath):
        place.remove()
    else:
        place.unlink(missing_ok=True)


def names_in(place: AnyPath) -> list[str]:
    """The names in a folder, or the first parts of those of all objects behind a name and a slash, in order."""
    if isinstance(place, ObjectPath):
        return sorted({name.partition("/")[0] for name in place.list()})
    return sorted(path.name for path in place.iterdir()) if place.is_dir() else []


@contextmanager
def exclusive(folder: AnyPath, busy: str) -> Iterator[None]:
    """Have a folder for oneself, which is made if need be. The system frees its lock when the holder dies; in an object
    store there is none.

    Raises ConflictError for a file, and in the words `busy` where another process has the folder.
    """
    if isinstance(folder, ObjectPath):
        yield
        return
    if folder.is_file():
        raise ConflictError(f"{folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(busy) from None
        yield
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable: a rename survives a power cut only after this."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: AnyPath, value: Any, durable: bool = True) -> None:
    """Write `value` as JSON, atomically; see `whole_file`. The same value gives the same bytes."""
    write_atomic(path, to_json(value), durable)


def to_json(value: Any) -> bytes:
    """`value` as UTF-8 JSON in one canonical form. NaN and infinities are refused: they are not JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def read_json(path: AnyPath) -> Any:
    """The value in a JSON file. Raises FileNotFoundError, and DamagedError where the bytes are not JSON."""
    return parse_json(path.read_bytes(), str(path))


def parse_json(data: bytes, where: str) -> Any:
    """The value in the bytes of a JSON file. Raises DamagedError where they are not JSON."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise DamagedError(f"{where} is not valid JSON ({error}); restore it or remove what it belongs to") from None


def same_json(one: Any, other: Any) -> bool:
    """Whether two values are the same once written as JSON."""
    return to_json(one) == to_json(other)


def content_hash(*parts: bytes | memoryview) -> str:
    """SHA-256 of the parts in order, in hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def clean_temporaries(directory: AnyPath) -> None:
    """Remove what writers that were killed left under `directory`: ours, and zarr's. An object store has none."""
    if isinstance(directory, ObjectPath):
        return
    for pattern in (".*.tmp", "*.partial"):
        for leftover in directory.rglob(pattern):
            leftover.unlink(missing_ok=True)
