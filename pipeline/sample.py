"""A small sample of a conversion's sources in separate files, to estimate the cost of converting all of them.

The sample contains the first rows of some tables, or some of the listed images: a few megabytes, however large the
sources are.
"""

import bz2
import codecs
import gzip
import io
import lzma
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePath, PurePosixPath

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from ..storage.errors import SourceError
from ..storage.format.manifest import Source
from ..storage.places.locate import locate
from .csv.archive import archive_in_words, archive_members, is_archive
from .csv.cut import PACKER
from .csv.dialect import MARK_OF_UTF8, find_dialect, find_encoding, padded
from .csv.kernels import count_lines, count_rows, skip_rows
from .csv.open import BROKEN, COMPRESSED, decompressed, past_preamble, rewriting_of
from .csv.options import CsvOptions
from .images.files import ImageFile, read_image
from .images.listing.archives import FIELDS, Listed, sample_key, top_folder
from .images.listing.folders import Tour
from .images.listing.list import open_place
from .tables.arrow import damage_in_words, is_stream, open_native
from .tables.parquet import opened
from .tables.sources import is_table, kind_of, partition_folders

SOURCES = 4  # number of files to sample rows from
TEXT_BYTES = 32 << 20  # of uncompressed CSV and of Parquet files
PACKED_BYTES = 4 << 20  # of compressed CSV files
UNPACKED_BYTES = 64 << 20  # maximum size of one unpacked file
READ_BYTES = 8 << 10  # at most so much is lost at the end of a truncated stream
IMAGES = 4_096
IMAGE_BYTES = 32 << 20
MOST_LISTED = 200_000  # images to list at most


@dataclass(frozen=True)
class SourceSample:
    """The `places` to convert instead of the sources. They represent `bytes` of the `total` bytes, which is None if
    there were too many files to list. `origins` maps each copy to its source. Unpacked copies take `packed` bytes in
    the work folder."""

    places: tuple[str, ...]
    bytes: int
    total: int | None
    sources: int
    packed: int = 0
    origins: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    """A sampled file, the bytes of the source that it represents, and the size of its unpacked copy."""

    place: str
    bytes: int
    packed: int = 0


def sample_texts(sources: Sequence[Source], options: CsvOptions, folder: Path) -> SourceSample:
    """Sample the first rows of some tables. A small source is used unchanged."""
    filled = [source for source in sources if source.bytes]
    chosen = filled[:: -(-len(filled) // SOURCES)]
    parts, origins = [], {}
    for number, source in enumerate(chosen):
        copies = folder / f"{number:04d}"
        target = copies.joinpath(*partition_folders(source), PurePath(source.path).name)
        target.parent.mkdir(parents=True)
        if is_archive(source.path):
            parts.append(_first_of_archive(source, options, PACKED_BYTES // len(chosen), target))
        else:
            packed = PurePath(source.path).suffix.lower() in COMPRESSED
            most = (PACKED_BYTES if packed else TEXT_BYTES) // len(chosen)
            parts.append(_first_of_file(source, options, most, target))
        origins[str(target)] = source.path
        if source.partitions:  # they are found in the names of the folders below the one that is given
            if parts[-1].place == source.path:
                target.write_bytes(locate(source.path).read_bytes())
            parts[-1] = replace(parts[-1], place=str(copies))
    return SourceSample(
        tuple(part.place for part in parts),
        sum(part.bytes for part in parts),
        sum(source.bytes for source in sources),
        len(sources),
        sum(part.packed for part in parts),
        origins,
    )


def _first_of_file(source: Source, options: CsvOptions, most: int, target: Path) -> _Part:
    match kind_of(source.path):
        case "Parquet":
            return _first_of_table(source, most, target)
        case "Arrow":
            return _first_of_arrow(source, most, target)
        case "JSON lines":
            return _first_of_lines(source, most, target)
        case _:
            return _first_of_text(source, options, most, target)


def _first_of_arrow(source: Source, most: int, target: Path) -> _Part:
    """A small Arrow file unchanged, or the first rows of a large one."""
    if source.bytes <= most:
        return _Part(source.path, source.bytes)
    with damage_in_words(source.path, "Arrow"), open_native(source.path) as file:
        if is_stream(source.path, source.path):
            batches = iter(pa.ipc.open_stream(file))
        else:
            whole = pa.ipc.open_file(file)
            batches = map(whole.get_batch, range(whole.num_record_batches))
        first = next(batches)
        first = first.slice(0, max(1, most * first.num_rows // max(1, first.nbytes)))
        with pa.ipc.new_file(target, first.schema) as writer:
            writer.write_batch(first)
    return _Part(str(target), min(source.bytes, first.nbytes))


def _first_of_lines(source: Source, most: int, target: Path) -> _Part:
    """Complete lines from about the first `most` bytes of JSON lines, with the source's compression."""
    suffix = PurePath(source.path).suffix.lower()
    raw = locate(source.path).read_range(0, min(most, source.bytes))
    data, used = _unpacked(raw, suffix)
    packed = len(PACKER.encode(data))
    if used == source.bytes:
        return _Part(source.path, source.bytes, packed)
    kept = data[: data.rfind(b"\n") + 1]
    if not kept:
        return _first_of_lines(source, 4 * most, target)
    target.write_bytes(_compressed(kept, suffix))
    share = len(kept) / len(data)
    return _Part(str(target), round(used * share), round(packed * share))


def _first_of_table(source: Source, most: int, target: Path) -> _Part:
    with opened(source.path) as file:
        rows = file.metadata.num_rows
        wanted = max(1, rows * most // source.bytes)
        if wanted >= rows:
            return _Part(source.path, source.bytes)
        batch = next(file.iter_batches(wanted))
    parquet.write_table(pa.Table.from_batches([batch]), target)
    return _Part(str(target), round(source.bytes * batch.num_rows / rows))


def _first_of_text(source: Source, options: CsvOptions, most: int, target: Path) -> _Part:
    """Complete rows from about the first `most` bytes of a CSV file, with the source's compression and encoding."""
    suffix = PurePath(source.path).suffix.lower()
    raw = locate(source.path).read_range(0, min(most, source.bytes))
    data, used = _unpacked(raw, suffix)
    encoding = find_encoding(data, options)
    unpacked = suffix in COMPRESSED or encoding != "utf-8"
    text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(data).encode() if unpacked else data
    packed = len(PACKER.encode(text)) if unpacked else 0
    if used == source.bytes:
        return _Part(source.path, source.bytes, packed)
    kept = _whole_rows(source.path, text.removeprefix(MARK_OF_UTF8), options)
    if not kept and used == len(raw):
        return _first_of_text(source, options, 4 * most, target)
    if not kept:
        raise SourceError(f"{source.path}: no row ends within {len(text):,} bytes; check that it is a valid CSV file")
    target.write_bytes(_compressed(kept.decode().encode(encoding, "replace") if unpacked else kept, suffix))
    share = len(kept) / len(text)
    return _Part(str(target), round(used * share), round(packed * share))


def _first_of_archive(source: Source, options: CsvOptions, most: int, target: Path) -> _Part:
    """A small archive unchanged, or the first rows of the first CSV file in a large one, compressed as the archive."""
    if source.bytes <= most:
        return _Part(source.path, source.bytes, source.bytes)
    with archive_in_words(source.path):
        for name, stream in archive_members(source.path):
            if not is_table(name.split("/")) or kind_of(name) != "CSV" or is_archive(name):
                continue
            data, _ = _unpacked(stream.read(UNPACKED_BYTES), PurePath(name).suffix.lower())
            text = data.decode(find_encoding(data, options), "replace").encode()
            kept = _whole_rows(source.path, text.removeprefix(MARK_OF_UTF8), options)
            copy = target.with_name(f"{PurePath(name).name.partition('.')[0]}.csv.gz")
            copy.write_bytes(packed := gzip.compress(kept, 1))
            return _Part(str(copy), min(source.bytes, len(packed)), len(PACKER.encode(kept)))
    raise SourceError(f"{source.path} contains no CSV files to estimate from; unpack it and name the files in it")


def _unpacked(raw: bytes, suffix: str) -> tuple[bytes, int]:
    """The decompressed start of a file, as far as it can be read, and the number of bytes that it takes in the file."""
    file, parts, length = io.BytesIO(raw), list[bytes](), 0
    stream = decompressed(file, suffix)
    with suppress(*BROKEN):  # it continues after what was read; a file that is really damaged fails its conversion
        while length < UNPACKED_BYTES and (data := stream.read(READ_BYTES)):
            parts.append(data)
            length += len(data)
    return b"".join(parts), file.tell()


def _compressed(text: bytes, suffix: str) -> bytes:
    """Text compressed as the suffix requires, at the fastest level."""
    match suffix:
        case ".gz":
            return gzip.compress(text, 1)
        case ".bz2":
            return bz2.compress(text, 1)
        case ".xz":
            return lzma.compress(text, preset=0)
        case ".zst":
            return bytes(pa.compress(text, "zstd", asbytes=True))
        case _:
            return text


def _whole_rows(path: str, text: bytes, options: CsvOptions) -> bytes:
    """A text without its last row, which may be truncated; empty if less than a header and a row remain."""
    if not text.strip():
        return b""
    begin = past_preamble(path, text, options, False)
    if begin is None:
        return b""
    before, _, own = begin
    if way := rewriting_of(path, text, options):
        plain, length = way.rewrite(text[before:], final=False)
        return text[: before + length] if count_lines(np.frombuffer(plain, np.uint8)) > 1 else b""
    marks, rows = find_dialect(path, text[before:], "utf-8", own).marks(), padded(text[before:])
    _, count, _ = count_rows(rows, False, marks)
    return text[: before + skip_rows(rows, count - 1, marks)] if count > 2 else b""


def sample_images(places: Sequence[str], folder: Path) -> SourceSample:
    """Sample images of folders, archives and patterns, evenly from the list of all, or of the first ones."""
    listed = list(islice(_listed(places), MOST_LISTED + 1))
    if not listed:
        raise SourceError(
            f"{places[0]} contains no images; name a folder, a pattern, or a .tar or .zip archive of images"
        )
    total = sum(image.length for _, _, image in listed)
    count = min(IMAGES, max(SOURCES, IMAGE_BYTES * len(listed) // total))
    chosen = listed[:: -(-len(listed) // count)]
    archives = {container: archive for container, archive, _ in chosen}
    copies = {container: folder / f"{number:04d}" for number, container in enumerate(archives)}
    for container, archive in archives.items():
        images = [image for place, _, image in chosen if place == container]
        if any(image.beside for image in images):
            copies[container] = _copy_shard(container, images, copies[container].with_suffix(".tar"))
            continue
        for image in images:
            target = copies[container] / _path_in_copy(image)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(_read(container, archive, image))
    return SourceSample(
        tuple(map(str, copies.values())),
        sum(image.length for _, _, image in chosen),
        None if len(listed) > MOST_LISTED else total,
        len(listed),
        origins={str(copy): container for container, copy in copies.items()},
    )


def _read(container: str, archive: bool, image: Listed) -> bytes:
    place = container if archive else f"{container}/{image.path}"
    return read_image(ImageFile(place, image.offset, image.length, image.packed))


def _copy_shard(container: str, images: Sequence[Listed], target: Path) -> Path:
    """Copy samples of a WebDataset shard with the labels beside them."""
    with tarfile.open(target, "w") as shard:
        for image in images:
            name = f"{sample_key(image.path)}.{FIELDS}"
            for path, data in ((image.path, _read(container, True, image)), (name, (image.beside or "{}").encode())):
                info = tarfile.TarInfo(path)
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))
    return target


def _listed(places: Sequence[str]) -> Iterator[tuple[str, bool, Listed]]:
    """The images of all sources, with the folder or archive that contains each. Raises SourceError for a source that
    does not exist."""
    tour = Tour()
    for place in places:
        for container, archive, images in open_place(place, tour):
            for image in images:
                if image.length and _stays_inside(image.path):
                    yield container, archive, image


def _stays_inside(path: str) -> bool:
    """Whether an archive member's path, joined to a folder, stays in that folder."""
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts


def _path_in_copy(image: Listed) -> str:
    """The path of an image's copy, chosen so that its class stays the same."""
    return image.path if image.name in (None, top_folder(image.path)) else f"{image.name}/{image.path}"
