"""Options for the dialect of CSV files."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from ...storage.options import Cli, Options

MISSING = (
    "",
    *(
        "NA",
        "N/A",
        "NaN",
        "nan",
        "null",
        "NULL",
        "None",
        "NaT",
        "n/a",
        "<NA>",
        "#N/A",
        "#N/A N/A",
        "#NA",
        "-NaN",
        "-nan",
    ),
    *("1.#IND", "1.#QNAN", "-1.#IND", "-1.#QNAN"),
)
"""Text that marks a missing value, as in pandas."""


def as_tuple(value: Any) -> Any:
    """Convert a list to a tuple; return any other value unchanged."""
    return tuple(value) if isinstance(value, list | tuple) else value


def more_markers(markers: Sequence[str]) -> tuple[str, ...]:
    """The default missing-value markers plus additional ones."""
    return (*MISSING, *markers)


class CsvOptions(Options):
    """The dialect as specified by the user; options that are None or "auto" are detected from each file's first
    rows."""

    panel: ClassVar[str] = "CSV dialect"

    delimiter: str | None = Field(default=None, description="Field delimiter; detected by default.")
    quote: str = Field(default='"', description="Quote character; empty for none.")
    comment: str | None = Field(default=None, description="Character that starts a comment; detected by default.")
    decimal: str | None = Field(default=None, description="Decimal point; detected by default.")
    thousands: str = Field(default="", description="Thousands separator.")
    missing: Annotated[
        tuple[str, ...], BeforeValidator(as_tuple), Cli(flag="--missing-marker", parse=more_markers, repeatable=True)
    ] = Field(
        default=MISSING,
        description="Text to treat as missing, in addition to the empty field and the markers of pandas, such as NA, "
        "NaN, null and None; repeatable.",
    )
    encoding: str | None = Field(
        default=None, description="Text encoding; by default UTF-8, unless a byte order mark says otherwise."
    )
    header: Literal["auto", "first", "none"] = Field(
        default="auto",
        description="first: the first row contains the column names; none: no header; auto: none if it is all numbers.",
    )

    @field_validator("delimiter", "quote", "comment", "decimal", "thousands")
    @classmethod
    def check_character(cls, given: str | None) -> str | None:
        """Raise ValueError for a character that cannot delimit or quote fields."""
        if given == r"\t":
            raise ValueError(r"for a tab write $'\t'")
        if given and (len(given) != 1 or not given.isascii() or given in "\r\n\0" or given in "0123456789+-eE"):
            raise ValueError("must be one ASCII character that is not part of a number")
        return given
