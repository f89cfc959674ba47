"""Archives of tables: the files in a .zip or .tar archive, one after another, as streams that are read once."""

import logging
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from posixpath import normpath
from typing import Any

from ...storage.errors import SourceError
from ...storage.places.locate import locate
from .links import follow_links, plain_path
from .open import BROKEN, decompressed

TARS = {".tar": "", ".tar.gz": ".gz", ".tgz": ".gz", ".tar.bz2": ".bz2", ".tar.xz": ".xz", ".tar.zst": ".zst"}
ZIP = ".zip"
TAR_END = bytes(512)
_log = logging.getLogger("foldstream.pipeline.csv")
DAMAGED: tuple[type[Exception], ...] = (*BROKEN, tarfile.TarError, zipfile.BadZipFile, zlib.error)


def is_archive(name: str) -> bool:
    """Whether a file is an archive, judging by its name."""
    return name.lower().endswith((ZIP, *TARS))


def archive_members(path: str, wanted: Callable[[str], bool] = bool) -> Iterator[tuple[str, Any]]:
    """The name and the stream of each file of an archive, in its order, and then of the `wanted` files that links stand
    for. A stream is valid until the next is asked for.

    Raises SourceError for an encrypted file, and for a link to a folder of wanted files.
    """
    if path.lower().endswith(ZIP):
        yield from _zip_members(path)
        return
    if _suffix_of_tar(path) == "":
        _check_end(path)
    members = list[tarfile.TarInfo]()
    for member, stream in _tar_members(path):
        members.append(member)
        if member.isreg():
            yield normpath(member.name), stream
    linked = _linked_files(path, members, wanted)
    while linked:  # the archive is read again, since a stream is read once
        names = {file: name for name, file in linked.items()}
        linked = {name: file for name, file in linked.items() if names[file] != name}
        for member, stream in _tar_members(path):
            if member.isreg() and (name := names.pop(plain_path(member.name), "")):
                yield name, stream


def _suffix_of_tar(path: str) -> str:
    return next(packed for name, packed in TARS.items() if path.lower().endswith(name))


def _tar_members(path: str) -> Iterator[tuple[tarfile.TarInfo, Any]]:
    with (
        closing(locate(path).open_stream()) as raw,
        closing(decompressed(raw, _suffix_of_tar(path))) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        for member in archive:
            yield member, archive.extractfile(member) if member.isreg() else None


def _linked_files(path: str, members: Sequence[tarfile.TarInfo], wanted: Callable[[str], bool]) -> dict[str, str]:
    """The files that links stand for, by the names of the wanted links."""
    if not any(member.islnk() or member.issym() for member in members):
        return {}
    links = follow_links(members)
    for name in filter(wanted, links.broken):
        _log.warning("%s/%s: skipped because it is a link to a file that the archive does not have", path, name)
    found = {name: file for name, file in links.files.items() if wanted(name)}
    for link, inside in links.in_folders.items():
        tables = {name: file for name, file in inside.items() if wanted(name)}
        if twice := [*filter(wanted, tables.values()), *(links.again if tables else ())]:
            raise SourceError(
                f"{path}: {link} is a link to a folder whose files are part of the archive twice, also as "
                f"{twice[0]}, so their rows would be duplicated; pack it without the link"
            )
        found |= tables
    return found


def _zip_members(path: str) -> Iterator[tuple[str, Any]]:
    with closing(locate(path).open_stream()) as raw, zipfile.ZipFile(raw) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if info.flag_bits & 1:
                raise SourceError(f"{path}: {info.filename} is encrypted; unpack the archive and name the files in it")
            with archive.open(info) as stream:
                yield normpath(info.filename), stream


def _check_end(path: str) -> None:
    """Raise SourceError for a tar archive that does not end with zeros: it may have been cut between two files."""
    place = locate(path)
    size = place.describe().size
    if place.read_range(max(0, size - len(TAR_END)), len(TAR_END)) != TAR_END:
        raise SourceError(f"{path} is not a complete archive (its end is missing); download or pack it again")


@contextmanager
def archive_in_words(path: str) -> Iterator[None]:
    """Raise SourceError for an archive that turns out to be damaged while it is read."""
    try:
        yield
    except NotImplementedError as error:  # a compression method of zip
        raise SourceError(f"{path} cannot be unpacked ({error}); unpack it and name the files in it") from None
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise SourceError(f"{path} is not a complete archive ({error}); download or pack it again") from None
