"""What a power failure may leave of a folder: a model of the disk that follows the system calls of a command.

`strace` sees every call, whichever library makes it. A disk keeps the content of a file as of the file's last fsync,
and the names in a folder as of the folder's last fsync. What has changed since may be there, or not, in any order.
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..programs import find_program

CALLS = (
    "open,openat,creat,write,pwrite64,lseek,ftruncate,truncate,fsync,fdatasync,sync_file_range,rename,renameat,"
    "renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat"
)
LINE = re.compile(r"(\d+) +(\w+)\((.*)\) += (\d+)(?:<(.*)>)?$")
UNFINISHED, RESUMED = re.compile(r"(\d+) +(.*) <unfinished \.\.\.>$"), re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)$")
PATH_OF = re.compile(r"^(?:AT_FDCWD|-?\d+)<(.*)>(\(deleted\))?$")
Argument = bytes | int | str


@dataclass(frozen=True)
class Call:
    """A system call that succeeded. Descriptors are the paths of their files, and None if those are removed."""

    name: str
    arguments: list[str]
    result: int
    path: str = ""
    """The path of the returned descriptor."""

    def text(self, at: int) -> bytes:
        """A string among the arguments."""
        return bytes.fromhex(self.arguments[at].strip('"').replace("\\x", ""))

    def number(self, at: int) -> int:
        return int(self.arguments[at])

    def descriptor(self, at: int) -> str | None:
        """The path of an open file."""
        found = PATH_OF.match(self.arguments[at])
        return None if not found or found[2] else unescape(found[1])

    def place(self, at: int, folder: int | None = None) -> str:
        """A path among the arguments, relative to the folder that another one names."""
        path = os.fsdecode(self.text(at))
        return path if folder is None or path.startswith("/") else f"{self.descriptor(folder)}/{path}"


def unescape(text: str) -> str:
    return os.fsdecode(bytes.fromhex(text.replace("\\x", "")))


def trace(command: Sequence[str], log: Path) -> Iterator[Call]:
    """Run a command, and yield the system calls of all of its threads and processes that change files."""
    strace = [find_program("strace"), "-f", "-y", "-xx", "-s", str(1 << 24), "--seccomp-bpf"]
    done = subprocess.run([*strace, "-o", log, "-e", f"trace={CALLS}", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    begun: dict[str, str] = {}
    for line in log.read_text().splitlines():
        if parts := UNFINISHED.match(line):
            begun[parts[1]] = parts[2]
            continue
        if parts := RESUMED.match(line):
            line = f"{parts[1]} {begun.pop(parts[1])}{parts[2]}"
        if parts := LINE.match(line):
            yield Call(parts[2], parts[3].split(", "), int(parts[4]), unescape(parts[5] or ""))


@dataclass(eq=False)
class File:
    """A file: its data, and what of it is durable."""

    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""

    def left(self, keep: Callable[[], float]) -> bytes:
        """What is left of it: with 1 all data, with 0 what is durable, in between a part of the data."""
        if self.durable == self.data or not (share := keep()):
            return self.durable
        return bytes(self.data[: int(share * len(self.data))])


@dataclass(eq=False)
class Folder:
    """A folder: its names, those that are durable, and the changes since."""

    names: dict[str, "File | Folder"] = field(default_factory=dict)
    durable: dict[str, "File | Folder"] = field(default_factory=dict)
    changes: list[dict[str, "File | Folder | None"]] = field(default_factory=list)

    def change(self, names: dict[str, "File | Folder | None"]) -> None:
        """Add, replace or remove (None) names at once."""
        self.names = changed(self.names, names)
        self.changes.append(names)

    def sync(self) -> None:
        self.durable, self.changes = self.names, []

    def left(self, keep_name: Callable[[], bool]) -> dict[str, "File | Folder"]:
        """The names that are left, after some of the changes."""
        names = self.durable
        for change in self.changes:
            if keep_name():
                names = changed(names, change)
        return names


def changed(names: dict[str, File | Folder], change: dict[str, File | Folder | None]) -> dict[str, File | Folder]:
    return {name: node for name, node in (names | change).items() if node is not None}


Tree = dict[str, bytes]
"""The files of a folder by their relative paths; empty folders end with a slash."""


def tree_of(folder: Folder, keep_name: Callable[[], bool], keep_data: Callable[[], float]) -> Tree:
    tree: Tree = {}
    for name, node in sorted(folder.left(keep_name).items()):
        if isinstance(node, File):
            tree[name] = node.left(keep_data)
        else:
            inner = tree_of(node, keep_name, keep_data)
            tree |= {f"{name}/{path}": data for path, data in inner.items()} or {f"{name}/": b""}
    return tree


class Disk:
    """A folder at `root`, with durable files when a command begins."""

    def __init__(self, root: Path, files: Tree) -> None:
        self.root, self.top = str(root), Folder()
        self.positions: dict[tuple[File, int], int] = {}
        for name, data in files.items():
            folder = self.top
            *parents, last = name.split("/")
            for parent in parents:
                inner = folder.names.get(parent, Folder())
                assert isinstance(inner, Folder)
                folder.change({parent: inner})
                folder.sync()
                folder = inner
            if last:
                folder.change({last: File(bytearray(data), data)})
                folder.sync()

    def now(self) -> Tree:
        """All files as programs see them."""
        return tree_of(self.top, lambda: True, lambda: 1.0)

    def after_power_failure(self, draws: np.random.Generator) -> list[Tree]:
        """States in which a power failure may leave the folder: nothing is left but what is durable; all names are
        left, of files that are empty or torn; and what draws decide."""
        return [
            tree_of(self.top, lambda: False, lambda: 0.0),
            tree_of(self.top, lambda: True, lambda: 0.0),
            tree_of(self.top, lambda: True, lambda: 0.5),
            tree_of(self.top, lambda: bool(draws.integers(2)), lambda: float(draws.integers(3)) / 2),
        ]

    def apply(self, call: Call) -> bool:
        """Follow a call. Returns whether it has changed what is on the disk, or what of it is durable."""
        match call.name:
            case "open" | "openat" | "creat":
                return self._open(call)
            case "write" | "pwrite64" | "lseek" | "ftruncate" | "fsync" | "fdatasync":
                return self._change_file(call)
            case "mkdir":
                return self._add(call.place(0), Folder())
            case "mkdirat":
                return self._add(call.place(1, 0), Folder())
            case "unlink" | "rmdir":
                return self._add(call.place(0), None)
            case "unlinkat":
                return self._add(call.place(1, 0), None)
            case "link":
                return self._move(call.place(0), call.place(1), keep=True)
            case "linkat":
                return self._move(call.place(1, 0), call.place(3, 2), keep=True)
            case "rename":
                return self._move(call.place(0), call.place(1))
            case "renameat" | "renameat2":
                return self._move(call.place(1, 0), call.place(3, 2))
        return False

    def _has(self, path: str | None) -> bool:
        return path is not None and path.startswith(f"{self.root}/")

    def _node(self, path: str) -> File | Folder | None:
        node: File | Folder | None = self.top
        for name in path.removeprefix(self.root).split("/")[1:]:
            node = node.names.get(name) if isinstance(node, Folder) else None
        return node

    def _folder(self, path: str) -> Folder:
        folder = self._node(os.path.dirname(path))
        assert isinstance(folder, Folder), path
        return folder

    def _add(self, path: str, node: File | Folder | None) -> bool:
        if self._has(path):
            self._folder(path).change({os.path.basename(path): node})
        return self._has(path)

    def _move(self, old: str, new: str, keep: bool = False) -> bool:
        if not self._has(new):
            return self._add(old, None) and not keep
        names: dict[str, File | Folder | None] = {os.path.basename(new): self._node(old)}
        if not keep and os.path.dirname(old) == os.path.dirname(new):
            names[os.path.basename(old)] = None
        elif not keep:
            self._add(old, None)
        self._folder(new).change(names)
        return True

    def _open(self, call: Call) -> bool:
        flags = next((part for part in call.arguments if part.startswith("O_")), "O_CREAT|O_TRUNC|O_WRONLY")
        if not self._has(call.path) or ("O_WRONLY" not in flags and "O_RDWR" not in flags):
            return False
        node = self._node(call.path)
        created = node is None
        if created:
            self._add(call.path, node := File())
        assert isinstance(node, File)
        if emptied := "O_TRUNC" in flags and len(node.data) > 0:
            node.data.clear()
        self.positions[node, call.result] = len(node.data) if "O_APPEND" in flags else 0
        return created or emptied

    def _change_file(self, call: Call) -> bool:
        path = call.descriptor(0)
        node = self._node(path) if path and (path == self.root or self._has(path)) else None
        if isinstance(node, Folder):
            node.sync()
        if not isinstance(node, File):
            return isinstance(node, Folder)
        at = node, int(call.arguments[0].partition("<")[0])
        match call.name:
            case "fsync" | "fdatasync":
                node.durable = bytes(node.data)
            case "lseek":
                self.positions[at] = call.result
            case "ftruncate":
                del node.data[call.number(1) :]
            case "write" | "pwrite64":
                start = self.positions.get(at, 0) if call.name == "write" else call.number(3)
                data = call.text(1)[: call.result]
                node.data[start : start + len(data)] = data
                self.positions[at] = start + len(data) if call.name == "write" else self.positions.get(at, 0)
        return call.name != "lseek"


def read_tree(root: Path) -> Tree:
    """The files of a real folder."""
    tree = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return tree | {
        f"{path.relative_to(root)}/": b"" for path in root.rglob("*") if path.is_dir() and not any(path.iterdir())
    }


def write_tree(root: Path, tree: Tree) -> None:
    for name, data in tree.items():
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(data)
