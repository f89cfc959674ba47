"""The result of a check."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A fact, and a remedy if it is a problem."""

    name: str
    value: str
    ok: bool = True
    remedy: str = ""
