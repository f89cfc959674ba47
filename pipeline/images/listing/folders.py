"""Walk folders of images: links are followed, and hidden and tool folders passed over."""

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ....storage.errors import SourceError
from ....storage.places.place import Entry, Place
from ..formats import fold_of, is_archive, is_image, is_passed_over, leads_past

BROKEN = "it is a link to a file that does not exist"


class FoundFile(NamedTuple):
    """An image or an archive in a folder: its path in the folder, its size and time, and what is wrong with it."""

    name: str
    size: int
    mtime_ns: int
    problem: str = ""


@dataclass
class Tour:
    """What was seen while walking all sources: which folders and files, so that none is listed twice, and what was
    passed over.

    `ignored` counts files that are no images, `hidden` the hidden and tool folders and files, `cycles` the links to a
    folder that contains them; `broken` are links to nothing other than images; `empty` are class folders without files,
    also those in a part of a split.
    """

    ignored: int = 0
    hidden: int = 0
    cycles: int = 0
    broken: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    _folders: dict[object, str] = field(default_factory=dict)
    _files: dict[object, set[str]] = field(default_factory=dict)

    def enter(self, folder: Place | str) -> object:
        """Note that everything in a folder is listed. Returns what identifies it. Raises SourceError if some of it is
        listed already."""
        identity = identity_of(folder)
        if earlier := self._walked(identity, below=True):
            raise SourceError(
                f"{folder}: it is part of the sources twice, also as {earlier}, by its name or through a link, so its "
                "images would be duplicated; name it once, or remove the link"
            )
        if names := self._files.get(identity):
            raise SourceError(f"{folder} and its file {min(names)} are both named; name only one of them")
        self._folders[identity] = str(folder)
        return identity

    def add_file(self, file: Place) -> None:
        """Note that a file that is named by itself is listed. Raises SourceError if it already is."""
        identity = identity_of(file.parent)
        names = self._files.setdefault(identity, set())
        folder = self._walked(identity)
        if folder or file.name in names:
            also = f"it is also in the source {folder}" if folder else "it is named twice"
            raise SourceError(f"{file}: {also}, so its images would be duplicated; name it once")
        names.add(file.name)

    def _walked(self, identity: object, below: bool = False) -> str | None:
        """The folder whose walk listed a folder, or, in a bucket, one that contains it, or one `below` it."""
        if not isinstance(identity, str):
            return self._folders.get(identity)
        for known, name in self._folders.items():
            if f"{identity}/".startswith(f"{known}/") or (below and f"{known}/".startswith(f"{identity}/")):
                return name
        return None

    def add_empty(self, path: str) -> None:
        """Note a folder without files, if it may be a class: one in a source, or in a part of a split."""
        first, *below = path.split("/")
        if not below or (len(below) == 1 and fold_of(first) is not None):
            self.empty.append(path)

    def keeps(self, path: str) -> bool:
        """Whether a path within a source is that of an image or an archive outside of hidden and tool folders; others
        are counted."""
        if leads_past(path):
            self.hidden += 1
        elif is_image(path) or is_archive(path):
            return True
        else:
            self.ignored += 1
        return False


def identity_of(folder: Place | str) -> object:
    """What tells a folder from others, however it is named: its device and inode, or its URL."""
    if isinstance(folder, Place) and folder.waits_for_network:
        return str(folder).rstrip("/")
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def walk_folder(folder: Place, tour: Tour) -> tuple[Place, Iterator[FoundFile]]:
    """The images and archives below a folder, and the folder to which their paths are relative.

    A folder that holds nothing but another one, which holds the folders of several classes, is unwrapped: the paths are
    relative to the inner folder. A folder's own files come before those of its subfolders, each sorted; those in a
    bucket are sorted by their names. Raises SourceError for a folder that cannot be read or is listed twice.
    """
    if folder.waits_for_network:
        tour.enter(folder)
        entries = [entry for entry in folder.walk() if tour.keeps(entry.name)]
        inner = common_folder([entry.name for entry in entries])
        place = folder / inner.rstrip("/") if inner else folder
        return place, (_without(entry, len(inner)) for entry in entries)
    base = os.fspath(folder)
    inner = _inner_folder(base)
    return (folder if inner == base else folder / os.path.relpath(inner, base)), _walk(inner, "", frozenset(), tour)


def _without(entry: Entry, cut: int) -> FoundFile:
    return FoundFile(entry.name[cut:], entry.size, entry.mtime_ns)


def common_folder(paths: Sequence[str]) -> str:
    """The folder, with a slash at its end, that holds all paths in at least two subfolders and none directly; empty if
    there is none."""
    inner = os.path.commonpath(paths) if paths else ""
    below = [path[len(inner) + 1 :] for path in paths]
    return f"{inner}/" if inner and all("/" in path for path in below) else ""


def _inner_folder(base: str) -> str:
    """The folder below `base` that holds the class folders, if `base` does nothing but wrap it; else `base`."""
    inner, passed = base, set[object]()
    while True:
        folders = _subfolders_alone(inner)
        if len(folders) > 1:
            return inner
        identity = identity_of(inner)
        if not folders or identity in passed:
            return base
        passed.add(identity)
        inner = os.path.join(inner, folders[0])


def _subfolders_alone(path: str) -> list[str]:
    """The first two subfolders of a folder; none if it has images or archives itself."""
    folders: list[str] = []
    with _scanned(path) as entries:
        for entry in entries:
            if is_passed_over(entry.name):
                continue
            if entry.is_dir():
                folders = [*folders, entry.name][:2]
            elif is_image(entry.name) or is_archive(entry.name):
                return []
    return folders


def _scanned(path: str) -> "os._ScandirIterator[str]":
    try:
        return os.scandir(path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}; check its permissions") from None


def _walk(path: str, inner: str, above: frozenset[object], tour: Tour) -> Iterator[FoundFile]:
    """Walk a folder, whose path in the source is `inner`, and note which of its subfolders have no files."""
    above = above | {tour.enter(path)}
    files, folders = _contents(path, tour)
    yield from _described(path, inner, files, tour)
    for name in folders:
        below = os.path.join(path, name)
        if _is_cycle(below, above, tour):
            continue
        others = tour.ignored + len(tour.broken)
        found = _walk(below, f"{inner}{name}/", above, tour)
        first = next(found, None)
        if first:
            yield first
            yield from found
        elif others == tour.ignored + len(tour.broken):
            tour.add_empty(inner + name)


def _is_cycle(path: str, above: frozenset[object], tour: Tour) -> bool:
    """Whether a folder is one of those that contain it, through a link; it is counted."""
    cycle = identity_of(path) in above
    tour.cycles += cycle
    return cycle


def _contents(path: str, tour: Tour) -> tuple[list[str], list[str]]:
    """The names of the images and archives in a folder and of its subfolders, sorted; others are counted."""
    files, folders = [], []
    with _scanned(path) as entries:
        for entry in entries:
            name = entry.name
            if is_passed_over(name):
                tour.hidden += 1
            elif entry.is_dir():
                folders.append(name)
            elif is_image(name) or is_archive(name):
                files.append(name)
            elif entry.is_symlink() and not entry.is_file():
                tour.broken.append(entry.path)
            else:
                tour.ignored += 1
    files.sort()
    folders.sort()
    return files, folders


def _described(path: str, inner: str, names: Sequence[str], tour: Tour) -> Iterator[FoundFile]:
    """Files with their size and time."""
    for name in names:
        try:
            status = os.stat(os.path.join(path, name))
        except FileNotFoundError:
            yield FoundFile(inner + name, 0, 0, BROKEN)
            continue
        except OSError as error:  # a link to itself, or into a folder that must not be read
            yield FoundFile(inner + name, 0, 0, f"it cannot be read ({error.strerror})")
            continue
        if stat.S_ISREG(status.st_mode):
            yield FoundFile(inner + name, status.st_size, status.st_mtime_ns)
        else:
            tour.ignored += 1
