"""The journal of a run's schedule."""

from pathlib import Path

import pytest
from foldstream.cluster.journal import Journal
from foldstream.cluster.schedule import Ended, Event, NodeLost, NodeSeen, Observed, Resources, Restarted, Silent

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
