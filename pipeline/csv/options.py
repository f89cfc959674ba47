"""What a user says about how CSV files are written."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from ...storage.options import Cli, Options

MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "#N/A")
"""Text that means a missing value."""


def as_tuple(value: Any) -> Any:
    """A list as a tuple; any other value as it is."""
    return tuple(value) if isinstance(value, list | tuple) else value


def more_markers(markers: Sequence[str]) -> tuple[str, ...]:
    """The usual markers of missing values, and more."""
    return (*MISSING, *markers)


class CsvOptions(Options):
    """The dialect as far as the user gives it; what is None or "auto" is detected from each file's first rows."""

    panel: ClassVar[str] = "CSV dialect"

    delimiter: str | None = Field(default=None, description="Field delimiter; by default detected.")
    quote: str = Field(default='"', description="Quote character; empty for none.")
    comment: str | None = Field(default=None, description="Character that begins a comment; by default detected.")
    decimal: str | None = Field(default=None, description="Decimal point; by default detected.")
    thousands: str = Field(default="", description="Thousands separator.")
    missing: Annotated[
        tuple[str, ...], BeforeValidator(as_tuple), Cli(flag="--missing-marker", parse=more_markers, repeatable=True)
    ] = Field(
        default=MISSING,
        description="Text that means a missing value, besides the empty field, NA, NaN, null and None; repeatable.",
    )
    encoding: str | None = Field(
        default=None, description="Encoding; by default UTF-8, or what a byte order mark says."
    )
    header: Literal["auto", "first", "none"] = Field(
        default="auto", description="first: the first row has the column names; none; auto: none if it is all numbers."
    )

    @field_validator("delimiter", "quote", "comment", "decimal", "thousands")
    @classmethod
    def check_character(cls, given: str | None) -> str | None:
        """Raise ValueError for what cannot separate or enclose fields."""
        if given == r"\t":
            raise ValueError(r"for a tab write $'\t'")
        if given and (len(given) != 1 or not given.isascii() or given in "\r\n\0" or given in "0123456789+-eE"):
            raise ValueError("must be one ASCII character that is not part of a number")
        return given
