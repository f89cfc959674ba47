"""Non-negative least squares over all rows, from sums of products that are counted shard by shard.

Memory depends on the number of members and folds, not on the number of rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from .member_rows import MemberSource, targets_of

ROUNDING = 1e-12


@dataclass(frozen=True)
class GramTask:
    """Count the products of a shard. The errors of each output are divided by its `scale`, (outputs,) or empty."""

    source: MemberSource
    scale: tuple[float, ...]
    shard: int


@dataclass
class GramSums:
    """Weighted sums over rows, by their fold: `gram` (members, members) of the products of the members'
    predictions, `target` (members,) of those with the truth, and the number of rows; over all folds `errors` (members,
    members), of the products of their errors; and the number of rows without a prediction."""

    gram: dict[int, np.ndarray] = field(default_factory=dict)
    target: dict[int, np.ndarray] = field(default_factory=dict)
    rows: dict[int, int] = field(default_factory=dict)
    errors: np.ndarray | None = None
    uncovered: int = 0

    def add(self, other: "GramSums") -> None:
        for fold in other.rows:
            self.gram[fold] = self.gram.get(fold, 0.0) + other.gram[fold]
            self.target[fold] = self.target.get(fold, 0.0) + other.target[fold]
            self.rows[fold] = self.rows.get(fold, 0) + other.rows[fold]
        if other.errors is not None:
            self.errors = other.errors if self.errors is None else self.errors + other.errors
        self.uncovered += other.uncovered

    @property
    def folds(self) -> list[int]:
        """The folds whose rows have predictions."""
        return sorted(self.rows)

    def without(self, left_out: int | None) -> tuple[np.ndarray, np.ndarray]:
        """The sums over all rows except those of a fold."""
        chosen = [fold for fold in self.folds if fold != left_out]
        return sum_of(self.gram[fold] for fold in chosen), sum_of(self.target[fold] for fold in chosen)

    def correlation(self) -> list[list[float]]:
        """The correlation of the members' errors around zero, (members, members)."""
        if self.errors is None:
            return []
        size = np.sqrt(np.maximum(np.diag(self.errors), np.finfo(float).tiny))
        found: list[list[float]] = (self.errors / np.outer(size, size)).tolist()
        return found


def sum_of(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """The sum of at least one array."""
    total: np.ndarray = np.sum([*arrays], axis=0)
    return total


def gram_of_shard(task: GramTask) -> GramSums:
    """Run a task."""
    schema, shard = task.source.open_dataset().schema, task.source.read(task.shard)
    found, weight = GramSums(uncovered=int((shard.count == 0).sum())), shard.weights(schema)
    truth = targets_of(schema, shard.truth["y"])
    scale = np.array(task.scale) if task.scale else np.ones(truth.shape[1])
    for fold in np.unique(shard.folds).tolist():
        chosen = np.flatnonzero(shard.folds == fold)
        root = np.sqrt(weight[chosen])[:, None] / scale
        y = (truth[chosen] * root).ravel()
        x = (shard.predictions[:, chosen].astype(np.float64) * root).reshape(len(shard.predictions), -1)
        errors = (x - y) @ (x - y).T
        of_fold = GramSums({fold: x @ x.T}, {fold: x @ y}, {fold: len(chosen)}, errors)
        found.add(of_fold)
    return found


def solve_nnls(gram: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The weights w >= 0 that minimize w'Gw - 2 w't, (members,): the least squares fit of y by the columns of X, with
    G = X'X and t = X'y. This is the active-set method of Lawson and Hanson (1974), on the products as by Bro and De
    Jong (1997)."""
    size = np.sqrt(np.maximum(np.diag(gram), np.finfo(float).tiny))
    gram, target = gram / np.outer(size, size), target / size  # columns of length 1
    weights, passive = np.zeros(len(target)), np.zeros(len(target), bool)
    tolerance = ROUNDING * max(np.abs(target).max(), np.finfo(float).tiny)
    for _ in range(3 * len(target) ** 2):  # it ends after a few rounds; rounding must not make it endless
        slope = np.where(passive, -np.inf, target - gram @ weights)
        entering = int(slope.argmax())
        if slope[entering] <= tolerance:
            break
        passive[entering] = True
        while passive.any():
            trial = np.zeros(len(target))
            trial[passive] = np.linalg.lstsq(gram[np.ix_(passive, passive)], target[passive], rcond=None)[0]
            limiting = passive & (trial <= 0)
            if not limiting.any():
                weights = trial
                break
            step = (weights[limiting] / (weights[limiting] - trial[limiting])).min()
            weights = weights + step * (trial - weights)
            passive &= weights > ROUNDING
            weights[~passive] = 0.0
    solved: np.ndarray = weights / size
    return solved
