"""What the candidates of a search have cost: epochs of folds and rows, from the folders of their folds, and seconds,
from the journal."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ...storage.fold_plan import open_plan
from ...storage.places.json_files import read_json
from ...storage.places.place import Place
from ...training.run import FoldFolder, RunFolder
from ..runs.grid import candidate_folder
from ..runs.journal import Journal
from .plan import Rung
from .record import SearchRecord, stage_name

Epochs = list[dict[str, Any]]
"""The metrics of a fold's epochs."""


@dataclass(frozen=True)
class Cost:
    """Epochs of folds, rows that were trained on, counted once per epoch, and seconds. Candidates that trained in one
    pass share its seconds by their rows."""

    fold_epochs: int = 0
    rows: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.fold_epochs + other.fold_epochs, self.rows + other.rows, self.seconds + other.seconds)


def histories(root: Place, record: SearchRecord) -> dict[int, list[Epochs]]:
    """The epochs of each candidate by its number, for each of its folds, also those of a refit."""
    rungs, found = record.rules.rungs, dict[int, list[Epochs]]()
    for number, name in record.names().items():
        run = candidate_folder(root, name)
        folds = len(open_plan(run.folds).models) + 1 if run.job.exists() else 0
        found[number] = [history_of(run.fold(fold), rungs) for fold in range(folds)]
    return found


def history_of(folder: FoldFolder, rungs: Iterable[Rung]) -> Epochs:
    """The epochs of a fold that were committed. That in which it diverged has only its rows."""
    for place in (folder.done, folder.diverged, *(folder.rung(rung.epochs) for rung in reversed([*rungs]))):
        if place.exists():
            value = read_json(place)
            return [*value["history"], *([{"rows": value["rows"]}] if "reason" in value else [])]
    return []


def trained_to(rungs: Sequence[Rung], rung: int, folds: list[Epochs]) -> Cost:
    """What a candidate has trained until it reached a rung, without its seconds; nothing before the first. The refit,
    which comes after the other folds, trains along at the end."""
    if rung < 0:
        return Cost()
    count = len(folds) if rung == len(rungs) - 1 else rungs[rung].folds_of(len(folds) - 1)
    epochs = [epoch for fold in folds[:count] for epoch in fold[: rungs[rung].epochs]]
    return Cost(len(epochs), sum(epoch["rows"] for epoch in epochs))


def costs(root: Place, record: SearchRecord, epochs: Mapping[int, list[Epochs]]) -> dict[int, Cost]:
    """The cost of each candidate by its number, from the epochs of its folds."""
    seconds, total = seconds_of_stages(Journal(RunFolder(root).journal)), dict.fromkeys(epochs, Cost())
    for number, one in enumerate(record.passes, 1):
        rows = dict[int, Cost]()
        for trial in one.trials:
            earlier, after = (trained_to(record.rules.rungs, at, epochs[trial]) for at in (one.rung - 1, one.rung))
            rows[trial] = Cost(after.fold_epochs - earlier.fold_epochs, after.rows - earlier.rows)
        each = seconds.get(stage_name(record, number), 0.0) / max(1, sum(cost.rows for cost in rows.values()))
        for trial, cost in rows.items():
            total[trial] += cost + Cost(seconds=each * cost.rows)
    return total


def full_cost(folds: list[Epochs], trials: int) -> Cost:
    """The cost of training so many candidates to the end, given the epochs of one that has done so."""
    epochs = [epoch for fold in folds for epoch in fold]
    return Cost(trials * len(epochs), trials * sum(epoch["rows"] for epoch in epochs))


def seconds_of_stages(journal: Journal) -> dict[str, float]:
    """The seconds of each stage in which something was trained, in all attempts. What a killed command did after its
    last event is not known."""
    spent, stage, since, last = dict[str, float](), "", None, 0.0
    for line in journal.lines():
        if "stage" in line or "stopped" in line or line.get("event") == "Restarted":
            until = line["time"] if "stopped" in line else last
            if since is not None:
                spent[stage] = spent.get(stage, 0.0) + max(0.0, until - since)
            stage, since = line.get("stage", stage), None
        elif "start" in line and since is None:
            since = line["time"]
        last = line["time"]
    return spent


def mean_curve(folds: list[Epochs], metric: str) -> list[float]:
    """A score by epoch: the mean over the folds that have trained so far."""
    longest = max(map(len, folds), default=0)
    every = ([fold[epoch] for fold in folds if len(fold) > epoch and metric in fold[epoch]] for epoch in range(longest))
    return [fmean(one[metric] for one in epochs) for epochs in every if epochs]
