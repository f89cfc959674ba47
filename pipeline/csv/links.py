"""Links in tar archives: the file that each one stands for, as if the archive were unpacked."""

import tarfile
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from posixpath import dirname, normpath

MOST_LINKS = 40  # on one path, as on Linux; with more it leads in a circle


@dataclass
class FollowedLinks:
    """The files that links stand for, by the paths of the links. `in_folders` are files in linked folders. `broken` are
    the links that lead out of the archive, nowhere or in a circle, `cycles` those to a folder that contains them, and
    `again` those to a folder that another link leads to."""

    files: dict[str, str] = field(default_factory=dict)
    in_folders: dict[str, dict[str, str]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    cycles: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)


def plain_path(name: str) -> str:
    """A member's path from the root of its archive."""
    return normpath(name).lstrip("/")


def follow_links(members: Sequence[tarfile.TarInfo]) -> FollowedLinks:
    """Follow the links of an archive."""
    links = {plain_path(member.name): _target_of(member) for member in members if member.islnk() or member.issym()}
    files = frozenset(plain_path(member.name) for member in members if member.isreg())
    tree = _Tree(files, links, _names_in_folders([*files, *links], (one.name for one in members if one.isdir())))
    found, walked = FollowedLinks(), set[str]()
    for path in links:
        real = tree.resolve(path)
        if real in tree.files:
            found.files[path] = real
        elif real is None or real not in tree.folders:
            found.broken.append(path)
        elif real in (above := {*_above(tree.resolve(dirname(path)) or "")}):
            found.cycles.append(path)
        else:
            found.in_folders[path] = dict(tree.below(path, real, above, walked, found.again))
    return found


def _target_of(member: tarfile.TarInfo) -> str:
    """The path to which a link leads from the root of the archive; outside of it, it begins with a slash."""
    if member.islnk():
        return plain_path(member.linkname)
    folder = "" if member.linkname.startswith("/") else f"{dirname(plain_path(member.name))}/"
    return folder.lstrip("/") + member.linkname


def _names_in_folders(paths: Iterable[str], folders: Iterable[str]) -> dict[str, dict[str, None]]:
    """The names in each folder, in their order."""
    found: dict[str, dict[str, None]] = {plain_path(folder): {} for folder in folders}
    for path in paths:
        while path:
            path, _, name = path.rpartition("/")
            if name in found.setdefault(path, {}):
                break
            found[path][name] = None
    return found


def _above(path: str) -> Iterator[str]:
    """A folder, and those that contain it."""
    yield path
    while path:
        path = dirname(path)
        yield path


@dataclass(frozen=True)
class _Tree:
    """The files and links of an archive, and the names in each folder."""

    files: frozenset[str]
    links: Mapping[str, str]
    folders: Mapping[str, Collection[str]]

    def resolve(self, path: str) -> str | None:
        """A path without links; None if it leads out of the archive or in a circle."""
        left, real, followed = deque(path.split("/")), list[str](), 0
        while left:
            part = left.popleft()
            if part in ("", "."):
                continue
            if part == "..":
                if not real:
                    return None
                real.pop()
                continue
            real.append(part)
            target = self.links.get("/".join(real))
            if target is not None:
                followed += 1
                if followed > MOST_LINKS or target.startswith("/"):
                    return None
                left.extendleft(reversed(target.split("/")))
                real = []
        return "/".join(real)

    def below(
        self, path: str, real: str, above: Collection[str], walked: set[str], again: list[str]
    ) -> Iterator[tuple[str, str]]:
        """The files in the folder `real` and below, as if it were at `path`, unless they are `walked` already. Folders
        in `above` contain it."""
        if real in walked:
            again.append(path)
            return
        walked.add(real)
        for name in self.folders[real]:
            inner = self.resolve(f"{real}/{name}") or ""
            if inner in self.files:
                yield f"{path}/{name}", inner
            elif inner in self.folders and inner not in above:
                yield from self.below(f"{path}/{name}", inner, {*above, real}, walked, again)
