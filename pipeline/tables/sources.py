"""The files that a conversion reads: paths, folders and patterns resolved to sources with their size and time."""

import glob
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from ...storage.errors import SourceError
from ...storage.format import Source
from ...storage.object_path import ObjectPath, list_bucket, locate
from ..csv.open import COMPRESSED

SUFFIXES = (".csv", ".tsv")  # of the files in a folder, optionally followed by one of COMPRESSED
PARQUET = ".parquet"


def find_sources(places: Sequence[str]) -> tuple[Source, ...]:
    """The files that paths, folders and patterns refer to; those of a folder or a pattern are sorted by path.

    Raises SourceError for a location without files, and for a file that is named twice.
    """
    paths: list[str] = []
    for place in places:
        found = [place]
        if "://" in place:
            found = _find_objects(place)
        elif Path(place).is_dir():
            found = [str(path) for path in sorted(Path(place).rglob("*")) if path.is_file() and _is_source(path.name)]
        elif glob.has_magic(place) and not Path(place).exists():
            found = [path for path in sorted(glob.glob(place, recursive=True)) if Path(path).is_file()]
        if not found:
            names = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
            raise SourceError(
                f"{place} contains no CSV files ({names}, plain or compressed) and no *{PARQUET} files; name the files"
            )
        paths += found
    sources = tuple(map(describe_source, paths))
    for path, count in Counter(source.path for source in sources).items():
        if count > 1:
            raise SourceError(f"{path} is named twice, so its rows would be duplicated; name it once")
    return sources


def _find_objects(url: str) -> list[str]:
    """The URLs of the objects that a URL refers to: itself, those in its folder, or those that match its pattern."""
    if not glob.has_magic(url):
        place = locate(url)
        assert isinstance(place, ObjectPath)
        if place.exists():
            return [url]
        return [str(place / name) for name in place.list() if _is_source(name.rpartition("/")[2])]
    scheme, _, path = url.partition("://")
    parts = path.split("/")
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    base = locate(f"{scheme}://" + "/".join(parts[: max(2, fixed)]))
    assert isinstance(base, ObjectPath)
    names = [f"{base}/{name}" for name in base.list()] if fixed >= 2 else list_bucket(f"{scheme}://{parts[0]}")
    return [name for name in names if fnmatchcase(name, url)]


def _is_source(name: str) -> bool:
    lower = name.lower()
    stem = lower.rpartition(".")[0] if lower.endswith(COMPRESSED) else lower
    return (stem.endswith(SUFFIXES) or lower.endswith(PARQUET)) and not name.startswith(".")


def describe_source(path: str) -> Source:
    """The size and time of a source. Raises SourceError if it is not a readable file or object."""
    place = locate(path)
    try:
        if isinstance(place, ObjectPath):
            size, changed = place.describe()
        else:
            status = place.stat()
            size, changed = status.st_size, status.st_mtime_ns
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read: {error.strerror or 'the object does not exist'}; check the path"
        ) from None
    if not size:
        raise SourceError(f"{path} is empty; provide a CSV file with a header and rows")
    return Source(str(place), size, changed)
