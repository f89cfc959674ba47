"""The life of a dataset: whatever happens to it, readers see one of the datasets that were committed, whole, or none.

A failure shows the steps that lead to it, and is repeated by a copy of them or of the printed blob.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from foldstream.pipeline.verify import find_damage
from foldstream.storage.blocks.reader import BlockReader
from foldstream.storage.blocks.shards import shard_key
from foldstream.storage.dataset import Dataset, open_dataset
from foldstream.storage.errors import DatasetError
from foldstream.storage.format.manifest import MANIFEST, WORK
from foldstream.storage.places.local import LOCK
from foldstream.storage.places.locks import lock_file
from foldstream.storage.tasks import SerialExecutor
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from .conversions import Outcome, Server

MEMORY = Path("/dev/shm")  # where fsync takes no time
ROWS = 40
moments = st.integers(1, 160)
overwrites = st.booleans()
shuffles = st.sampled_from([None, None, 3])
dtypes = st.sampled_from(["auto", "float64"])


@dataclass(frozen=True)
class Version:
    """What a conversion makes of the sources as they are: their number of rows, and the options."""

    rows: int
    dtype: str
    shuffle: int | None

    @classmethod
    def of(cls, root: Path) -> "Version | None":
        """The version that is committed, if there is one."""
        try:
            dataset = open_dataset(root)
        except DatasetError:
            return None
        return cls(len(dataset), dataset.request["dtype"], dataset.request["shuffle"])

    def matches(self, found: dict[str, np.ndarray]) -> bool:
        """Whether rows are those of this version."""
        x = np.stack([np.arange(self.rows), np.arange(self.rows) % 7], axis=1)
        order = np.argsort(found["x"][:, 0]) if self.shuffle is not None else np.arange(len(found["x"]))
        return (
            found["x"].dtype == ("float64" if self.dtype == "float64" else "uint8")
            and np.array_equal(found["x"][order], x)
            and np.array_equal(found["y"][order], x[:, 0] % 3)
            and np.array_equal(found["id"][order], x[:, 0])
        )


def read_rows(dataset: Dataset) -> dict[str, np.ndarray]:
    return BlockReader(dataset, ["x", "y", "id"]).read(range(dataset.layout.blocks))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@dataclass(frozen=True)
class Command:
    """A conversion that writes a version, or a repair (None), and whether another process had the lock before."""

    version: Version | None
    overwrite: bool
    busy: bool

    def opens(self, committed: Version | None) -> bool:
        """Whether it has nothing to write if this version is committed."""
        return self.version is not None and self.version == committed and not self.overwrite

    def changes(self, committed: Version | None) -> bool:
        """Whether it may replace this version."""
        return self.version is not None and (self.overwrite or committed is None)


def commit_of(root: Path) -> tuple[int, int]:
    """What differs between two manifests, even with equal contents."""
    try:
        found = (root / MANIFEST).stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


class Life(RuleBasedStateMachine):
    """Commands on one dataset, of which one may be stopped in the middle of its work."""

    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="life-", dir=MEMORY if MEMORY.is_dir() else None))
        self.source, self.root = self.folder / "rows.csv", self.folder / "rows.zarr"
        self.rows = 0
        self.version: Version | None = None  # what is committed
        self.damaged = False
        self.held: tuple[Dataset, BlockReader, Version] | None = None
        self.commit = commit_of(self.root)
        self.stopped: tuple[int, Command] | None = None  # the process that has been stopped
        self.add_rows()

    def add_rows(self) -> None:
        with open(self.source, "a") as file:
            if not self.rows:
                file.write("a,b,y\n")
            file.writelines(f"{a},{a % 7},{'uvw'[a % 3]}\n" for a in range(self.rows, self.rows + ROWS))
        self.rows += ROWS

    def teardown(self) -> None:
        if self.stopped:
            self.server.send(self.stopped[0], signal.SIGKILL)
        shutil.rmtree(self.folder)

    # What happens

    @precondition(lambda self: self.rows < 5 * ROWS)
    @rule()
    def append(self) -> None:
        self.add_rows()

    @rule(dtype=dtypes, shuffle=shuffles, overwrite=overwrites)
    def convert(self, dtype: str, shuffle: int | None, overwrite: bool) -> None:
        """Convert to the end; another process at work refuses it."""
        self.write(Version(self.rows, dtype, shuffle), overwrite)

    @rule(dtype=dtypes, shuffle=shuffles, overwrite=overwrites, moment=moments)
    def convert_until_killed(self, dtype: str, shuffle: int | None, overwrite: bool, moment: int) -> None:
        self.write(Version(self.rows, dtype, shuffle), overwrite, moment)

    @precondition(lambda self: not self.stopped)
    @rule(dtype=dtypes, shuffle=shuffles, overwrite=overwrites, moment=moments)
    def convert_until_stopped(self, dtype: str, shuffle: int | None, overwrite: bool, moment: int) -> None:
        self.write(Version(self.rows, dtype, shuffle), overwrite, moment, signal.SIGSTOP)

    @precondition(lambda self: self.version and self.version.rows == self.rows)
    @rule()
    def convert_again(self) -> None:
        """The command that has written the dataset."""
        assert self.version
        self.write(self.version, overwrite=False)

    @precondition(lambda self: self.stopped)
    @rule(number=st.sampled_from([signal.SIGCONT, signal.SIGKILL]))
    def continue_or_kill(self, number: int) -> None:
        assert self.stopped
        (pid, command), self.stopped = self.stopped, None
        self.conclude(self.server.send(pid, number), command)

    @precondition(lambda self: self.version and not self.damaged)
    @rule()
    def hold_open(self) -> None:
        if self.version:
            dataset = open_dataset(self.root)
            self.held = dataset, BlockReader(dataset, ["x", "y", "id"]), self.version

    @precondition(lambda self: self.version and not self.damaged and not self.stopped)
    @rule(shard=st.integers(0, 99), array=st.sampled_from(["x", "y", "id"]), missing=st.booleans())
    def damage(self, shard: int, array: str, missing: bool) -> None:
        dataset = open_dataset(self.root)
        path = dataset.root / shard_key(dataset.spec(array), shard % dataset.layout.shards)
        if path.exists() and missing:
            path.unlink()
        elif path.exists():
            data = path.read_bytes()
            path.write_bytes(data[:9] + bytes([data[9] ^ 1]) + data[10:])
        self.damaged = True

    @precondition(lambda self: self.damaged)
    @rule()
    def repair(self) -> None:
        self.mend()

    @precondition(lambda self: self.damaged)
    @rule(moment=moments)
    def repair_until_killed(self, moment: int) -> None:
        self.mend(moment)

    @precondition(lambda self: self.damaged and not self.stopped)
    @rule(moment=moments)
    def repair_until_stopped(self, moment: int) -> None:
        self.mend(moment, signal.SIGSTOP)

    # What holds

    @invariant()
    def readers_see_what_was_committed(self) -> None:
        assert Version.of(self.root) == self.version
        if self.version:
            dataset = open_dataset(self.root)
            assert bool(find_damage(dataset, SerialExecutor())) == self.damaged
            assert self.damaged or self.version.matches(read_rows(dataset))

    @invariant()
    def a_reader_never_sees_rows_of_another_version(self) -> None:
        if self.held:
            dataset, reader, version = self.held
            with suppress(DatasetError):  # the dataset was replaced or damaged
                assert version.matches(reader.read(range(dataset.layout.blocks)))

    # How it is checked

    def write(self, version: Version, overwrite: bool, moment: int = 0, number: int = signal.SIGKILL) -> None:
        """Run a conversion of the sources as they are."""
        arguments = {
            "source": str(self.source),
            "root": str(self.root),
            "dtype": version.dtype,
            "shuffle": version.shuffle,
            "overwrite": overwrite,
        }
        command = Command(version, overwrite, self.is_busy())
        self.conclude(self.server.start("convert", arguments, moment, number), command)

    def mend(self, moment: int = 0, number: int = signal.SIGKILL) -> None:
        """Run a repair."""
        command = Command(None, False, self.is_busy())
        self.conclude(self.server.start("repair", {"root": str(self.root)}, moment, number), command)

    def conclude(self, outcome: Outcome, command: Command) -> None:
        """Check what a command has left."""
        before, self.version = self.version, Version.of(self.root)
        committed, self.commit = self.commit, commit_of(self.root)
        written = committed != self.commit
        damaged, self.damaged = self.damaged, False
        if self.version and not written:
            self.damaged = bool(find_damage(open_dataset(self.root), SerialExecutor()))
        told = f"{command}: {outcome}; before: {before}, after: {self.version}"
        if outcome.stopped:
            self.stopped = outcome.pid, command
        if outcome.error:
            refusals = ["ConflictError", "SourceError", *["IncompleteError"] * (not command.version and not before)]
            assert outcome.error.partition(":")[0] in refusals, told
        if outcome.done:
            assert self.version == (command.version or before), told
            assert not self.damaged or command.opens(before), told
            assert not command.busy or command.opens(before) or (not command.version and not damaged), told
        elif command.changes(before) and "ConflictError" not in outcome.error:
            assert self.version in (before, command.version, None), told
        else:
            assert self.version == before, told
        assert damaged or not self.damaged, told

    def is_busy(self) -> bool:
        """Whether another process has the lock."""
        path = self.root / WORK / LOCK
        if not path.exists():
            return False
        try:
            os.close(lock_file(path, wait=False))
        except BlockingIOError:
            return True
        return False


def live(server: Server, lives: int, steps: int, number: int) -> None:
    Life.server = server
    hypothesis.seed(number)(Life)
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=lives,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_whatever_happens_readers_see_what_was_committed(server: Server) -> None:
    live(server, 10, 20, number=0)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_many_lives(server: Server, seed: int) -> None:
    """A run of CI takes a fifth of the lives, each time others; `make test-all` takes all."""
    live(server, 40 if seed else 200, 50, number=seed)


def convert(
    server: Server,
    folder: Path,
    rows: int,
    moment: int = 0,
    overwrite: bool = False,
    shuffle: int | None = None,
    number: int = signal.SIGSTOP,
) -> Outcome:
    """Convert a file of so many rows, possibly until the process is stopped or killed."""
    source = folder / f"{rows}.csv"
    if not source.exists():
        source.write_text("a,b,y\n" + "".join(f"{a},{a % 7},{'uvw'[a % 3]}\n" for a in range(rows)))
    given = {"source": str(source), "root": str(folder / "d.zarr"), "dtype": "auto", "overwrite": overwrite}
    return server.start("convert", {**given, "shuffle": shuffle}, moment, number)


def test_nothing_of_an_abandoned_conversion_gets_into_the_next_one(server: Server, tmp_path: Path) -> None:
    """The conversion that replaces it is killed too, while it removes what was left."""
    for moment in (4, 9, 14, 19):
        assert convert(server, tmp_path, 80, 60, shuffle=3, overwrite=True, number=signal.SIGKILL).killed
        convert(server, tmp_path, 40, moment, shuffle=3, overwrite=True, number=signal.SIGKILL)
        assert convert(server, tmp_path, 40, shuffle=3, overwrite=True).done
        dataset = open_dataset(tmp_path / "d.zarr")
        assert Version(40, "auto", 3).matches(read_rows(dataset))
        assert not find_damage(dataset, SerialExecutor())


def test_a_finished_command_leaves_a_conversion_at_work_alone(server: Server, tmp_path: Path) -> None:
    assert convert(server, tmp_path, 40).done
    stopped = convert(server, tmp_path, 80, moment=6, overwrite=True)
    assert stopped.stopped
    assert Version.of(tmp_path / "d.zarr") == Version(40, "auto", None)
    assert convert(server, tmp_path, 40).done
    assert "is being converted by another process" in convert(server, tmp_path, 80, overwrite=True).error
    assert server.send(stopped.pid, signal.SIGCONT).done
    assert Version.of(tmp_path / "d.zarr") == Version(80, "auto", None)


def test_a_repair_and_a_conversion_refuse_each_other(server: Server, tmp_path: Path) -> None:
    assert convert(server, tmp_path, 40).done
    dataset = open_dataset(tmp_path / "d.zarr")
    for shard in range(dataset.layout.shards):
        (dataset.root / shard_key(dataset.spec("x"), shard)).unlink()
    repair = server.start("repair", {"root": str(dataset.root)}, 30, signal.SIGSTOP)
    assert repair.stopped
    assert "is being converted by another process" in convert(server, tmp_path, 80, overwrite=True).error
    assert server.send(repair.pid, signal.SIGCONT).done
    assert not find_damage(dataset, SerialExecutor())
    assert Version.of(dataset.root) == Version(40, "auto", None)
