"""JSON in one canonical form: as bytes, in files, compared and hashed."""

import hashlib
import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ..errors import DamagedError
from .place import Place


def to_json(value: Any) -> bytes:
    """Encode `value` as UTF-8 JSON in one canonical form; dataclasses are objects of their fields.

    Raises ValueError for NaN and infinities: not valid JSON.
    """
    return json.dumps(value, default=_fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, or what its `to_json` gives. `dataclasses.asdict` copies all that they contain, which
    takes longer than to encode it."""
    if not is_dataclass(value):
        raise TypeError(f"{type(value).__name__} is not a dataclass and has no JSON")
    if hasattr(value, "to_json"):
        own: dict[str, Any] = value.to_json()
        return own
    return {field.name: getattr(value, field.name) for field in fields(value)}


def as_json(value: Any) -> Any:
    """A value as it is read from JSON: its dataclasses as dictionaries, its tuples as lists."""
    return json.loads(to_json(value))


def parse_json(data: bytes, where: str) -> Any:
    """Decode the bytes of the JSON file `where`. Raises DamagedError if they are not JSON."""
    try:
        return json.loads(data)
    except ValueError as error:
        raise DamagedError(f"{where} is not valid JSON ({error}); restore it or remove its folder") from None


def read_json(place: Place | Path) -> Any:
    """Read a JSON file. Raises FileNotFoundError, and DamagedError if the bytes are not JSON."""
    return parse_json(place.read_bytes(), str(place))


def write_json(place: Place, value: Any, durable: bool = True) -> None:
    """Write `value` as JSON, atomically; see `Place.write`. The same value gives the same bytes."""
    place.write(to_json(value), durable)


def create_json(place: Place, value: Any) -> bool:
    """Write JSON unless the file exists. Returns whether this call created it; see `Place.create`."""
    return place.create(to_json(value))


def same_json(one: Any, other: Any) -> bool:
    """Whether two values are equal when written as JSON."""
    return to_json(one) == to_json(other)


def content_hash(*parts: bytes | memoryview) -> str:
    """SHA-256 of the parts in order, in hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
