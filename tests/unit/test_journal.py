"""The journal of a run's schedule, and what decides how its folds are trained."""

from dataclasses import replace
from pathlib import Path

import pytest
from foldstream.cluster.journal import Journal
from foldstream.cluster.runs import Execution, choose_fold_mode, plan_units
from foldstream.cluster.schedule import Ended, Event, NodeLost, NodeSeen, Observed, Resources, Restarted, Silent
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import UsageError
from foldstream.training.batch import Rank
from foldstream.training.config import TrainConfig
from foldstream.training.filters import EveryRow
from foldstream.training.fused_stream import FusedStream
from foldstream.training.stream import Mixing

EVENTS: list[Event] = [
    NodeSeen("a", Resources(2.0, 1.0, 1 << 34)),
    Ended("fold-0", 1),
    Ended("fold-1", 1, "no «such» layer\nsecond line"),
    Silent("fold-1", 2, 30.5),
    Observed(frozenset({("fold-2", 1), ("fold-3", 2)})),
    NodeLost("a"),
    Restarted(),
]


def test_events_are_read_as_they_were_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    assert list(journal.read()) == []
    for event in EVENTS:
        journal.append(event)
    assert list(Journal(journal.path).read()) == EVENTS


@pytest.mark.parametrize("length", [1, 10, 40])
def test_a_line_that_was_cut_short_does_not_count(length: int, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for event in EVENTS[:3]:
        journal.append(event)
    data = journal.path.read_bytes()
    journal.path.write_bytes(data[:-length])
    assert list(journal.read()) == EVENTS[:2]
    journal.append(EVENTS[3])
    assert list(journal.read()) == [*EVENTS[:2], EVENTS[3]]


FOLDS = ("fold 0", "fold 2", "lr=0.1 fold 3")


def test_folds_are_one_unit_or_each_its_own() -> None:
    execution = Execution(2, memory=100)
    fused = plan_units(FOLDS, replace(execution, fold_mode="fused"), use_gpu=True)
    assert [(unit.folds, unit.demand) for unit in fused.values()] == [(FOLDS, Resources(2, 2, 200))]
    runs = plan_units(FOLDS, replace(execution, fold_mode="runs"), use_gpu=False)
    assert [(unit.folds, unit.demand) for unit in runs.values()] == [((fold,), Resources(2, 0, 200)) for fold in FOLDS]


def test_the_fold_mode_follows_from_the_memory(digits: Dataset) -> None:
    config = TrainConfig()
    assert choose_fold_mode(digits, 5, config, Execution(2), 1000)[0] == "fused"
    mode, reason = choose_fold_mode(digits, 5, config, Execution(2), 10**12)
    assert mode == "runs"
    assert "5 models at once need 100,000.0 GB" in reason
    rows = dict.fromkeys(range(5), EveryRow(digits.layout))
    needed = FusedStream(digits, rows, Mixing(config.batch_size), Rank(0, 2)).memory_needed
    enough, short = Execution(2, memory=needed, fold_mode="fused"), Execution(2, memory=needed - 1, fold_mode="fused")
    assert choose_fold_mode(digits, 5, config, enough, 1000)[0] == "fused"
    with pytest.raises(UsageError, match="--fold-mode runs"):
        choose_fold_mode(digits, 5, config, short, 1000)
    with pytest.raises(UsageError, match="did you mean «fused»"):
        choose_fold_mode(digits, 5, config, Execution(2, fold_mode="fussed"), 1000)
