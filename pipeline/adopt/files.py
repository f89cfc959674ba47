"""The files of adopted features: their hashes, and whether they are still as they were."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ...storage.errors import DamagedError
from ...storage.foreign.files import check_unchanged
from ...storage.foreign.format import Foreign
from ...storage.places.locate import locate
from ...storage.tasks import Executor, Progress, run_tasks

HASHED_BYTES = 16 << 20  # of a file at once


@dataclass(frozen=True)
class FileTask:
    """A file that must have this size and time of its last change, and, if it is to be `hashed`, its SHA-256."""

    path: str
    size: int
    mtime_ns: int
    hashed: bool


@dataclass(frozen=True)
class FileState:
    """The SHA-256 of a file, empty if it was not hashed, or how it differs from what it was."""

    digest: bytes = b""
    change: str = ""


def look_at_file(task: FileTask) -> FileState:
    """Run a task."""
    try:
        check_unchanged(task.path, task.size, task.mtime_ns)
    except DamagedError as error:
        return FileState(change=str(error))
    return FileState(_hash(task) if task.hashed else b"")


def _hash(task: FileTask) -> bytes:
    found, place = hashlib.sha256(), locate(task.path)
    for start in range(0, task.size, HASHED_BYTES):
        found.update(place.read_range(start, min(HASHED_BYTES, task.size - start)))
    return found.digest()


def with_hashes(foreign: Foreign, executor: Executor, progress: Progress) -> Foreign:
    """The same arrays with the hashes of their files. Raises DamagedError if one has changed."""
    states = _look_at_all(foreign, True, executor, progress)
    if changes := [state.change for state in states if state.change]:
        raise DamagedError(changes[0])
    hashes = np.frombuffer(b"".join(state.digest for state in states), np.uint8)
    return replace(foreign, hashes=hashes.reshape(-1, 32))


def changed_files(foreign: Foreign, executor: Executor, progress: Progress) -> Iterator[tuple[int, str]]:
    """The numbers of the files that are not as they were, and how they differ: by their hashes, if there are some,
    otherwise by their sizes and times."""
    hashed = len(foreign.hashes) > 0
    for number, state in enumerate(_look_at_all(foreign, hashed, executor, progress)):
        differs = hashed and not state.change and state.digest != foreign.hashes[number].tobytes()
        if change := state.change or ("the file's content differs from what was adopted" if differs else ""):
            yield number, change


def _look_at_all(foreign: Foreign, hashed: bool, executor: Executor, progress: Progress) -> list[FileState]:
    status = zip(foreign.files, foreign.status.tolist(), strict=True)
    tasks = [FileTask(path, size, mtime_ns, hashed) for path, (size, mtime_ns) in status]
    return run_tasks(executor, look_at_file, tasks, "files", progress)
