"""Error messages for the user's own code. They name the line of it that failed."""

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OTHERS = (str(Path(__file__).parents[2]), *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))
"""Folders of code that is not the user's."""


def describe_error(error: BaseException) -> str:
    """The type and text of an error, preceded by the file and line of the user's code that raised it, if any did."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_user_code(frame.filename)]
    location = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
    return f"{location}{type(error).__name__}: {error}"


def is_user_code(file: str) -> bool:
    return not file.startswith(("<", *OTHERS))


@contextmanager
def add_error_notes() -> Iterator[None]:
    """Add its description as a note to an error that leaves the block: pickling drops the traceback, but no notes."""
    try:
        yield
    except Exception as error:
        error.add_note(describe_error(error))
        raise


def read_error_note(error: BaseException) -> str:
    """The description from the last note of an error; of an error without notes, its own description."""
    notes: list[str] = getattr(error, "__notes__", [])
    return notes[-1] if notes else describe_error(error)
