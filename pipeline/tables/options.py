"""What a user says about the conversion of tables."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ...storage.options import Cli, Options, Texts
from ..csv.options import CsvOptions
from ..target.options import TASK, OnError, RoleOptions, Seed, Task, parse_numbers

INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "int64")
FLOATS = ("float32", "float64")
Dtype = Literal["auto", "uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64"]
Unknown = Literal["error", "code"]


def _check_missing(text: str) -> str:
    if text not in ("keep", "error"):
        raise ValueError(
            "must be keep or error; missing numbers are stored as they are, and filled by each fold's own rows with "
            "'foldstream train --missing'"
        )
    return text


class TableOptions(RoleOptions):
    """What becomes of the columns of CSV and Parquet files."""

    panel: ClassVar[str] = Options.panel

    label: Texts = Field(
        default=(),
        description="Column to learn, repeatable for several regression targets; without it, rows to predict.",
    )
    id: str | None = Field(default=None, description="Column that identifies the rows; kept beside them, not learned.")
    shape: Annotated[Sequence[int] | None, BeforeValidator(parse_numbers), Cli(metavar="N,N,N")] = Field(
        default=None, description="Shape of a sample, e.g. 1,28,28; by default a vector."
    )
    dtype: Dtype = Field(
        default="auto",
        description="Type of the values; auto: the narrowest in which whole numbers are exact and fractions as "
        "precise as their column's range needs.",
    )
    task: Task = Field(default="auto", description=TASK)
    ignore: Texts = Field(default=(), description="Column to skip, repeatable.")
    feature: Texts = Field(
        default=(), description="Column to learn from although it also has a role such as --group, repeatable."
    )
    category: Texts = Field(
        default=(),
        description="Column of categories, repeatable: numbers that are codes, or text that would be left out because "
        "nearly every row has its own, such as names; other text is detected.",
    )
    date: Texts = Field(default=(), description="Column of dates, repeatable, where they are not detected.")
    missing: Annotated[str, AfterValidator(_check_missing)] = Field(
        default="keep", description="keep missing values, which training fills, or stop at the first with an error."
    )
    unknown: Unknown = Field(
        default="error", description="What becomes of a category that --like does not have: error, or its own code."
    )
    on_error: OnError = Field(
        default="stop", description="stop at the first invalid row, or skip such rows and list them."
    )
    shuffle: Seed | None = Field(default=None, description="Seed for shuffling all rows as they are written.")
    csv: Annotated[CsvOptions | Mapping[str, Any], BeforeValidator(CsvOptions.model_validate)] = Field(
        default=CsvOptions()
    )
