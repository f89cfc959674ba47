"""Kills appends at moments drawn from a seed: python -m tests.chaos.append_kills COUNT SEED.

Each moment is a change of a file that the process begins, at which it gets SIGKILL; so every moment between two changes
is one of them. After each kill, the dataset must be one of its two versions, whole, and the files of the first must be
as they were. Then the same command runs to completion, and must leave the same files as an undisturbed one. For every
four appends, the removal of the new version is killed once, too.
"""

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from foldstream.pipeline.tables.convert import convert
from foldstream.pipeline.tables.sources import describe_source
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.pipeline.verify import find_damage
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.dataset import open_dataset
from foldstream.storage.tasks import SerialExecutor

from ..property.conversions import Outcome, Server

MEMORY = Path("/dev/shm")  # where fsync takes no time
ROWS, NEW = 60, 25
AROUND = 4  # changes around the commit, which a third of the kills hit
Tree = dict[str, bytes]


def read_tree(root: Path) -> Tree:
    """All files, and the folders, so that empty ones are noticed; without temporary files, of which a commit may leave
    its own, and which nothing reads."""
    paths = [path for path in sorted(root.rglob("*")) if path.suffix != ".tmp"]
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else b"" for path in paths}


@dataclass(frozen=True)
class Kill:
    """One kill: the command, the number of the change, of how many, and the version that it left."""

    command: str
    moment: int
    changes: int
    version: int

    def __str__(self) -> str:
        return f"{self.command:15} change {self.moment:3} of {self.changes:3}   version {self.version}, whole"


class Appends:
    """A dataset with and without the new rows, in the folder `folder`, and commands on copies of it."""

    def __init__(self, folder: Path, server: Server, shuffle: int | None) -> None:
        self.server, self.root = server, folder / "d.zarr"
        self.name = "append" if shuffle is None else "append shuffled"
        self.sources = [write_rows(folder / "first.csv", 0, ROWS), write_rows(folder / "more.csv", ROWS, NEW)]
        request = ConvertRequest((describe_source(str(self.sources[0])),), labels=("y",), shuffle=shuffle)
        convert(request, self.root, SerialExecutor())
        self.first = read_tree(self.root)
        assert self.append().done
        self.second = read_tree(self.root)
        self.changes = dict[str, int]()

    def append(self, moment: int = 0) -> Outcome:
        sources = [str(self.sources[1])]
        return self.server.start("append", {"root": str(self.root), "sources": sources}, moment)

    def prune(self, moment: int = 0) -> Outcome:
        return self.server.start("prune", {"root": str(self.root), "keep": 1}, moment)

    def restore(self, tree: Tree) -> None:
        """Make the files of the dataset those of `tree`."""
        shutil.rmtree(self.root)
        for name, data in tree.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data) if data else path.mkdir(exist_ok=True)

    def count(self, command: Callable[[int], Outcome], before: Tree) -> int:
        """The number of changes that a command begins: the last moment at which it is killed."""
        low, high = 1, 2048
        while low < high:
            middle = (low + high + 1) // 2
            self.restore(before)
            low, high = (middle, high) if command(middle).killed else (low, middle - 1)
        self.restore(before)
        return low

    def check(self) -> int:
        """Assert that one of the two versions is there, whole. Returns its number."""
        found = open_dataset(self.root)
        rows = {1: ROWS, 2: ROWS + NEW}[found.version]
        assert not find_damage(found, SerialExecutor())
        stored = BlockReader(found, ("x", "y", "id")).read(range(found.layout.blocks))
        order = np.argsort(stored["id"])
        np.testing.assert_array_equal(stored["id"][order], np.arange(rows))
        np.testing.assert_array_equal(stored["x"][order, 0], np.arange(rows) % 50)
        np.testing.assert_array_equal(stored["y"][order], np.arange(rows) % 3)
        assert self.first.items() <= read_tree(self.root).items(), "files of the first version have changed"
        return found.version

    def kill(self, name: str, draws: np.random.Generator) -> Kill:
        """Kill a command at a random moment, check what it leaves, and run it to completion."""
        command, before, after = (
            (self.append, self.first, self.second) if name == "append" else (self.prune, self.second, self.first)
        )
        if name not in self.changes:
            self.changes[name] = self.count(command, before)
        self.restore(before)
        first = self.changes[name] - AROUND if draws.random() < 1 / 3 else 1
        moment = int(draws.integers(first, self.changes[name] + 1))
        assert command(moment).killed
        version = self.check()
        assert command().done
        found = read_tree(self.root)
        assert found == after, sorted(key for key, _ in found.items() ^ after.items())
        return Kill(self.name if name == "append" else name, moment, self.changes[name], version)


def write_rows(path: Path, first: int, count: int) -> Path:
    """A CSV file of rows by which one knows their number."""
    lines = (f"{row % 50},{row % 7},{'uvw'[row % 3]}\n" for row in range(first, first + count))
    path.write_text("a,b,y\n" + "".join(lines))
    return path


def strike(wanted: int, seed: int, report: Callable[[str], None] = lambda line: None) -> list[Kill]:
    """Kill `wanted` appends, in turn to a dataset in the order of its sources and to a shuffled one, and some prunes.
    Raises AssertionError if one leaves anything but a whole version."""
    draws, kills, server = np.random.default_rng(seed), list[Kill](), Server()
    try:
        with tempfile.TemporaryDirectory(prefix="appends-", dir=MEMORY if MEMORY.is_dir() else None) as name:
            datasets = list[Appends]()
            for number in range(wanted):
                if number < 2:
                    (folder := Path(name) / str(number)).mkdir()
                    datasets.append(Appends(folder, server, shuffle=(None, 3)[number]))
                for command in ("append", "prune") if number % 4 == 3 else ("append",):
                    kills.append(datasets[number % 2].kill(command, draws))
                    report(f"{len(kills):2}  {kills[-1]}; resumed: the same files")
    finally:
        server.close()
    return kills


def main(wanted: int, seed: int) -> None:
    kills = strike(wanted, seed, lambda line: print(line, flush=True))
    found = Counter(f"version {kill.version}" for kill in kills)
    print(f"{len(kills)} kills left {dict(found)}; every result equals the undisturbed one")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
