"""List the images in folders, patterns and archives, each with its class, in a list file.

The list takes about a hundred bytes per image. It is written while the sources are walked, and memory-mapped
afterwards.
"""

import glob
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from ....storage.errors import SourceError
from ....storage.places.locate import locate, matching
from ....storage.places.place import Place
from ..files import ImageFile
from ..formats import is_archive
from .archives import Listed, open_archive, top_folder
from .folders import FoundFile, Tour, walk_folder

BATCH = 10_000
SHOWN = 3  # examples in a warning
SCHEMA = pa.schema(
    {
        "path": "string",
        "container": "int32",
        "offset": "int64",
        "length": "int64",
        "packed": "int8",
        "class": "string",
        "beside": "string",
        "crc": "int64",
    }
)
FILE_COLUMNS = "offset", "length", "packed", "crc"
NOT_UTF8 = "its name is not UTF-8"


@dataclass(frozen=True)
class ImageList:
    """All images in the order of their sources and paths. `containers` are folders and archives, each with a flag for
    archives; `digest` is the SHA-256 of the list; `errors` are the images that cannot be read, by index, with the
    reason; `tour` says what was passed over, and which class folders are empty."""

    table: pa.Table
    containers: tuple[tuple[str, bool], ...]
    digest: str
    tour: Tour
    errors: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def name(self, number: int) -> str:
        """The full path of an image, for messages."""
        place, _ = self.containers[self.table["container"][number].as_py()]
        return f"{place}/{self.table['path'][number].as_py()}"

    def file(self, number: int) -> ImageFile:
        """Where the bytes of an image are."""
        row = {name: self.table[name][number].as_py() for name in ("container", "offset", "length", "packed", "crc")}
        place, archive = self.containers[row["container"]]
        return ImageFile(
            place if archive else self.name(number), row["offset"], row["length"], row["packed"], row["crc"]
        )

    def files(self, numbers: np.ndarray) -> dict[str, pa.Array]:
        """Where the bytes of images are, given by their numbers, (n,) int64: a column for each field of `ImageFile`."""
        rows = self.table.take(pa.array(numbers))
        containers = [self.containers[i] for i in rows["container"].to_pylist()]
        pairs = zip(containers, rows["path"].to_pylist(), strict=True)
        places = [place if archive else f"{place}/{path}" for (place, archive), path in pairs]
        return {"place": pa.array(places, pa.string()), **{name: rows[name] for name in FILE_COLUMNS}}

    def describe(self) -> str:
        """What was listed and what was passed over, for the console."""
        tour = self.tour
        counts = [(tour.ignored, "other files ignored"), (tour.hidden, "hidden or tool folders and files passed over")]
        counts += [(tour.cycles, "links to a folder around them passed over")]
        return ", ".join(["images", *(f"{count:,} {what}" for count, what in counts if count)])


def list_images(places: Sequence[str], folder: Path) -> ImageList:
    """List the images of folders, archives, files and patterns, local or in a bucket, to a file in `folder`.

    Raises SourceError for a source that does not exist, has no images or is named twice, and for an archive that cannot
    be read.
    """
    containers: list[tuple[str, bool]] = []
    digest, tour, count = hashlib.sha256(), Tour(), 0
    errors: dict[int, str] = {}
    target = folder / "images.arrow"
    with pa.OSFile(str(target), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for place in places:
            before = count
            for container, archive, images in open_place(place, tour):
                if not _is_utf8(container):
                    raise SourceError(f"{_escaped(container)}: {NOT_UTF8}; rename it")
                containers.append((container, archive))
                digest.update(f"{container}\n".encode())
                for batch in _batches(images):
                    digest.update("".join(f"{row}\n" for row in batch).encode())
                    writer.write_batch(_record(batch, len(containers) - 1, count, errors))
                    count += len(batch)
            if count == before:
                raise SourceError(
                    f"{place} contains no images; name a folder, a pattern, or a .tar or .zip archive of images "
                    "(unpack a .tar.gz first)"
                )
    digest.update("".join(f"empty {name!r}\n" for name in tour.empty).encode())
    table = pa.ipc.open_file(pa.memory_map(str(target))).read_all()
    return ImageList(table, tuple(containers), digest.hexdigest(), tour, errors)


def warnings_of(images: ImageList) -> Iterator[str]:
    """What is odd about the files that were listed."""
    if broken := images.tour.broken:
        yield f"{len(broken):,} links lead nowhere, so what was behind them is missing: {_first(broken)}"
    if empty := images.tour.empty:
        yield f"{len(empty):,} class folders have no images: {_first(empty)}"


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(_escaped, names[:SHOWN])) + ", …" * (len(names) > SHOWN)


def _batches(images: Iterable[Listed]) -> Iterator[list[Listed]]:
    batch = []
    for image in images:
        batch.append(image)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


def _record(rows: Sequence[Listed], container: int, start: int, errors: dict[int, str]) -> pa.RecordBatch:
    """Images as rows of the list. What is wrong with their files is added to `errors`."""
    for number, row in enumerate(rows, start):
        if row.problem:
            errors[number] = row.problem
    if not all(_is_utf8(row.path) and _is_utf8(row.name or "") for row in rows):
        errors |= {number: NOT_UTF8 for number, row in enumerate(rows, start) if not _is_utf8(row.path)}
        rows = [row._replace(path=_escaped(row.path), name=row.name and _escaped(row.name)) for row in rows]
    paths, offsets, lengths, packed, names, _, _, beside, crcs = zip(*rows, strict=True) if rows else ([],) * 9
    columns = [paths, [container] * len(rows), offsets, lengths, packed, names, beside, crcs]
    return pa.record_batch(
        [pa.array(list(column), kind.type) for column, kind in zip(columns, SCHEMA, strict=True)], SCHEMA
    )


def _is_utf8(text: str) -> bool:
    """Whether a name is UTF-8; the bytes of others are surrogates."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _escaped(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def open_place(text: str, tour: Tour) -> Iterator[tuple[str, bool, Iterator[Listed]]]:
    """The folders and archives that a path or a URL names: each one's path, whether it is an archive, its images.

    Raises SourceError if it does not exist, or if something in it is listed twice.
    """
    place = locate(text)
    files: Iterable[FoundFile]
    if place.is_dir():
        base, files = walk_folder(place, tour)
    elif place.waits_for_network and is_archive(place.name):  # in lists from buckets it has no folder beside it
        tour.add_file(place)
        yield str(place), True, open_archive(place, tour)
        return
    elif place.is_file():
        base, files = place.parent, _named(place.parent, [place], tour)
    elif glob.has_magic(text):
        base, matched = matching(text)
        files = _named(base, matched, tour)
    else:
        raise SourceError(f"{text} does not exist; check the path")
    archives: list[str] = []

    def plain() -> Iterator[Listed]:
        for file in files:
            if is_archive(file.name):
                archives.append(file.name)
            else:
                yield Listed(file.name, 0, file.size, -1, top_folder(file.name), file.mtime_ns, file.problem)

    yield str(base), False, plain()
    for name in archives:
        yield str(base / name), True, open_archive(base / name, tour)


def _named(base: Place, files: Iterable[Place], tour: Tour) -> Iterator[FoundFile]:
    """Files that were named by themselves or by a pattern."""
    for file in files:
        name = str(file).removeprefix(str(base)).lstrip("/")
        if tour.keeps(name):
            tour.add_file(file)
            yield FoundFile(name, *file.describe())
