"""Files that are whole or absent: written to a temporary name, fsynced, renamed."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import DamagedError


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write at `path`: a crash at any moment leaves the old one or the new one, never a part.

    The temporary name is unique, so two writers of one path do not meet; the last rename wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with whole_file(path) as file:
        file.write(data)


def sync_directory(directory: Path) -> None:
    """Make the names in `directory` durable: a rename survives a power cut only after this."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically. The same value gives the same bytes."""
    write_atomic(path, to_json(value))


def to_json(value: Any) -> bytes:
    """`value` as UTF-8 JSON in one canonical form. NaN and infinities are refused: they are not JSON."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def read_json(path: Path) -> Any:
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


def clean_temporaries(directory: Path) -> None:
    """Remove what writers that were killed left behind under `directory`."""
    for leftover in directory.rglob(".*.tmp"):
        leftover.unlink(missing_ok=True)
