"""The curves of a run's page, computed from the metrics of its epochs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from ...storage.metrics.names import main_scores
from ..runs.status import FoldStatus
from .facts import NOT_SCORES, TIMES

MOST_POINTS = 1000  # per curve; longer ones show every second, fourth, … epoch and the last
MOST_LINES = 10  # folds drawn as individual curves; with more, only mean and band are drawn
FAMILIES = {"train_loss": ("loss", "training"), "loss": ("loss", "held out")}
"""The chart and the family of scores that are drawn in the same chart."""

RATE = "rows/s"  # while training
STEPS = "training loss within epochs"

Points = dict[str, np.ndarray]
"""`epoch` and `value`, (points,) each; for a mean also `low` and `high` over its folds."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve: its chart, its family, the fold or mean that it shows, its points, and the index of its color, which is
    None for a mean that is drawn together with all of its folds."""

    chart: str
    family: str
    subject: str
    color: int | None
    points: Points

    @property
    def name(self) -> str:
        """Name of the curve's data source in the page."""
        return f"{self.chart}, {self.family}, {self.subject}"


def score_names(folds: Sequence[FoldStatus]) -> list[str]:
    """Names of the scores in the folds' metrics."""
    found = (name for fold in folds for name, value in fold.scores.items() if isinstance(value, float))
    return [name for name in main_scores(dict.fromkeys(found)) if name not in NOT_SCORES]


def curves_of(folds: Sequence[FoldStatus]) -> Iterator[Curve]:
    """All curves, chart by chart: the curve of each fold up to its last epoch, and the mean over each candidate's
    folds, computed at each epoch from the folds that have reached it."""
    yield from _within_epochs(folds)
    trained = [(number, fold) for number, fold in enumerate(folds) if fold.history]
    candidates = list(dict.fromkeys(fold.candidate for fold in folds))
    for name in sorted(score_names(folds), key=lambda name: name not in FAMILIES):
        chart, family = FAMILIES.get(name, (name, "held out"))
        if len(folds) <= MOST_LINES:
            for number, fold in trained:
                chosen = epoch_indices(len(fold.history))
                yield Curve(chart, family, fold.name, number, points(chosen, value=scores_of(fold, name, chosen)))
        for number, candidate in enumerate(candidates):
            own = [fold for _, fold in trained if fold.candidate == candidate and not fold.name.endswith("refit")]
            if own:
                color = number % MOST_LINES if candidate and len(folds) > MOST_LINES else None
                yield Curve(chart, family, f"{candidate} mean".strip(), color, mean_of(own, name))
    every = rates_of(folds)
    for unit, rates in every.items():
        chosen, members = epoch_indices(len(rates)), [number for number, fold in enumerate(folds) if fold.unit == unit]
        color = None if len(members) > 1 and len(every) == 1 else members[0] % MOST_LINES
        whose = unit if len(members) > 1 else folds[members[0]].name
        yield Curve(RATE, "training pass", whose, color, points(chosen, value=rates[chosen]))


def _within_epochs(folds: Sequence[FoldStatus]) -> Iterator[Curve]:
    """The training loss of each fold within epochs; of many folds, of those that are running."""
    shown = [(number, fold) for number, fold in enumerate(folds) if fold.steps.get("losses")]
    if len(shown) > MOST_LINES:
        shown = [(number, fold) for number, fold in shown if fold.state == "running"][:MOST_LINES]
    for number, fold in shown:
        epochs, losses = np.array(fold.steps["losses"]).T
        yield Curve(STEPS, "training", fold.name, number % MOST_LINES, {"epoch": epochs, "value": losses})


def scores_of(fold: FoldStatus, name: str, chosen: np.ndarray) -> np.ndarray:
    """A score at the epochs with these indices; NaN where it is missing."""
    epochs = (fold.history[index] if index < len(fold.history) else {} for index in chosen)
    return np.array([epoch.get(name, np.nan) for epoch in epochs], float)


def mean_of(folds: Sequence[FoldStatus], name: str) -> Points:
    """The mean of a score over folds, with its band."""
    chosen = epoch_indices(max(len(fold.history) for fold in folds))
    values = np.stack([scores_of(fold, name, chosen) for fold in folds])
    there = ~np.isnan(values).all(axis=0)
    values = values[:, there]
    band = {"low": np.nanmin(values, axis=0), "high": np.nanmax(values, axis=0)}
    return points(chosen[there], value=np.nanmean(values, axis=0), **band)


def rates_of(folds: Sequence[FoldStatus]) -> dict[str, np.ndarray]:
    """Training rows per second of each unit, (epochs,): the rows of all folds of the unit, which share the seconds."""
    units: dict[str, list[FoldStatus]] = {}
    for fold in folds:
        if fold.history:
            units.setdefault(fold.unit, []).append(fold)
    rates = {}
    for unit, members in units.items():
        rows, seconds = np.zeros((2, max(len(fold.history) for fold in members)))
        for fold in members:
            rows[: len(fold.history)] += [epoch["rows"] for epoch in fold.history]
            seconds[: len(fold.history)] = [epoch["seconds"] for epoch in fold.history]
        rates[unit] = rows / seconds
    return rates


def epoch_indices(count: int) -> np.ndarray:
    """Indices of the epochs to draw, out of `count`. They stay the same until the number of epochs has doubled."""
    stride = 1
    while count > MOST_POINTS * stride:
        stride *= 2
    return np.unique(np.append(np.arange(0, count, stride), count - 1))


def points(chosen: np.ndarray, **columns: np.ndarray) -> Points:
    """Points at the epochs with these indices; index 0 is epoch 1."""
    return {"epoch": 1 + chosen, **columns}


def seconds_left(folds: Sequence[FoldStatus]) -> float | None:
    """Seconds until all folds are trained, assuming that waiting folds take as long as the others and as many run at
    once as now; None before the first epoch has finished."""
    left: dict[str, float] = {}
    known: list[float] = []
    running = {fold.unit for fold in folds if fold.state == "running"}
    for fold in folds:
        if fold.history:
            known.append(sum(fold.history[-1]["ranks"][0][name] for name in TIMES))
            if not fold.done:
                left[fold.unit] = max(left.get(fold.unit, 0.0), (fold.total_epochs - fold.epochs) * known[-1])
    if not known or not running:
        return None
    for fold in folds:
        if not fold.history and not fold.done:
            left[fold.unit] = max(left.get(fold.unit, 0.0), (fold.total_epochs - fold.epochs) * fmean(known))
    return sum(left.values()) / len(running)


def shares_of_time(folds: Sequence[FoldStatus]) -> dict[str, dict[str, float]]:
    """How each rank of the running units (or of all units if none is running) spent its time in the last epoch, in
    percent, by the name of the rank."""
    units: dict[str, list[dict[str, Any]]] = {}
    running = [fold for fold in folds if fold.state == "running"]
    for fold in sorted(running or folds, key=lambda fold: len(fold.history)):  # the most advanced fold of a unit wins
        if fold.history:
            units[fold.unit] = fold.history[-1]["ranks"]
    shares = {}
    for unit in sorted(units):
        for rank, spent in enumerate(units[unit]):
            total = sum(spent[name] for name in TIMES) or 1.0
            shares[f"{unit}, rank {rank}"] = {name: 100 * spent[name] / total for name in TIMES}
    return shares
