"""The user's code: the files that belong to it, and copies of them, by which a run keeps its code.

An option names code as `path/to/file.py:name` or `package.module:name`. A file, or a module in the current folder or
beside the script that runs, is the user's own: it travels with the run. So do the files of the same folder that it
imports, which its source tells, those that they import, and the assets that the user names. What is installed does not.

    code = collect_code(["models/net.py:make"], ["models/words.json"])
    code.names                       {"models/net.py:make": "net.py:make"}, as in a copy, relative to its folder
    code.hashes                      {"net.py": "1f…", "layers.py": "a0…", "words.json": "7c…"}
    copy_code(code, folder)          a copy, in a run's folder or elsewhere
    verify_code(folder, hashes)      raises ConflictError with the names of the files that differ
    name_in(folder, "net.py:make")   "folder/./net.py:make", a name for every option that takes code

In a name, `/./` ends the folder from which modules are imported; without it, that is the folder of the file or of its
outermost package. `loading.py` imports what a name stands for.
"""

import ast
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ..errors import ConflictError, UsageError
from ..places.json_files import content_hash
from ..places.locate import locate
from ..places.place import Place, Status
from .user_code import OTHERS

MOST_FILES = 500
"""A run takes no more files of the user's with it: more are a package, or the wrong folder."""
PART_BYTES = 1 << 24
ROOT = "/./"  # in a name, the end of the folder from which modules are imported


class Entry(NamedTuple):
    """A function or class in a file of the user's, which is relative to the folder from which modules are imported."""

    root: Place
    file: str
    attribute: str

    @property
    def place(self) -> Place:
        return self.root / self.file


@dataclass(frozen=True)
class Code:
    """Files of the user's, by their paths in a copy, their hashes, and what names of code become in a copy."""

    names: dict[str, str] = field(default_factory=dict)
    files: dict[str, Place] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    assets: tuple[str, ...] = ()
    """Those of the files that the user named, sorted."""

    def describe(self) -> str:
        """The files and their size, in words."""
        names, size = sorted(self.files), sum(place.describe().size for place in self.files.values())
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more files" if len(names) > 5 else "")
        return f"{shown}, {size:,} bytes: the run keeps a copy"


def find_entry(name: str) -> Entry | None:
    """The file of the user's in which code lies. None for what is installed or built in."""
    module, _, attribute = name.rpartition(":")
    if module.endswith(".py"):
        root, marked, file = module.rpartition(ROOT)
        if marked:
            return Entry(_place(root), file, attribute)
        place, names = _place(module), list[str]()
        for _ in range(_depth(place) + 1):
            names.insert(0, place.name)
            place = place.parent
        return Entry(place, "/".join(names), attribute)
    path = module.replace(".", "/")
    for folder in import_folders() if module else ():
        if (files := _Folder(folder).find(module)) and files[-1] in (f"{path}.py", f"{path}/__init__.py"):
            return Entry(folder, files[-1], attribute)
    return None


def _place(path: str) -> Place:
    return locate(path if "://" in path else os.path.abspath(path))


def _depth(file: Place) -> int:
    """The number of packages around a file: folders with an `__init__.py`, or as many as its imports with dots need."""
    try:
        levels = [level for level, _, _ in imports_of(file.read_bytes())]
    except (OSError, SyntaxError, ValueError):  # who loads it tells what is wrong
        levels = []
    depth, folder = 0, file.parent
    while (folder / "__init__.py").is_file():
        depth, folder = depth + 1, folder.parent
    return max([depth, *levels])


def import_folders() -> list[Place]:
    """The folders, besides that of the code, in which modules are the user's own: the current one, and the script's."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    folders = list[Path]()
    with suppress(FileNotFoundError):  # Ray may remove the folder of a job that runs
        here = Path.cwd()  # a checkout of ours is a folder like others
        folders += [] if any(map(here.is_relative_to, OTHERS[1:])) else [here]
        beside = [Path(script).absolute().parent] if script else []
        folders += [folder for folder in beside if not any(map(folder.is_relative_to, OTHERS))]
    return [locate(folder) for folder in dict.fromkeys(folders)]


def imports_of(source: bytes) -> list[tuple[int, str, tuple[str, ...]]]:
    """All imports in a source: the number of dots, the module, and the names that are taken from it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", tuple(alias.name for alias in node.names)))
        elif isinstance(node, ast.Import):
            found += [(0, alias.name, ()) for alias in node.names]
    return found


class _Folder:
    """A folder from which modules are imported."""

    def __init__(self, root: Place) -> None:
        self.root = root

    def find(self, module: str, taken: Sequence[str] = ()) -> list[str]:
        """The files of a module, which those of the packages around it precede, and of the modules among the names
        that are `taken` from it. Empty if it is not in this folder."""
        files, folder = list[str](), ""
        for part in filter(None, module.split(".")):
            found, folder = self._module(folder, part)
            files += found
            if not folder:
                return files
        return files + [file for name in taken for file in self._module(folder, name)[0]]

    def _module(self, folder: str, name: str) -> tuple[list[str], str]:
        """The file of a module in a folder, and its own folder if it is a package, which may have no file."""
        inner, alone = f"{folder}{name}/", f"{folder}{name}.py"
        if (self.root / f"{inner}__init__.py").is_file():
            return [f"{inner}__init__.py"], inner
        if (self.root / alone).is_file():
            return [alone], ""
        return [], inner if (self.root / inner.removesuffix("/")).is_dir() else ""


def collect_code(names: Iterable[str], assets: Iterable[str] = ()) -> Code:
    """The user's files that belong to the code that options name, of which some may be built in, and to its assets:
    files and folders.

    Raises UsageError for files that do not exist, that cannot lie in one folder, or that are too many.
    """
    entries = {name: entry for name in names if (entry := find_entry(name))}
    files = dict[str, Place]()
    for name, entry in entries.items():
        if not entry.place.is_file():
            raise UsageError(f"{entry.place}: the file does not exist; check the path")
        roots = [entry.root, *(() if is_copy(name) else import_folders())]
        _add_modules(entry, {root: _Folder(root) for root in roots}, files)
    named, copies = dict[str, Place](), [entry.root for name, entry in entries.items() if is_copy(name)]
    for asset in assets:
        _add_asset(_place(asset), _roots_of(files), copies, named)
    for file, place in named.items():
        _add(files, file, place)
    return Code(
        {name: f"{entry.file}:{entry.attribute}" for name, entry in entries.items()},
        files,
        {file: hash_of(place) for file, place in files.items()},
        tuple(sorted(named)),
    )


def _add_modules(entry: Entry, folders: Mapping[Place, _Folder], files: dict[str, Place]) -> None:
    """Add a file and all that it imports from the given folders, its own first."""
    packages = _Folder(entry.root).find(entry.file.removesuffix(".py").replace("/", "."))
    waiting = [(entry.root, file) for file in {*packages, entry.file}]
    while waiting:
        root, file = waiting.pop()
        if not _add(files, file, root / file):
            continue
        try:
            imports = imports_of((root / file).read_bytes())
        except (SyntaxError, ValueError):  # who loads it tells what is wrong
            continue
        for level, module, taken in imports:
            inside = f"{'.'.join(file.split('/')[:-level])}.{module}" if level else module
            standard = not level and module.partition(".")[0] in sys.stdlib_module_names
            for folder in [folders[root], *(() if level or standard else folders.values())]:
                if found := folder.find(inside, taken):
                    waiting += [(folder.root, one) for one in found]
                    break


def _add(files: dict[str, Place], file: str, place: Place) -> bool:
    """Add a file under its path in a copy. Returns whether it is new."""
    if (known := files.get(file)) is not None:
        if known != place and hash_of(known) != hash_of(place):
            raise UsageError(f"{place} and {known} would both be {file} in the run's folder; rename one of them")
        return False
    files[file] = place
    if len(files) > MOST_FILES:
        raise UsageError(
            f"{place}: the code needs more than {MOST_FILES} files; install it as a package and use "
            "package.module:name, or name fewer assets"
        )
    return True


def _roots_of(files: Mapping[str, Place]) -> list[Place]:
    """The folders that files are relative to."""
    roots = list[Place]()
    for file, place in files.items():
        for _ in file.split("/"):
            place = place.parent
        roots += [place] * (place not in roots)
    return roots


def _add_asset(asset: Place, roots: Sequence[Place], copies: Sequence[Place], files: dict[str, Place]) -> None:
    """Add a file, or all files in a folder that are not hidden, relative to each of the folders around it, or to the
    copy of code in which it lies."""
    if not roots:
        raise UsageError(f"--asset {asset}: no file of yours is used that could read it; remove the option")
    around = [root for root in roots if str(asset).startswith(f"{str(root).rstrip('/')}/")]
    if not around:
        raise UsageError(
            f"--asset {asset} does not lie beside the code, in {roots[0]}; move it there, or name the code as "
            "package.module:name from a folder above both"
        )
    inside = [""] if asset.is_file() else [f"/{entry.name}" for entry in asset.walk() if _seen(entry.name)]
    if not inside:
        raise UsageError(f"--asset {asset}: there is no such file or folder, or it is empty; check the path")
    for root in [root for root in around if root in copies] or around:
        base = str(asset)[len(str(root).rstrip("/")) + 1 :]
        for name in inside:
            _add(files, base + name, root / (base + name))


def _seen(name: str) -> bool:
    return not any(part.startswith(".") or part == "__pycache__" for part in name.split("/"))


def hash_of(place: Place) -> str:
    """SHA-256 of a file. Raises FileNotFoundError."""
    status = place.describe()
    return _hash_of_large(place, status) if status.size > PART_BYTES else content_hash(place.read_bytes())


@cache
def _hash_of_large(place: Place, status: Status) -> str:
    """It takes seconds, so it is kept as long as size and time of the last change are the same."""
    digest = hashlib.sha256()
    for part in _parts(place):
        digest.update(part)
    return digest.hexdigest()


def _parts(place: Place) -> Iterator[bytes]:
    with place.open_stream() as stream:
        while part := stream.read(PART_BYTES):
            yield part


def copy_code(code: Code, folder: Place) -> None:
    """Copy the files into a folder. Raises ConflictError for one that has changed since they were collected."""
    for file, place in code.files.items():
        _, found = (folder / file).write_parts(_parts(place))
        if found != code.hashes[file]:
            raise ConflictError(f"{place} has just changed; run the same command again")


def verify_code(folder: Place, hashes: Mapping[str, str]) -> None:
    """Raise ConflictError, with their names, if files of a copy are missing or have changed."""
    changed = [file for file, known in hashes.items() if _hash_or_none(folder / file) != known]
    if changed:
        verb = "is missing or has" if len(changed) == 1 else "are missing or have"
        raise ConflictError(
            f"{', '.join(str(folder / file) for file in changed[:5])} {verb} changed since the run was started; "
            "restore the code, or start a new run"
        )


def _hash_or_none(place: Place) -> str | None:
    try:
        return hash_of(place)
    except FileNotFoundError:
        return None


def is_copy(name: str) -> bool:
    """Whether a name says from which folder modules are imported: they are looked for nowhere else."""
    return ROOT in name


def is_gone(name: str, copied: str) -> bool:
    """Whether the code that a name stands for is not where it was when it was `copied` under another name."""
    (module, _, attribute), (file, _, known) = name.rpartition(":"), copied.rpartition(":")
    same = module.endswith(Path(file).name) or module.replace(".", "/") == file.removesuffix(".py")
    entry = find_entry(name)
    return attribute == known and same and (entry is None or not entry.place.is_file())


def name_in(folder: Place | str, name: str) -> str:
    """The name of code in a copy, from its name relative to the copy's folder."""
    return f"{folder}{ROOT}{name}"
