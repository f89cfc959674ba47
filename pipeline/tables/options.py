"""Options for the conversion of tables."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ...storage.options import Cli, Files, Options, Texts
from ..csv.options import CsvOptions
from ..target.options import TASK, OnError, RoleOptions, Seed, Task, parse_numbers

INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "int64")
FLOATS = ("float32", "float64")
Dtype = Literal["auto", "uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64"]
Unknown = Literal["error", "code"]
WhichColumns = Literal["same", "union", "first"]


def _check_missing(text: str) -> str:
    if text not in ("keep", "error"):
        raise ValueError(
            "must be keep or error; missing values are stored as such, and 'foldstream train --missing' fills them "
            "from each fold's own training rows"
        )
    return text


class TableOptions(RoleOptions):
    """How the columns of tables are converted."""

    panel: ClassVar[str] = Options.panel

    label: Texts = Field(
        default=(),
        description="Label column, repeatable for several targets; omit it for rows to predict.",
    )
    id: str | None = Field(
        default=None, description="Column that identifies the rows; stored, but not used as a feature."
    )
    shape: Annotated[Sequence[int] | None, BeforeValidator(parse_numbers), Cli(metavar="N,N,N")] = Field(
        default=None, description="Shape of a sample, e.g. 1,28,28; a vector by default."
    )
    dtype: Dtype = Field(
        default="auto",
        description="Type of the values; auto: the narrowest type that stores whole numbers exactly and fractions as "
        "precisely as the range of their column requires.",
    )
    task: Task = Field(default="auto", description=TASK)
    ignore: Texts = Field(default=(), description="Column to drop; repeatable.")
    columns: WhichColumns = Field(
        default="same",
        description="Columns to read if files differ in their columns. same: an error; union: those of all files, with "
        "missing values where a file lacks a column; first: those of the first file.",
    )
    feature: Texts = Field(
        default=(), description="Column to use as a feature even though it also has a role such as --group; repeatable."
    )
    category: Texts = Field(
        default=(),
        description="Categorical column; repeatable. Needed for numbers that are codes, and for text such as names "
        "that would be dropped because nearly every value is unique; other text columns are detected.",
    )
    date: Texts = Field(default=(), description="Date column that is not detected automatically; repeatable.")
    date_format: Texts = Field(
        default=(),
        description="Format of dates, e.g. %d.%m.%Y, or of those in one column: COLUMN=%d.%m.%Y; repeatable. Detected "
        "if the first rows show which part is the day.",
    )
    number: Texts = Field(
        default=(),
        description="Column of numbers such as $1,200.50, (5) for -5, or 12% for 0.12; repeatable.",
    )
    tokens: str | None = Field(
        default=None,
        description="Column of lists of token ids, or of texts with --tokenizer: samples are sequences of these.",
    )
    tokenizer: str | None = Field(
        default=None,
        description="Function that takes a list of texts and returns a list of token ids for each: "
        "path/to/file.py:function or package.module:function. The dataset keeps a copy of your code.",
    )
    length: int | None = Field(
        default=None, ge=1, description="Truncate sequences to so many token ids; by default the longest is kept."
    )
    asset: Files = Field(
        default=(), description="File or folder beside your code that the tokenizer reads, repeatable."
    )
    missing: Annotated[str, AfterValidator(_check_missing)] = Field(
        default="keep", description="keep: store missing values, which training fills; error: stop at the first one."
    )
    unknown: Unknown = Field(
        default="error",
        description="error: stop at a category that --like does not have; code: give such categories an extra code.",
    )
    on_error: OnError = Field(
        default="stop", description="stop: stop at the first invalid row; skip: skip and list invalid rows."
    )
    shuffle: Seed | None = Field(default=None, description="Seed for shuffling all rows during the conversion.")
    window_of: int | None = Field(
        default=None,
        ge=1,
        description="Rows of a window over time series: a sample is that many consecutive rows of a --group, in the "
        "order of --time, and its targets are the next values of --label, whose past is a feature.",
    )
    horizon: int | None = Field(
        default=None, ge=1, description="With --window-of: number of next values to predict; by default 1."
    )
    csv: Annotated[CsvOptions | Mapping[str, Any], BeforeValidator(CsvOptions.model_validate)] = Field(
        default=CsvOptions()
    )
