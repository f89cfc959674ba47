"""Errors of the user's own code, in words that say where in it they come from."""

import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OTHERS = (str(Path(__file__).parents[2]), *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))
"""Folders of code that is not the user's."""


def in_words(error: BaseException) -> str:
    """An error's type and text, and before them the line of the user's code that it comes from, if it does."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users(frame.filename)]
    place = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
    return f"{place}{type(error).__name__}: {error}"


def is_users(file: str) -> bool:
    return not file.startswith(("<", *OTHERS))


@contextmanager
def noting_lines() -> Iterator[None]:
    """Have an error that leaves this carry its line, which is lost with the traceback once it is sent elsewhere."""
    try:
        yield
    except Exception as error:
        error.add_note(in_words(error))
        raise


def noted(error: BaseException) -> str:
    """An error in words, by its note if it has one."""
    notes: list[str] = getattr(error, "__notes__", [])
    return notes[-1] if notes else in_words(error)
