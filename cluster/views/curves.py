"""What the curves of a run's page are, from the metrics of its folds' epochs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..status import FoldStatus
from .facts import NOT_SCORES, TIMES

MOST_POINTS = 1000  # of a curve: of more every n-th is drawn, and the last
MOST_LINES = 10  # folds with curves of their own; of more only mean and band are drawn
FAMILIES = {"train_loss": ("loss", "training"), "loss": ("loss", "held out")}
"""The chart that a score is drawn in, and what it is there, where it is not alone."""

RATE = "rows/s"  # of a training pass

Points = dict[str, np.ndarray]
"""`epoch` and `value`, (points,) each, and for a mean the `low` and the `high` of its folds."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve of a chart: of a fold by its place among the folds, or the mean of all."""

    chart: str
    family: str
    fold: int | None
    points: Points

    @property
    def name(self) -> str:
        """In the page."""
        return f"{self.chart}, {self.family}, {'mean' if self.fold is None else f'fold {self.fold}'}"


def score_names(folds: Sequence[FoldStatus]) -> list[str]:
    """The scores that the folds' epochs have."""
    found = (name for fold in folds for name, value in fold.scores.items() if isinstance(value, float))
    return [name for name in dict.fromkeys(found) if name not in NOT_SCORES]


def curves_of(folds: Sequence[FoldStatus]) -> Iterator[Curve]:
    """All curves, those of a chart one after the other: each fold's, as far as it has come, and their mean over those
    that have come as far."""
    names = [*sorted(score_names(folds), key=lambda name: (name not in FAMILIES, name)), RATE]
    longest = max((len(fold.history) for fold in folds), default=0)
    if not longest:
        return
    for name in names:
        chart, family = FAMILIES.get(name, (name, "training pass" if name == RATE else "held out"))
        values = np.full((len(folds), longest), np.nan)
        for number, fold in enumerate(folds):
            values[number, : len(fold.history)] = [value_of(epoch, name) for epoch in fold.history]
        if len(folds) <= MOST_LINES:
            for number, fold in enumerate(folds):
                yield Curve(chart, family, number, thinned({"value": values[number, : len(fold.history)]}))
        there = values[:, ~np.isnan(values).all(axis=0)]
        sums = {"value": np.nanmean(there, axis=0), "low": np.nanmin(there, axis=0), "high": np.nanmax(there, axis=0)}
        yield Curve(chart, family, None, thinned(sums))


def value_of(epoch: Mapping[str, Any], name: str) -> float:
    """A score of an epoch, or its rate."""
    return float(epoch["rows"] / epoch["seconds"] if name == RATE else epoch.get(name, np.nan))


def thinned(columns: Points) -> Points:
    """Some of a curve's points, and with `epoch` where they belong: the first is that of epoch 1."""
    count = len(columns["value"])
    chosen = np.arange(count - 1, -1, -max(1, -(-count // MOST_POINTS)))[::-1]
    return {"epoch": 1 + chosen, **{name: values[chosen] for name, values in columns.items()}}


def shares_of_time(folds: Sequence[FoldStatus]) -> dict[str, dict[str, float]]:
    """What the ranks of each unit spent the last epoch's time on, in per cent, by their names."""
    units: dict[str, list[dict[str, Any]]] = {}
    for fold in sorted(folds, key=lambda fold: len(fold.history)):  # of several the one that is the furthest
        if fold.history:
            units[fold.unit] = fold.history[-1]["ranks"]
    shares = {}
    for unit in sorted(units):
        for rank, spent in enumerate(units[unit]):
            total = sum(spent[name] for name in TIMES) or 1.0
            shares[f"{unit}, rank {rank}"] = {name: 100 * spent[name] / total for name in TIMES}
    return shares
