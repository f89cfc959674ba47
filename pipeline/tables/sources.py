"""The files that a conversion reads: paths, folders and patterns resolved to files with their size and time."""

import glob
import os
from collections.abc import Container, Sequence
from typing import Literal
from urllib.parse import quote

from ...storage.errors import SourceError
from ...storage.format.manifest import Source
from ...storage.places.locate import locate, matching
from ..csv.archive import ZIP
from ..csv.open import COMPRESSED
from ..target.beside import NO_VALUE, folder_columns

SUFFIXES = (".csv", ".tsv")  # of the files in a folder, optionally followed by one of COMPRESSED
PARQUET = ".parquet"
ARROW = (".arrow", ".arrows", ".feather", ".ipc")
JSON = (".jsonl", ".ndjson")  # optionally followed by one of COMPRESSED
OTHERS = ", ".join(f"*{suffix}" for suffix in (PARQUET, *ARROW, *JSON))
PASSED_OVER = ("__MACOSX", "_delta_log", "_temporary", "_spark_metadata")
"""Folders of other programs, which are passed over like hidden ones."""


def find_sources(places: Sequence[str], known: Container[str] = ()) -> tuple[Source, ...]:
    """The files that paths, folders and patterns refer to; files of a folder or a pattern are sorted by path.

    Folders such as `day=mon` below the common folder of all sources give columns, and so do those above if `known`
    contains their name. Raises SourceError for a location without files, and for a file that is named more than once.
    """
    paths, folders, named = list[str](), list[list[str]](), set[str]()
    for place in places:
        folder, found = _files_of(place)
        if not found:
            names = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
            raise SourceError(
                f"{place} contains no CSV files ({names}, plain or compressed) and no {OTHERS} files; name the files, "
                "or convert images with 'foldstream convert images'"
            )
        paths += found
        named |= {place} & {*found}
        folders.append(folder.split("/"))
    above = common_depth(folders)
    sources = tuple(describe_source(path, above, known, path not in named) for path in paths)
    if not any(source.bytes for source in sources):
        raise SourceError(f"{paths[0]} is empty; provide a CSV file with a header and rows")
    _check_once([source.path for source in sources])
    return sources


def _check_once(paths: Sequence[str]) -> None:
    """Raise SourceError for a file that occurs twice, also through a link to a folder."""
    real, seen = dict[str, str](), dict[tuple[str, str], str]()
    for path in paths:
        folder, _, name = path.rpartition("/")
        if folder not in real:
            real[folder] = folder if "://" in folder else os.path.realpath(folder)
        if earlier := seen.get((real[folder], name)):
            also = "named more than once" if earlier == path else f"also {earlier}, through a link"
            raise SourceError(f"{path} is {also}, so its rows would be duplicated; name it once")
        seen[real[folder], name] = path


def _files_of(text: str) -> tuple[str, list[str]]:
    """The folder that a path or a URL refers to, and the files: the file itself, those in a folder, or the matches of a
    pattern."""
    place = locate(text)
    if place.is_file():
        return str(place.parent), [text]
    if place.is_dir():
        found = [place / file.name for file in place.walk(follow_links=True) if is_table(file.name.split("/"))]
        return str(place), list(map(str, sorted(found)))
    if not glob.has_magic(text):
        return str(place.parent), [text]
    folder, matches = matching(text)
    return str(folder), list(map(str, matches))


def is_table(parts: Sequence[str]) -> bool:
    """Whether a file below a folder, given as the parts of its path, is a table."""
    lower = parts[-1].lower()
    stem = lower.rpartition(".")[0] if lower.endswith((*COMPRESSED, ZIP)) else lower
    return (stem.endswith((*SUFFIXES, *JSON)) or lower.endswith((PARQUET, *ARROW))) and is_visible(parts)


def kind_of(name: str) -> Literal["CSV", "Parquet", "Arrow", "JSON lines"]:
    """The kind of a table, judging by its name."""
    lower = name.lower()
    if lower.endswith(PARQUET):
        return "Parquet"
    if lower.endswith(ARROW):
        return "Arrow"
    stem = lower.rpartition(".")[0] if lower.endswith(COMPRESSED) else lower
    return "JSON lines" if stem.endswith((*JSON, ".json")) else "CSV"


def is_visible(parts: Sequence[str]) -> bool:
    """Whether neither a file nor one of its folders, given as the parts of its path, is hidden or passed over."""
    return not any(part.startswith(".") or part in PASSED_OVER for part in parts)


def common_depth(folders: Sequence[Sequence[str]]) -> int:
    """The number of parts that the paths of several folders begin with together."""
    shared = zip(*folders, strict=False)
    return next((depth for depth, names in enumerate(shared) if len({*names}) > 1), min(map(len, folders)))


def describe_source(
    path: str, above: int | None = None, known: Container[str] = (), may_be_empty: bool = False
) -> Source:
    """The size and time of a source, and the columns that its folders give below the first `above` parts of its path.

    Raises SourceError if it is not a readable file or object, or empty.
    """
    place = locate(path)
    try:
        size, changed = place.describe()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or 'it does not exist'}; check the path") from None
    if not size and not may_be_empty:
        raise SourceError(f"{path} is empty; provide a CSV file with a header and rows")
    return Source(str(place), size, changed, folder_columns(str(place).split("/")[:-1], above, known))


def partition_folders(source: Source) -> list[str]:
    """The names of the folders that give a source its columns."""
    values = {name: NO_VALUE if value is None else quote(value, safe="") for name, value in source.partitions.items()}
    return [f"{quote(name, safe='')}={value}" for name, value in values.items()]
