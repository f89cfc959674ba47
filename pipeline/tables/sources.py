"""The files that a conversion reads: paths, folders and patterns resolved to files with their size and time."""

import glob
from collections import Counter
from collections.abc import Sequence

from ...storage.errors import SourceError
from ...storage.format import Source
from ...storage.places.locate import locate, matching
from ..csv.open import COMPRESSED

SUFFIXES = (".csv", ".tsv")  # of the files in a folder, optionally followed by one of COMPRESSED
PARQUET = ".parquet"


def find_sources(places: Sequence[str]) -> tuple[Source, ...]:
    """The files that paths, folders and patterns refer to; files of a folder or a pattern are sorted by path.

    Raises SourceError for a location without files, and for a file that is named more than once.
    """
    paths: list[str] = []
    for place in places:
        found = _files_of(place)
        if not found:
            names = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
            raise SourceError(
                f"{place} contains no CSV files ({names}, plain or compressed) and no *{PARQUET} files; name the files"
            )
        paths += found
    sources = tuple(map(describe_source, paths))
    for path, count in Counter(source.path for source in sources).items():
        if count > 1:
            raise SourceError(f"{path} is named more than once, so its rows would be duplicated; name it once")
    return sources


def _files_of(text: str) -> list[str]:
    """The files that a path or a URL refers to: the file itself, the files in a folder, or the matches of a pattern."""
    place = locate(text)
    if place.is_file():
        return [text]
    if place.is_dir():
        found = [place / file.name for file in place.walk() if _is_source(file.name.rpartition("/")[2])]
        return list(map(str, sorted(found)))
    return list(map(str, matching(text)[1])) if glob.has_magic(text) else [text]


def _is_source(name: str) -> bool:
    lower = name.lower()
    stem = lower.rpartition(".")[0] if lower.endswith(COMPRESSED) else lower
    return (stem.endswith(SUFFIXES) or lower.endswith(PARQUET)) and not name.startswith(".")


def describe_source(path: str) -> Source:
    """The size and time of a source. Raises SourceError if it is not a readable file or object."""
    place = locate(path)
    try:
        size, changed = place.describe()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or 'it does not exist'}; check the path") from None
    if not size:
        raise SourceError(f"{path} is empty; provide a CSV file with a header and rows")
    return Source(str(place), size, changed)
