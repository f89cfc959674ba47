"""The errors that Foldstream raises on purpose, grouped by what their reader does about them.

    FoldstreamError
    ├── UsageError          change the command: an option, a column's name, a model, a batch size
    │   └── ConflictError   the target holds something else: choose another, or remove it
    ├── SourceError         mend the source: a missing file, a ragged row, text among numbers
    ├── DatasetError        look at the dataset
    │   ├── ForeignError    it was not written by Foldstream, or is not there
    │   ├── IncompleteError its conversion did not end: run the same command again
    │   └── DamagedError    bytes are missing or changed: restore or convert again
    └── RunError            look at the run: a fold failed, coverage is not exact

Each message says what is wrong, where, and the remedy. The command line shows the message alone and exits
with the class's `exit_code`: 2 where the user's input is at fault, 1 where it is not.
"""


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


class RunError(FoldstreamError):
    """A training run failed or its results contradict each other."""
