"""The journal of a run's schedule."""

import time
from pathlib import Path

import pytest
from foldstream.cluster.runs.journal import Journal
from foldstream.cluster.runs.schedule import (
    Ended,
    Event,
    NodeLost,
    NodeSeen,
    Observed,
    Resources,
    Restarted,
    Silent,
    Start,
)
from foldstream.storage.places.locate import locate

EVENTS: list[Event] = [
    NodeSeen("a", Resources(2.0, 1.0, 1 << 34)),
    Ended("fold-0", 1),
    Ended("fold-1", 1, "no 'such' layer\nsecond line"),
    Ended("fold-1", 1, "no disk", final=True),
    Silent("fold-1", 2, 30.5),
    Observed(frozenset({("fold-2", 1), ("fold-3", 2)})),
    NodeLost("a"),
    Restarted(),
]


def test_events_are_read_as_they_were_written(tmp_path: Path) -> None:
    journal = Journal(locate(tmp_path / "journal.jsonl"))
    assert list(journal.read()) == []
    for event in EVENTS:
        journal.append(event)
    assert list(Journal(journal.path).read()) == EVENTS


def test_starts_replaced_workers_and_times_are_for_those_who_look(tmp_path: Path) -> None:
    journal, before = Journal(locate(tmp_path / "journal.jsonl")), time.time()
    journal.append(EVENTS[0])
    journal.record_start(Start("fold-0-to-fold-1", 1), ("fold 0", "fold 1"))
    journal.record_replacement("fold-0-to-fold-1", 1, "worker 1 died")
    journal.append(EVENTS[1])
    assert list(journal.read()) == EVENTS[:2]
    seen, start, replaced, ended = journal.lines()
    assert (replaced["replaced"], replaced["attempt"], replaced["reason"]) == (start["start"], 1, "worker 1 died")
    assert start == {"start": "fold-0-to-fold-1", "attempt": 1, "folds": ["fold 0", "fold 1"], "time": start["time"]}
    assert before <= seen["time"] <= start["time"] <= ended["time"] <= time.time()


@pytest.mark.parametrize("length", [1, 10, 40])
def test_a_line_that_was_cut_short_does_not_count(length: int, tmp_path: Path) -> None:
    journal = Journal(locate(tmp_path / "journal.jsonl"))
    for event in EVENTS[:3]:
        journal.append(event)
    data = journal.path.read_bytes()
    journal.path.write(data[:-length])
    assert list(journal.read()) == EVENTS[:2]
    journal.append(EVENTS[3])
    assert list(journal.read()) == [*EVENTS[:2], EVENTS[3]]
