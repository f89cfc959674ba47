"""Options shared by the conversions of tables and of images."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ...storage.options import Options, Texts

Seed = Annotated[int, Field(ge=0, lt=2**63)]
OnError = Literal["stop", "skip"]
Task = Literal["auto", "classification", "multilabel", "regression"]
TASK = "classification, multilabel (several 0/1 labels) or regression; auto: inferred from the label values."


class RoleOptions(Options):
    """Side columns, which are stored but are not features."""

    panel: ClassVar[str] = "Columns that are not features"

    group: Texts = Field(
        default=(), description="Group column, e.g. patients: rows of a group stay in the same fold; repeatable."
    )
    time: str | None = Field(default=None, description="Time column that orders the rows, for time splits.")
    fold: str | None = Field(default=None, description="Column with your own fold numbers, for column splits.")
    weight: str | None = Field(default=None, description="Sample weight column.")
    keep: Texts = Field(default=(), description="Column to store for any other use; repeatable.")


def parse_numbers(value: Any) -> Any:
    """Parse `1,28,28`, or a list, as a tuple of positive numbers. Raises ValueError."""
    numbers = value
    if isinstance(value, str):
        numbers = tuple(int(part) if part.strip().isdecimal() else 0 for part in value.split(","))
    if isinstance(numbers, list | tuple):
        if not numbers or not all(isinstance(number, int) and number > 0 for number in numbers):
            raise ValueError("must be positive whole numbers separated by commas, e.g. 1,28,28")
        return tuple(numbers)
    return numbers
