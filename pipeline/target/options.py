"""Options that conversions of tables and of images have in common."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ...storage.options import Options, Texts

Seed = Annotated[int, Field(ge=0, lt=2**63)]
OnError = Literal["stop", "skip"]
Task = Literal["auto", "classification", "multilabel", "regression"]
TASK = "classification, multilabel (several labels that are 0 or 1) or regression; auto: by the labels' values."


class RoleOptions(Options):
    """Columns that lie beside the rows, and are not learned from."""

    panel: ClassVar[str] = "Columns beside the rows, which are not learned from"

    group: Texts = Field(
        default=(), description="Column of groups whose rows stay in one fold, e.g. patients; repeatable."
    )
    time: str | None = Field(default=None, description="Column of the order in time, for time splits.")
    fold: str | None = Field(default=None, description="Column with your own fold numbers, for column splits.")
    weight: str | None = Field(default=None, description="Column of the rows' weights.")
    keep: Texts = Field(default=(), description="Column to keep for any other use, repeatable.")


def parse_numbers(value: Any) -> Any:
    """`1,28,28` as a tuple of positive numbers; lists as tuples. Raises ValueError."""
    numbers = value
    if isinstance(value, str):
        numbers = tuple(int(part) if part.strip().isdecimal() else 0 for part in value.split(","))
    if isinstance(numbers, list | tuple):
        if not numbers or not all(isinstance(number, int) and number > 0 for number in numbers):
            raise ValueError("must be positive whole numbers separated by commas, e.g. 1,28,28")
        return tuple(numbers)
    return numbers
