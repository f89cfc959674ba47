"""Which files a conversion reads: paths, folders and patterns made out to sources with their size and time."""

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..storage.errors import SourceError
from ..storage.format import Source

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
SUFFIXES = (".csv", ".tsv")  # of the files of a folder, perhaps with one of the above


def find_sources(places: Sequence[str]) -> tuple[Source, ...]:
    """The files that paths, folders and patterns name; those of a folder or a pattern in the order of their paths.

    Raises SourceError for a place with no file, and for a file that two places name.
    """
    paths: list[str] = []
    for place in places:
        found = [place]
        if Path(place).is_dir():
            found = [str(path) for path in sorted(Path(place).rglob("*")) if path.is_file() and _is_csv(path)]
        elif glob.has_magic(place) and not Path(place).exists():
            found = [path for path in sorted(glob.glob(place, recursive=True)) if Path(path).is_file()]
        if not found:
            names = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
            raise SourceError(f"{place} has no CSV files ({names}, plain or compressed); name the files")
        paths += found
    sources = tuple(map(describe_source, paths))
    for path, count in Counter(source.path for source in sources).items():
        if count > 1:
            raise SourceError(f"{path} is named twice; its rows would come twice")
    return sources


def _is_csv(path: Path) -> bool:
    stem = path.stem if path.suffix.lower() in COMPRESSED else path.name
    return stem.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def describe_source(path: str) -> Source:
    """A source's size and time. Raises SourceError if it is not a readable file."""
    place = Path(path).absolute()
    try:
        status = place.stat()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}; check the path") from None
    if not status.st_size:
        raise SourceError(f"{path} is empty; a CSV file with a header and rows is needed")
    return Source(str(place), status.st_size, status.st_mtime_ns)
