"""Archives of tables: the files in a .zip or .tar archive, one after another, as streams that are read once."""

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from posixpath import normpath
from typing import Any

from ...storage.errors import SourceError
from ...storage.places.locate import locate
from .open import BROKEN, decompressed

TARS = {".tar": "", ".tar.gz": ".gz", ".tgz": ".gz", ".tar.bz2": ".bz2", ".tar.xz": ".xz", ".tar.zst": ".zst"}
ZIP = ".zip"
TAR_END = bytes(512)
DAMAGED: tuple[type[Exception], ...] = (*BROKEN, tarfile.TarError, zipfile.BadZipFile, zlib.error)


def is_archive(name: str) -> bool:
    """Whether a file is an archive, judging by its name."""
    return name.lower().endswith((ZIP, *TARS))


def archive_members(path: str) -> Iterator[tuple[str, Any]]:
    """The name and the stream of each file of an archive, in its order. A stream is valid until the next is asked for.

    Raises SourceError for an encrypted file.
    """
    with closing(locate(path).open_stream()) as raw:
        if path.lower().endswith(ZIP):
            yield from _zip_members(path, raw)
            return
        suffix = next(packed for name, packed in TARS.items() if path.lower().endswith(name))
        if not suffix:
            _check_end(path)
        with closing(decompressed(raw, suffix)) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.isreg():
                    yield normpath(member.name), archive.extractfile(member)


def _zip_members(path: str, raw: Any) -> Iterator[tuple[str, Any]]:
    with zipfile.ZipFile(raw) as archive:
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
