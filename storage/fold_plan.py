"""A fold plan on disk: a one-byte code per row, and for each model the codes of the rows it trains on.

Each repeat has its own array of codes. The plan stores codes rather than folds so that it can also express that a
model trains on earlier rows only, that rows fall into a gap, or that no model sees them.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .dataset import StoredArrays, open_arrays
from .format.arrays import ArraySpec
from .places.locate import Location

MOST_CODES = 256  # of one byte


@dataclass(frozen=True)
class ModelRows:
    """The rows that a model trains on, and those held out to score it, by their codes in an array."""

    array: str
    train: tuple[int, ...]
    held_out: tuple[int, ...]


@dataclass(frozen=True)
class FoldPlan(StoredArrays):
    """The fold of every row of a dataset, in the same blocks and shards as the dataset."""

    @cached_property
    def models(self) -> tuple[ModelRows, ...]:
        """The rows of each model: the folds of the first repeat, then those of the second, and so on."""
        return tuple(
            ModelRows(one["array"], tuple(one["train"]), tuple(one["held_out"]))
            for one in self.manifest.details["models"]
        )

    @property
    def holdout(self) -> ModelRows:
        """The rows that no model sees, for scoring the ensemble."""
        return ModelRows(code_array(0), (), tuple(self.manifest.details["holdout"]))

    def model(self, number: int) -> ModelRows:
        """The rows of a model. The number after the last fold is the refit: all rows except the holdout, and those that
        share some of their data with it."""
        if number < len(self.models):
            return self.models[number]
        codes = range(self.codes(code_array(0)))
        never = {*self.holdout.held_out, *self.manifest.details.get("purged", ())}
        return ModelRows(code_array(0), tuple(code for code in codes if code not in never), ())

    def codes(self, array: str) -> int:
        """Number of codes in an array."""
        return int(self.block_table(f"{array}_counts").shape[1])

    def counts(self, array: str, codes: tuple[int, ...]) -> np.ndarray:
        """Number of rows with one of the codes in every block, (blocks,) int64."""
        table = self.block_table(f"{array}_counts").astype(np.int64)
        counts: np.ndarray = table[:, list(codes)].sum(axis=1)
        return counts


def code_array(repeat: int) -> str:
    """The name of a repeat's array of codes: fold, fold_1, fold_2, …"""
    return f"fold_{repeat}" if repeat else "fold"


def code_arrays(repeats: int) -> tuple[ArraySpec, ...]:
    """The arrays of a plan with `repeats` repeats."""
    return tuple(ArraySpec(code_array(repeat), "uint8") for repeat in range(repeats))


def among(codes: np.ndarray, chosen: tuple[int, ...]) -> np.ndarray:
    """Mask of the codes that are in `chosen`, (rows,) bool."""
    table = np.zeros(MOST_CODES, bool)
    table[list(chosen)] = True
    mask: np.ndarray = table[codes]
    return mask


def open_plan(place: Location) -> FoldPlan:
    """Open a fold plan. Raises ForeignError if there is none."""
    stored = open_arrays(place, "folds")
    return FoldPlan(stored.place, stored.manifest, stored.identity)
