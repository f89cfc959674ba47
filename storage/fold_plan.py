"""A fold plan on disk: for every row a code of one byte, and for every model the codes that it trains on.

There is one array of codes for each repeat. Codes, not folds, are what is stored: so a plan can say as well that a
model trains on earlier rows only, that rows lie in a gap, or that no model sees them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .dataset import StoredArrays, open_arrays
from .format import ArraySpec
from .object_path import AnyPath

PLANS = "splits"  # the folder of a dataset's own plans, by their names
MOST_CODES = 256  # that a byte holds


@dataclass(frozen=True)
class ModelRows:
    """Which rows a model trains on, and which are held out to score it: those with these codes in an array."""

    array: str
    train: tuple[int, ...]
    held_out: tuple[int, ...]


@dataclass(frozen=True)
class FoldPlan(StoredArrays):
    """The fold of every row of a dataset, in the dataset's boundaries."""

    @cached_property
    def models(self) -> tuple[ModelRows, ...]:
        """What each of the plan's models sees: the folds of the first repeat, then those of the next."""
        return tuple(
            ModelRows(one["array"], tuple(one["train"]), tuple(one["held_out"]))
            for one in self.manifest.details["models"]
        )

    @property
    def holdout(self) -> ModelRows:
        """The rows that no model sees, to score all of them together."""
        return ModelRows(code_array(0), (), tuple(self.manifest.details["holdout"]))

    def model(self, number: int) -> ModelRows:
        """What a model sees. The one behind the last is that of no fold: it trains on all rows but the holdout."""
        if number < len(self.models):
            return self.models[number]
        codes = range(self.block_table(f"{code_array(0)}_counts").shape[1])
        return ModelRows(code_array(0), tuple(code for code in codes if code not in self.holdout.held_out), ())

    def counts(self, array: str, codes: tuple[int, ...]) -> np.ndarray:
        """Rows of every block with one of the codes, (blocks,) int64."""
        table = self.block_table(f"{array}_counts").astype(np.int64)
        counts: np.ndarray = table[:, list(codes)].sum(axis=1)
        return counts


def code_array(repeat: int) -> str:
    """The name of a repeat's array of codes: fold, fold_1, fold_2, …"""
    return f"fold_{repeat}" if repeat else "fold"


def code_arrays(repeats: int) -> tuple[ArraySpec, ...]:
    """The arrays of a plan."""
    return tuple(ArraySpec(code_array(repeat), "uint8") for repeat in range(repeats))


def among(codes: np.ndarray, chosen: tuple[int, ...]) -> np.ndarray:
    """Which of the codes are chosen ones, (rows,) bool."""
    table = np.zeros(MOST_CODES, bool)
    table[list(chosen)] = True
    mask: np.ndarray = table[codes]
    return mask


def open_plan(place: str | AnyPath) -> FoldPlan:
    """The plan that was written to a place. Raises ForeignError where there is none."""
    stored = open_arrays(place, "folds")
    return FoldPlan(stored.place, stored.manifest, stored.identity)
