"""The errors that Foldstream raises on purpose, grouped by what their reader does about them.

    FoldstreamError
    ├── UsageError          change the command: an option, a column's name, a model, a batch size
    │   └── ConflictError   the target holds something else: choose another, or remove it
    ├── SourceError         mend the source: a missing file, a file that is cut short
    │   └── RowError        a row of it: too few fields, text among numbers, a missing value
    ├── DatasetError        look at the dataset
    │   ├── ForeignError    it was not written by Foldstream, or is not there
    │   ├── IncompleteError its conversion did not end: run the same command again
    │   └── DamagedError    bytes are missing or changed: restore or convert again
    ├── WorkerError         give the workers more memory
    ├── RunError            look at the run: a fold failed, coverage is not exact
    │   └── AttemptError    another attempt may succeed: a worker or a node has died
    └── DiskError           look at the disk: it is full, or may not be written

Each message says what is wrong, where, and the remedy. The command line shows the message alone and exits
with the class's `exit_code`: 2 where the user's input is at fault, 1 where it is not.
"""

import difflib
import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

DISK_TROUBLES = {
    errno.ENOSPC: ("the disk is full", "make room there"),
    errno.EDQUOT: ("the quota of the disk is used up", "make room there"),
    errno.EROFS: ("the disk is read-only", "make it writable, or choose another place"),
    errno.EACCES: ("permission is denied", "ask for it, or choose another place"),
}
"""What is wrong and what to do, by the number of the system's error."""


class FoldstreamError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class UsageError(FoldstreamError):
    """The command asks for something that cannot be done."""

    exit_code = 2


class ConflictError(UsageError):
    """The target already holds something else."""


class SourceError(FoldstreamError):
    """A source file is missing, empty or malformed."""

    exit_code = 2


class RowError(SourceError):
    """A row of a source cannot be used. `column` is None where it is not the fault of one."""

    def __init__(
        self, source: str, line: int, column: str | None, reason: str, remedy: str, unit: str = "line"
    ) -> None:
        self.source, self.line, self.column, self.reason, self.remedy = source, line, column, reason, remedy
        self.unit = unit
        place = f"{source}, {unit} {line}" + (f", column «{column}»" if column else "")
        super().__init__(f"{place}: {reason}; {remedy}")

    def __reduce__(self) -> tuple[type["RowError"], tuple[str, int, str | None, str, str, str]]:
        return RowError, (self.source, self.line, self.column, self.reason, self.remedy, self.unit)


class DatasetError(FoldstreamError):
    """A dataset cannot be used."""

    exit_code = 2


class ForeignError(DatasetError):
    """There is no Foldstream dataset at this place."""


class IncompleteError(DatasetError):
    """The conversion of this dataset has not ended."""


class DamagedError(DatasetError):
    """Bytes of this dataset are missing or not what was written."""

    exit_code = 1


class WorkerError(FoldstreamError):
    """Workers of a cluster died again and again at the same task."""


class RunError(FoldstreamError):
    """A training run failed or its results contradict each other."""


class AttemptError(RunError):
    """An attempt at a fold has failed through no fault that is known to come again."""


class DiskError(FoldstreamError):
    """The disk does not take what is to be written."""


@contextmanager
def disk_in_words(target: object) -> Iterator[None]:
    """Raise DiskError, with the remedy, where the system refuses to write into the folder `target`."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_TROUBLES:
            raise
        trouble, remedy = DISK_TROUBLES[error.errno]
        elsewhere = error.filename and not str(error.filename).startswith(str(target))
        where = error.filename if elsewhere else target
        raise DiskError(f"{where}: {trouble}; {remedy}, then run the same command again: it resumes") from error


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint at the nearest of `names`, to stand inside a message; empty if none is near."""
    by_lower = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), by_lower, 1, 0.5)
    return f"did you mean «{by_lower[near[0]]}»? " if near else ""


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """Raise UsageError, with the nearest choice, for a value that is none of them."""
    choices = tuple(choices)
    if value not in choices:
        raise UsageError(
            f"{option} «{value}» is not known: {did_you_mean(value, choices)}choose from {', '.join(choices)}"
        )


def suggest(name: str, names: Sequence[str]) -> str:
    """The nearest of the columns' names, or the first of them, for the end of a message."""
    if hint := did_you_mean(name, names):
        return f"; {hint.strip()}"
    shown = ", ".join(f"«{n}»" for n in names[:8])
    return f"; its columns are {shown}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")
