"""List the images in folders, patterns and archives, each with its class, in a list file.

The list takes about a hundred bytes per image. It is written while the sources are walked, and memory-mapped
afterwards.
"""

import glob
import hashlib
import os
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from PIL import Image

from ...storage.errors import SourceError
from ...storage.places.locate import locate, matching
from ...storage.places.place import Entry, Place
from .decode import FORMATS
from .files import DEFLATED, STORED

ARCHIVES = (".tar", ".zip")
UNSUPPORTED = (".eps", ".heic", ".heif", ".pcx", ".psd", ".svg", ".tga")  # images, rejected with an error
CLASS = ".cls"  # the class of a WebDataset sample
BATCH = 10_000
SCHEMA = pa.schema(
    {"path": "string", "container": "int32", "offset": "int64", "length": "int64", "packed": "int8", "class": "string"}
)


class Listed(NamedTuple):
    """An image: its path within its container, where its bytes are in it, its class if its location implies one, and
    its file's modification time."""

    path: str
    offset: int
    length: int
    packed: int
    name: str | None
    changed: int = 0


@dataclass(frozen=True)
class ImageList:
    """All images in the order of their sources and paths. `containers` are folders and archives, each with a flag for
    archives; `digest` is the SHA-256 of the list, `ignored` the number of files that are not images."""

    table: pa.Table
    containers: tuple[tuple[str, bool], ...]
    digest: str
    ignored: int

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def name(self, number: int) -> str:
        """The full path of an image, for messages."""
        place, _ = self.containers[self.table["container"][number].as_py()]
        return f"{place}/{self.table['path'][number].as_py()}"


def list_images(places: Sequence[str], folder: Path) -> ImageList:
    """List the images of folders, archives, files and patterns, local or in a bucket, to a file in `folder`.

    Raises SourceError for a source that does not exist or has no images, and for an archive that cannot be read.
    """
    containers: list[tuple[str, bool]] = []
    digest, ignored = hashlib.sha256(), 0
    target = folder / "images.arrow"
    with pa.OSFile(str(target), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for place in places:
            found = 0
            for container, archive, images in open_place(place):
                containers.append((container, archive))
                digest.update(f"{container}\n".encode())
                for batch in _batches(images):
                    rows = [row for row in batch if is_image(row.path)]
                    ignored += len(batch) - len(rows)
                    found += len(rows)
                    digest.update("".join(f"{row}\n" for row in rows).encode(errors="surrogateescape"))
                    writer.write_batch(_record(rows, len(containers) - 1))
            if not found:
                raise SourceError(
                    f"{place} contains no images; name a folder, a pattern, or a .tar or .zip archive of images "
                    "(unpack a .tar.gz first)"
                )
    table = pa.ipc.open_file(pa.memory_map(str(target))).read_all()
    return ImageList(table, tuple(containers), digest.hexdigest(), ignored)


def _batches(images: Iterable[Listed]) -> Iterator[list[Listed]]:
    batch = []
    for image in images:
        batch.append(image)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


def _record(rows: Sequence[Listed], container: int) -> pa.RecordBatch:
    paths, offsets, lengths, packed, names, _ = zip(*rows, strict=True) if rows else ([],) * 6
    columns = [paths, [container] * len(rows), offsets, lengths, packed, names]
    return pa.record_batch(
        [pa.array(list(column), kind.type) for column, kind in zip(columns, SCHEMA, strict=True)], SCHEMA
    )


def is_image(path: str) -> bool:
    """Whether a file is an image, judging by its name."""
    name = path.rpartition("/")[2]
    return os.path.splitext(name)[1].lower() in suffixes() and name[0] != "." and "__MACOSX" not in path.split("/")


@cache
def suffixes() -> frozenset[str]:
    """The suffixes of supported formats, and of unsupported image formats."""
    return frozenset(suffix for suffix, name in Image.EXTENSION.items() if name in FORMATS) | frozenset(UNSUPPORTED)


def open_place(text: str) -> Iterator[tuple[str, bool, Iterator[Listed]]]:
    """The folders and archives that a path or a URL names: each one's path, whether it is an archive, what it contains.

    Raises SourceError if it does not exist.
    """
    place = locate(text)
    files: Iterable[Entry]
    if place.is_dir():
        base, files = place, place.walk()
    elif place.waits_for_network and is_archive(place.name):  # in lists from buckets it has no folder beside it
        yield str(place), True, open_archive(place)
        return
    elif place.is_file():
        base, files = place.parent, [Entry(place.name, *place.describe())]
    elif glob.has_magic(text):
        base, matched = matching(text)
        files = (Entry(str(one).removeprefix(str(base)).lstrip("/"), *one.describe()) for one in matched)
    else:
        raise SourceError(f"{text} does not exist; check the path")
    archives: list[str] = []

    def plain() -> Iterator[Listed]:
        for file in files:
            if is_archive(file.name):
                archives.append(file.name)
            else:
                yield Listed(file.name, 0, file.size, -1, top_folder(file.name), file.mtime_ns)

    yield str(base), False, plain()
    for name in archives:
        yield str(base / name), True, open_archive(base / name)


def is_archive(name: str) -> bool:
    """Whether a file is an archive, judging by its name."""
    return name.lower().endswith(ARCHIVES)


def top_folder(path: str) -> str | None:
    """The first folder of a path, which is the image's class; None if there is none."""
    first, separator, _ = path.partition("/")
    return first if separator else None


def open_archive(place: Place) -> Iterator[Listed]:
    """The images in a tar or zip archive, in its order. A folder that contains all of them is not a class."""
    try:
        with place.open_stream() as stream:
            members = list(_zip_members(stream, place) if str(place).lower().endswith(".zip") else _tar_members(stream))
    except FileNotFoundError:
        raise SourceError(f"{place} does not exist; check the path") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise SourceError(f"{place} cannot be read as an archive ({error}); pack it again, uncompressed") from None
    images = [member for member in members if is_image(member.path)]
    while images and len({top_folder(image.path) for image in images}) == 1 and top_folder(images[0].path):
        cut = len(top_folder(images[0].path) or "") + 1
        images = [image._replace(path=image.path[cut:]) for image in images]
    for image in images:
        yield image._replace(name=image.name or top_folder(image.path))


def _zip_members(stream: object, place: Place) -> Iterator[Listed]:
    with zipfile.ZipFile(stream) as archive:  # type: ignore[call-overload]
        for info in archive.infolist():
            if info.is_dir():
                continue
            if info.flag_bits & 1 or info.compress_type not in (STORED, DEFLATED):
                raise SourceError(
                    f"{place}: {info.filename} is encrypted or uses an unsupported compression; pack it again"
                )
            yield Listed(info.filename, info.header_offset, info.compress_size, info.compress_type, None)


def _tar_members(stream: object) -> Iterator[Listed]:
    """The files of a tar archive; those whose names differ only after the first dot form one WebDataset sample."""
    with tarfile.open(fileobj=stream, mode="r:") as archive:  # type: ignore[call-overload]
        files = (member for member in archive if member.isreg() and not member.issparse())
        for _, group in groupby(files, key=lambda member: _sample_key(member.name)):
            members = list(group)
            name = None
            for member in members:
                if member.name.endswith(CLASS):
                    content = archive.extractfile(member)
                    name = content.read().decode(errors="replace").strip() if content else None
            for member in members:
                yield Listed(member.name, member.offset_data, member.size, -1, name)


def _sample_key(path: str) -> str:
    folder, separator, name = path.rpartition("/")
    return folder + separator + name.partition(".")[0]
