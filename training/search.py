"""What a search over settings tries: the space, the sampler, and the rungs at which candidates are compared.

A definition is a TOML file, a table of a job file, or keywords in Python; all become the same options.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, isfinite, prod
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from ..storage.errors import UsageError
from ..storage.options import Options, as_text, plain

Sampler = Literal["tpe", "random", "qmc", "grid"]
MOST_TRIALS, USUAL = 1000, 16
STARTUP = 10
"""Scores below which tpe draws at random; more with many settings: three more than there are, as in BOHB (Falkner et
al. 2018)."""
DIGITS = 12  # of steps of a range, behind the decimal point
EXAMPLE = "lr from low = 1e-4 to high = 0.1 with log = true, or hidden = [64, 128]"
NOT_SEARCHED = "stack", "strategy", "compile", "deterministic"
"""Settings of how a pass computes, which all candidates in it must have in common."""


@dataclass(frozen=True)
class Dimension:
    """A setting that is searched: some `choices`, or the numbers from `low` to `high`, both included, on a `log` scale
    or in steps of `step`. Whole numbers stay whole."""

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False
    step: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers."""
        return not any(isinstance(value, float) for value in (self.low, self.high, self.step))

    @property
    def values(self) -> tuple[Any, ...]:
        """All values; empty if they are not counted."""
        step = self.step or (1 if self.is_whole and not self.log else None)
        if self.choices or step is None:
            return self.choices
        count = floor((self.high - self.low) / step + 1e-9) + 1
        return tuple(round(self.low + number * step, DIGITS) for number in range(count))

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that are checked before anything starts: both ends, or all choices."""
        return self.choices or (self.low, self.high)

    def to_json(self) -> Any:
        if self.choices:
            return list(self.choices)
        more = {"log": True} if self.log else {"step": self.step} if self.step else {}
        return {"low": self.low, "high": self.high, **more}


def parse_dimension(name: str, value: Any) -> Dimension:
    """A setting's values: a list of choices; `{low, high}` with `log` or `step`; or in Python the tuple `(low, high)`
    or `(low, high, "log")`. Raises ValueError."""
    if name in NOT_SEARCHED:
        raise ValueError("all candidates that train in one pass share this setting; give it by --set")
    if isinstance(value, tuple) and len(value) in (2, 3) and not isinstance(value[0], str):
        if value[2:] not in ((), ("log",)):
            raise ValueError('write (low, high) or (low, high, "log"), and choices as a list')
        value = {"low": value[0], "high": value[1], **({"log": True} if value[2:] else {})}
    if isinstance(value, list | tuple):
        choices = tuple(map(plain, value))
        if not choices or not all(isinstance(one, bool | int | float | str) for one in choices):
            raise ValueError("choices must be numbers, text, true or false")
        if len({*map(repr, choices)}) < len(choices):
            raise ValueError("two choices are the same")
        return Dimension(name, choices)
    if not isinstance(value, Mapping) or not {"low", "high"} <= value.keys() <= {"low", "high", "log", "step"}:
        raise ValueError("write a list of choices, or low and high, with log = true or step")
    return _parse_range(name, {key: plain(one) for key, one in value.items()})


def _parse_range(name: str, given: Mapping[str, Any]) -> Dimension:
    low, high, log, step = given["low"], given["high"], given.get("log", False), given.get("step")
    numbers = [low, high] if step is None else [low, high, step]
    if not isinstance(log, bool) or any(isinstance(one, bool) or not isinstance(one, int | float) for one in numbers):
        raise ValueError("low, high and step must be numbers, and log true or false")
    if not (all(map(isfinite, numbers)) and low < high):
        raise ValueError("low must be less than high")
    if log and (low <= 0 or step is not None):
        raise ValueError("a log scale needs a low above 0, and has no step")
    if step is not None and not 0 < step <= high - low:
        raise ValueError("step must be above 0, and not larger than the range")
    if isinstance(step, float) or isinstance(low, float) or isinstance(high, float):
        low, high, step = float(low), float(high), None if step is None else float(step)
    return Dimension(name, (), low, high, log, step)


def _check_space(value: Any) -> Any:
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"must be a table of settings, e.g. {EXAMPLE}")
    given, space = {str(name): one for name, one in value.items()}, dict[str, Any]()
    for name in sorted(given):  # the same search, whatever the order of its settings
        try:
            space[name] = parse_dimension(name, given[name]).to_json()
        except ValueError as error:
            raise UsageError(f"space.{name} = {given[name]!r}: {error}") from None
    return space


def _check_rungs(value: Any) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError("must be a list of rungs, each with folds and epochs")
    before = (0, 0)
    for rung in value:
        if not isinstance(rung, Mapping) or rung.keys() != {"folds", "epochs"}:
            raise ValueError("each rung must have folds and epochs")
        now = (rung["folds"], rung["epochs"])
        if not all(isinstance(one, int) and one >= 1 for one in now):
            raise ValueError("folds and epochs must be whole numbers, at least 1")
        if now[0] < before[0] or now[1] < before[1] or now == before:
            raise ValueError("each rung must have more folds or epochs than the one before, and no fewer of the other")
        before = now
    return [dict(rung) for rung in value]


class SearchOptions(Options):
    """What a search tries, and when candidates are stopped."""

    panel: ClassVar[str] = "Search"

    space: Annotated[Mapping[str, Any], BeforeValidator(_check_space)] = Field(
        description="The values of each setting, by its name: a list of choices, or low and high with log or step."
    )
    trials: int | None = Field(
        default=None,
        ge=1,
        le=MOST_TRIALS,
        description="Number of candidates; by default 16, for the sampler grid all combinations.",
    )
    sampler: Sampler = Field(
        default="tpe",
        description="How candidates are drawn: tpe, by the scores of those before; random; qmc, evenly; grid, all "
        "combinations in order.",
    )
    reduction: int = Field(
        default=2, ge=2, description="One in so many candidates goes on from each rung, and rungs are so far apart."
    )
    width: int | None = Field(
        default=None,
        ge=1,
        le=MOST_TRIALS,
        description="Candidates that are drawn and trained together: by default 16, for tpe those that it draws at "
        "random before it learns from scores, 10 or three more than there are settings.",
    )
    rungs: Annotated[Sequence[Mapping[str, int]], BeforeValidator(_check_rungs)] = Field(
        default=(),
        description="Folds and epochs after which candidates are compared; by default they follow from the reduction.",
    )

    @property
    def dimensions(self) -> list[Dimension]:
        """The settings that are searched."""
        return [parse_dimension(name, value) for name, value in self.space.items()]

    @property
    def informed_by(self) -> int:
        """The number of scores that tpe needs; with fewer, it draws at random."""
        return max(STARTUP, len(self.space) + 3)

    @property
    def wave(self) -> int:
        """The number of candidates that are drawn and trained together."""
        return self.width or (self.informed_by if self.sampler == "tpe" else USUAL)

    @property
    def combinations(self) -> int | None:
        """The number of different candidates; None if it is not bounded."""
        counts = [len(dimension.values) for dimension in self.dimensions]
        return prod(counts) if all(counts) else None

    @property
    def total(self) -> int:
        """The number of candidates. Raises UsageError for a grid over values that cannot be counted."""
        if self.sampler == "grid":
            for dimension in self.dimensions:
                if not dimension.values:
                    raise UsageError(
                        f"space.{dimension.name}: the sampler grid needs a step or a list of choices; add one, or use "
                        "another sampler"
                    )
        usual = min(self.combinations or MOST_TRIALS, MOST_TRIALS) if self.sampler == "grid" else USUAL
        return min(self.trials or usual, self.combinations or MOST_TRIALS)


def as_search(value: Any) -> Any:
    """A search as a table of all of its options, from the path of a TOML file or from a table. Raises UsageError."""
    if value is None:
        return None
    value = as_text(value)
    if isinstance(value, Mapping):
        return _parse(value, "search.")
    try:
        table = tomllib.loads(Path(value).read_text())
    except (FileNotFoundError, IsADirectoryError, TypeError):
        raise UsageError(f"--search {value} is not a file; give the path of a TOML file with a table space") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--search {value} is not valid TOML: {error}") from None
    return _parse(table, f"{value}: ")


def _parse(table: Mapping[str, Any], where: str) -> Any:
    """A table of all options of a search. Raises UsageError, which says `where` they were given."""
    try:
        return SearchOptions.parse(table, name=lambda option: f"{option} =").model_dump(mode="json", exclude_none=True)
    except UsageError as error:
        raise UsageError(f"{where}{error}") from None


Search = Annotated[str | PathLike[str] | Mapping[str, Any] | None, BeforeValidator(as_search)]
"""The path of a TOML file, or its table; checked values are a table of all options."""
