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


WHITESPACE = "whitespace"
"""Stands for runs of spaces and tabs as delimiter."""


def parse_names(value: Any) -> Any:
    """Parse `a,b,c`, or a list, as a tuple of column names. Raises ValueError for names that occur twice."""
    names = tuple(value.split(",")) if isinstance(value, str) else as_tuple(value)
    if isinstance(names, tuple) and len({*names}) < len(names):
        raise ValueError("must be different names separated by commas")
    return names


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

    delimiter: str | None = Field(
        default=None,
        description="Field delimiter, also of several characters; whitespace: runs of spaces; detected by default.",
    )
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

    escape: str = Field(default="", description="Character that makes the next one part of a field, e.g. a backslash.")
    skip_lines: int = Field(default=0, ge=0, description="Number of lines to skip before the header or the rows.")
    names: Annotated[tuple[str, ...] | None, BeforeValidator(parse_names), Cli(metavar="NAME,NAME")] = Field(
        default=None, description="Column names, for files without a header; with --header first, they replace it."
    )

    def to_json(self) -> dict[str, Any]:
        """The options as stored with a conversion: without those that earlier versions did not have, unless set."""
        added = ("escape", "skip_lines", "names")
        return {name: value for name, value in self.model_dump().items() if name not in added or value}

    @field_validator("delimiter")
    @classmethod
    def check_delimiter(cls, given: str | None) -> str | None:
        """Raise ValueError for text that cannot delimit fields."""
        given = {r"\t": "\t", r"\s+": WHITESPACE}.get(given or "", given)
        if given and given != WHITESPACE and len(given) > 1:
            if any(letter in '\r\n\0"' or letter.isalnum() for letter in given):
                raise ValueError("must not contain letters, digits, quotes or line ends; or give whitespace")
            return given
        return given if given is None or given == WHITESPACE or not given.isascii() else cls.check_character(given)

    @field_validator("quote", "comment", "decimal", "thousands", "escape")
    @classmethod
    def check_character(cls, given: str | None) -> str | None:
        """Raise ValueError for a character that cannot delimit or quote fields."""
        if given and (len(given) != 1 or not given.isascii() or given in "\r\n\0" or given in "0123456789+-eE"):
            raise ValueError("must be one ASCII character that is not part of a number")
        return given
