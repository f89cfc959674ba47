"""Versions of a dataset: how a location names one, and which of them are committed.

Version 1 is the dataset as it was converted, with its manifest at the root. Version N consists of all rows of version
N - 1 and those of one more part, in a folder of its own; its manifest is `versions/000N.json`, whose creation commits
it. Versions are immutable, and only the newest can be removed, so their numbers have no gaps.
"""

import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from .format.manifest import MANIFEST
from .places.locate import Location, locate
from .places.place import Place

VERSIONS = "versions"
NAMED = re.compile(r"(.+)@([1-9][0-9]{0,5})")
REFERENCE = re.compile(rf"(.+?)/(?:{re.escape(MANIFEST)}|{VERSIONS}/([0-9]{{4,}})\.json)")


class NamedVersion(NamedTuple):
    """The root of a dataset, the version that a location names, None for the newest, and whether a user named it."""

    root: Place
    version: int | None
    pinned: bool


@dataclass(frozen=True)
class VersionPart:
    """The rows that a version has added.

    `folder` is that of the part relative to the dataset, empty for version 1. `rows` and `shards`
    are the numbers of its rows and shards, `left_out` that of skipped rows or images; `index` and `identity` are the
    SHA-256 of its index file and of its own manifest, and `sources` the paths of its sources. `widths` are the bytes
    per row of its arrays of text, which may be fewer than in later versions.
    """

    folder: str
    rows: int
    shards: int
    left_out: int
    index: str | None
    identity: str
    sources: tuple[str, ...]
    widths: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(**{**value, "sources": tuple(value["sources"])})


def find_version(location: Location) -> NamedVersion:
    """What a location names: `d.zarr`, `d.zarr@2`, or a manifest as in `manifest_of`.

    A file or folder whose own name ends like `@2` takes precedence.
    """
    place = locate(location)
    if found := REFERENCE.fullmatch(str(place)):
        return NamedVersion(locate(found[1]), int(found[2] or 1), pinned=False)
    if (found := NAMED.fullmatch(str(place))) and not (place.exists() or place.is_dir()):
        return NamedVersion(locate(found[1]), int(found[2]), pinned=True)
    return NamedVersion(place, None, pinned=False)


def newest_version(root: Place) -> int:
    """The number of the newest committed version; 1 if nothing has been appended. One listing."""
    numbers = [name.removesuffix(".json") for name in (root / VERSIONS).names() if name.endswith(".json")]
    return max((int(number) for number in numbers if number.isdecimal()), default=1)


def manifest_of(root: Place, version: int) -> Place:
    """The manifest of a version."""
    return root / MANIFEST if version == 1 else root / VERSIONS / f"{version:04d}.json"
