"""The errors that Foldstream raises deliberately, grouped by what the user should do about them.

    FoldstreamError
    ├── UsageError          change the command: an option, a column's name, a model, a batch size
    │   └── ConflictError   the target already contains something else: choose another one, or remove it
    ├── SourceError         fix the source: a file is missing or truncated
    │   └── RowError        fix a row: too few fields, text in a numeric column, a missing value
    ├── DatasetError        check the dataset
    │   ├── ForeignError    it does not exist, or was not written by Foldstream
    │   ├── IncompleteError its conversion did not finish: run the same command again
    │   └── DamagedError    bytes are missing or have changed: restore or convert again
    ├── WorkerError         give the workers more memory
    ├── RunError            check the run: a fold failed, or the predictions do not cover all rows
    │   ├── ModelError      fix your own code: the model, its forward or backward pass, its loss
    │   └── AttemptError    another attempt may succeed: a worker or a node died
    │       └── StoppedError  run the same command again: a signal has stopped the training
    └── DiskError           check the disk: it is full or not writable

Each message says what is wrong, where, and the remedy. The command line shows the message alone and exits
with the class's `exit_code`: 2 for invalid input, 75 (EX_TEMPFAIL) if a signal stopped the training, otherwise 1.
"""

import difflib
import errno
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

OPTION = re.compile(r"--[a-z-]+( '[^']*'| skip| code)?")
"""An option in a remedy, with its value."""

DISK_TROUBLES = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the disk quota is exceeded", "free some space"),
    errno.EROFS: ("the disk is read-only", "make it writable, or choose another location"),
    errno.EACCES: ("permission denied", "change the permissions, or choose another location"),
}
"""The problem and its remedy for each system error number."""


class FoldstreamError(Exception):
    """Base class of all errors that Foldstream raises deliberately.

    Example:
        >>> try:
        ...     fs.train("flowers.zarr", "runs/flowers", batch_size=0)
        ... except fs.FoldstreamError as error:
        ...     print(error)
        batch_size=0: must be at least 1
    """

    exit_code = 1


class UsageError(FoldstreamError):
    """The command asks for something impossible."""

    exit_code = 2


class ConflictError(UsageError):
    """The target already contains something else. `problem` and `remedy` are the two halves of the message."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem, self.remedy = problem, remedy
        super().__init__(f"{problem}; {remedy}" if remedy else problem)

    def __reduce__(self) -> tuple[type["ConflictError"], tuple[str, str]]:
        return ConflictError, (self.problem, self.remedy)


class SourceError(FoldstreamError):
    """A source file is missing, empty or malformed."""

    exit_code = 2


class RowError(SourceError):
    """A row of a source is invalid. `columns` are those with the problem: one, several, or none if it is in no single
    one; `column` is the first of them, or None. `others` are more errors of the same file, which are shown as a table,
    and `hint` is what helps against several of them at once."""

    def __init__(
        self,
        source: str,
        line: int,
        columns: str | Sequence[str] | None,
        reason: str,
        remedy: str,
        unit: str = "line",
        others: "Sequence[RowError]" = (),
        hint: str = "",
    ) -> None:
        self.source, self.line, self.reason, self.remedy = source, line, reason, remedy
        self.columns = (columns,) if isinstance(columns, str) else tuple(columns or ())
        self.column = self.columns[0] if self.columns else None
        self.unit, self.others, self.hint = unit, tuple(others), hint
        named = f", column{'s' * (len(self.columns) > 1)} " + ", ".join(f"'{name}'" for name in self.columns)
        place = f"{source}, {unit} {line}" + (named if self.columns else "")
        self.where = place
        super().__init__(f"{place}: {reason}; {remedy}{self._table()}" + (f"\n{hint}" if hint else ""))

    def __reduce__(self) -> tuple[type["RowError"], tuple[Any, ...]]:
        return RowError, (*self._own, self.others, self.hint)

    @property
    def _own(self) -> tuple[str, int, tuple[str, ...], str, str, str]:
        return self.source, self.line, self.columns, self.reason, self.remedy, self.unit

    def with_others(self, others: "Sequence[RowError]", hint: str = "") -> "RowError":
        """This error with more errors of the same file, and what helps against several of them."""
        return RowError(*self._own, others, hint)

    def with_column(self, name: str) -> "RowError":
        """This error, which another column of the row has too."""
        columns = (*self.columns, name)
        return RowError(self.source, self.line, columns, self.reason, self.remedy, self.unit, self.others, self.hint)

    def _table(self) -> str:
        """The other errors, one a line: where, why, and the first option that helps."""
        if not self.others:
            return ""
        options = [OPTION.search(one.remedy) for one in self.others]
        rows = [(self.unit, "column", "reason", "option" if any(options) else "")]
        for one, option in zip(self.others, options, strict=True):
            rows.append((str(one.line), ", ".join(one.columns), one.reason, option[0] if option else ""))
        widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        return "\n".join(["\nMore invalid rows:", *(f"  {line}" for line in lines)])


class DatasetError(FoldstreamError):
    """A dataset cannot be used."""

    exit_code = 2


class ForeignError(DatasetError):
    """There is no Foldstream dataset at this location."""


class IncompleteError(DatasetError):
    """The conversion of this dataset has not finished."""


class DamagedError(DatasetError):
    """Bytes of this dataset are missing, or differ from what was written."""

    exit_code = 1


class WorkerError(FoldstreamError):
    """Workers of a cluster died repeatedly while running the same task."""


class RunError(FoldstreamError):
    """A training run failed, or its results are inconsistent."""


class ModelError(RunError):
    """The user's own code failed: a model or its loss. Every fold and every attempt would fail in the same way."""


class AttemptError(RunError):
    """An attempt at a fold failed for a reason that may not recur."""


class StoppedError(AttemptError):
    """A signal has stopped the training. The same command resumes it."""

    exit_code = 75


class DiskError(FoldstreamError):
    """The disk cannot be written to."""


@contextmanager
def disk_in_words(target: object) -> Iterator[None]:
    """Raise DiskError, with the remedy, if the system cannot write to the folder `target`."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_TROUBLES:
            raise
        trouble, remedy = DISK_TROUBLES[error.errno]
        elsewhere = error.filename and not str(error.filename).startswith(str(target))
        where = error.filename if elsewhere else target
        raise DiskError(f"{where}: {trouble}; {remedy}, then run the same command again to resume") from error


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A "did you mean" hint with the closest of `names`, for use inside a message; empty if none is close."""
    by_lower = {known.lower(): known for known in names}
    near = difflib.get_close_matches(name.lower(), by_lower, 1, 0.5)
    return f"did you mean '{by_lower[near[0]]}'? " if near else ""


def check_choice(option: str, value: str, choices: Iterable[str]) -> None:
    """Raise UsageError, suggesting the closest choice, if the value is not one of the choices."""
    choices = tuple(choices)
    if value not in choices:
        raise UsageError(
            f"{option} '{value}' is not valid: {did_you_mean(value, choices)}choose from {', '.join(choices)}"
        )


def suggest(name: str, names: Sequence[str]) -> str:
    """The end of a message about an unknown column: the closest name, or the first few names."""
    if hint := did_you_mean(name, names):
        return f"; {hint.strip()}"
    shown = ", ".join(f"'{n}'" for n in names[:8])
    return f"; its columns are {shown}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")
