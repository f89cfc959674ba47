"""The images in .tar and .zip archives, and the samples of WebDataset shards, whose files share a key."""

import json
import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from itertools import groupby
from typing import Any, NamedTuple

from ....storage.errors import SourceError
from ....storage.places.place import Place
from ...csv.links import follow_links, plain_path
from ..files import DEFLATED, STORED
from ..formats import is_image, leads_past
from .folders import Tour

CLASS, TEXT, FIELDS = "cls", "txt", "json"
"""The suffixes of labels beside an image in a WebDataset shard."""
MASK = re.compile(r"(^|[._-])(mask|seg|segmentation|semantic|instance|panoptic|matte|depth)s?\d*[._-]", re.IGNORECASE)
"""What the name of an image contains, after its key, if it is the target of another one."""


class Listed(NamedTuple):
    """An image: its path within its container, where its bytes are in it, its class if its location implies one, its
    file's modification time, what is wrong with its file, the labels beside it in its archive, as JSON, and its
    checksum, or -1."""

    path: str
    offset: int
    length: int
    packed: int
    name: str | None
    changed: int = 0
    problem: str = ""
    beside: str | None = None
    crc: int = -1

    def __str__(self) -> str:
        """What is hashed: datasets of earlier versions have hashes of these fields."""
        path, offset, length, packed, name, changed, problem, beside, _ = self
        more = f", {problem=}, {beside=}" if problem or beside else ""
        return f"Listed({path=}, {offset=}, {length=}, {packed=}, {name=}, {changed=}{more})"


def top_folder(path: str) -> str | None:
    """The first folder of a path, which is the image's class; None if there is none."""
    first, separator, _ = path.partition("/")
    return first if separator else None


def open_archive(place: Place, tour: Tour) -> Iterator[Listed]:
    """The images in a tar or zip archive, in its order. A folder that contains all of them is not a class."""
    folders: list[str] = []
    try:
        with place.open_stream() as stream:
            is_zip = str(place).lower().endswith(".zip")
            files = list(_zip_members(stream, place, folders) if is_zip else _tar_members(stream, place, folders, tour))
    except FileNotFoundError:
        raise SourceError(f"{place} does not exist; check the path") from None
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise SourceError(f"{place} cannot be read as an archive ({error}); pack it again, uncompressed") from None
    images = [file for file in files if tour.keeps(file.path) and is_image(file.path)]
    pictures = images if is_zip else [image for image in images if not _is_mask(image.path)]
    if pictures:
        tour.ignored += len(images) - len(pictures)
        images = pictures
    empty = _empty_folders(folders, files)
    cut = len(_wrapping([image.path for image in images], empty))
    for folder in empty:
        tour.add_empty(folder[cut:])
    for image in images:
        path = image.path[cut:]
        yield image._replace(path=path, name=image.name or top_folder(path))


def _wrapping(paths: Sequence[str], empty: Sequence[str]) -> str:
    """The folder, with a slash at its end, that contains all images and empty folders, and is not a class."""
    inner = ""
    while paths:
        tops = {top_folder(path[len(inner) :]) for path in (*paths, *(f"{folder}/" for folder in empty))}
        (top, *others) = tops
        if others or not top:
            break
        inner += f"{top}/"
    return inner


def _empty_folders(folders: Iterable[str], files: Sequence[Listed]) -> list[str]:
    """The folders that contain nothing, apart from what is passed over."""
    filled = {part for file in files if not leads_past(file.path) for part in _above(file.path)}
    return [folder for folder in dict.fromkeys(folders) if folder not in filled and not leads_past(folder)]


def _above(path: str) -> Iterator[str]:
    """The folders that contain a path."""
    at = path.rfind("/")
    while at > 0:
        yield path[:at]
        at = path.rfind("/", 0, at)


def _zip_members(stream: object, place: Place, folders: list[str]) -> Iterator[Listed]:
    with zipfile.ZipFile(stream) as archive:  # type: ignore[call-overload]
        for info in archive.infolist():
            if info.is_dir():
                folders.append(info.filename.rstrip("/"))
                continue
            if info.flag_bits & 1 or info.compress_type not in (STORED, DEFLATED):
                raise SourceError(
                    f"{place}: {info.filename} is encrypted or uses an unsupported compression; pack it again"
                )
            yield Listed(info.filename, info.header_offset, info.compress_size, info.compress_type, None, crc=info.CRC)


def _tar_members(stream: object, place: Place, folders: list[str], tour: Tour) -> Iterator[Listed]:
    """The files of a tar archive; those whose names differ only after the first dot form one WebDataset sample."""
    with tarfile.open(fileobj=stream, mode="r:") as archive:  # type: ignore[call-overload]
        for _, group in groupby(_files(archive, place, folders, tour), key=lambda member: sample_key(member.name)):
            members = list(group)
            beside = _labels_beside(archive, members)
            name = beside.get(CLASS) if beside else None
            for member in members:
                yield Listed(
                    member.name,
                    member.offset_data,
                    member.size,
                    -1,
                    None if name is None else str(name),
                    beside=json.dumps(beside) if beside and beside.keys() != {CLASS} else None,
                )


def _files(archive: tarfile.TarFile, place: Place, folders: list[str], tour: Tour) -> Iterator[tarfile.TarInfo]:
    """The files of an archive, also those that links stand for; its folders are added to `folders`."""
    members = archive.getmembers()
    folders += [member.name.rstrip("/") for member in members if member.isdir()]
    linked = _linked_files(members, place, tour) if any(one.issym() or one.islnk() for one in members) else {}
    for member in members:
        if member.isreg() and not member.issparse():
            yield member
        elif not member.isdir():
            for inner, file in linked.get(plain_path(member.name), {}).items():
                (named := copy(file)).name = member.name + inner
                yield named


Linked = dict[str, dict[str, tarfile.TarInfo]]
"""The files that a link stands for, by their paths below it; that of a link to a file is empty."""


def _linked_files(members: Sequence[tarfile.TarInfo], place: Place, tour: Tour) -> Linked:
    """What links stand for, by their paths. Those that lead nowhere or in a circle are noted.

    Raises SourceError for a link to a folder whose images are listed anyway.
    """
    links = follow_links(members)
    files = {plain_path(member.name): member for member in members if member.isreg()}
    tour.cycles += len(links.cycles)
    tour.broken += [f"{place}/{path}" for path in links.broken if not leads_past(path)]
    found: Linked = {path: {"": files[real]} for path, real in links.files.items()}
    for path, inside in links.in_folders.items():
        images = {inner: real for inner, real in inside.items() if is_image(inner) and not leads_past(inner)}
        if twice := [*(real for real in images.values() if not leads_past(real)), *(links.again if images else ())]:
            raise SourceError(
                f"{place}: {path} is a link to a folder whose images are part of the archive twice, also as "
                f"{twice[0]}; pack it without the link"
            )
        found[path] = {inner.removeprefix(path): files[real] for inner, real in inside.items()}
    return found


def sample_key(path: str) -> str:
    """What the files of a WebDataset sample have in common: the path up to the first dot of the name."""
    folder, separator, name = path.rpartition("/")
    return folder + separator + name.partition(".")[0]


def _is_mask(path: str) -> bool:
    return MASK.search(path.rpartition("/")[2].partition(".")[2]) is not None


def _labels_beside(archive: tarfile.TarFile, members: Sequence[tarfile.TarInfo]) -> dict[str, Any]:
    """The labels of a sample: the text of its .cls and .txt, and the fields of its .json; none without an image."""
    found: dict[str, Any] = {}
    if not any(is_image(member.name) for member in members):
        return found
    for member in members:
        suffix = member.name.rpartition(".")[2].lower()
        if suffix not in (CLASS, TEXT, FIELDS) or not (content := archive.extractfile(member)):
            continue
        text = content.read().decode(errors="replace").strip()
        if suffix != FIELDS:
            found[suffix] = text
            continue
        try:
            fields = json.loads(text)
        except ValueError:
            fields = None  # as if it had no fields: an image whose label is needed is named
        found = (fields if isinstance(fields, dict) else {FIELDS: fields}) | found
    return found
