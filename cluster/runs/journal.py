"""The journal of a run's schedule: every event is durable before it is acted on. For observers, each line also has a
timestamp, and the journal records when attempts started, workers were replaced and commands stopped. A search trains in
several stages, each with its own schedule."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from ...storage.places.place import Place
from .schedule import Ended, Event, NodeLost, NodeSeen, Observed, Resources, Restarted, Silent, Start

EVENT_TYPES: dict[str, type[Event]] = {
    event.__name__: event for event in (NodeSeen, NodeLost, Ended, Silent, Observed, Restarted)
}


class Journal:
    """A file of JSON lines, or an object that is rewritten for each line. A line truncated by a crash was never acted
    on and is ignored."""

    def __init__(self, path: Place) -> None:
        self.path = path

    def lines(self) -> Iterator[dict[str, Any]]:
        """All lines, in order: events as their name and fields, started attempts, replaced workers and stops, each with
        its `time` in seconds since 1970."""
        if self.path.exists():
            for line in self.path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    yield json.loads(line)

    def read(self, stage: str = "") -> Iterator[Event]:
        """All events, in order, since a stage has begun; none if it has not, or if a later one has."""
        current, lines = "", list[dict[str, Any]]()
        for line in self.lines():
            if "stage" in line:
                current, lines = line["stage"], []
            elif "event" in line:
                lines.append(line)
        return map(from_json, lines if current == stage else ())

    def begin(self, stage: str) -> None:
        """Record that a stage begins, with a schedule of its own."""
        self._write({"stage": stage})

    def append(self, event: Event) -> None:
        """Append an event. Returns when it is durable."""
        self._write(to_json(event))

    def record_start(self, start: Start, folds: Sequence[str]) -> None:
        """Record that an attempt at a unit of these folds has started."""
        self._write({"start": start.unit, "attempt": start.attempt, "folds": list(folds)})

    def record_replacement(self, unit: str, attempt: int, reason: str) -> None:
        """Record that an attempt at a unit continues with other workers."""
        self._write({"replaced": unit, "attempt": attempt, "reason": reason})

    def record_stop(self) -> None:
        """Record that the command has stopped, because it finished or was interrupted."""
        self._write({"stopped": True})

    def _write(self, value: dict[str, Any]) -> None:
        line = json.dumps({**value, "time": time.time()}).encode() + b"\n"
        self.path.append_line(line)


def to_json(event: Event) -> dict[str, Any]:
    """An event as a JSON value: its class name and its fields."""
    fields = asdict(event)
    if isinstance(event, Observed):
        fields["attempts"] = sorted(map(list, event.attempts))
    return {"event": type(event).__name__, **fields}


def from_json(value: dict[str, Any]) -> Event:
    """The event of a JSON value."""
    fields = {name: item for name, item in value.items() if name not in ("event", "time")}
    if "resources" in fields:
        fields["resources"] = Resources(**fields["resources"])
    if "attempts" in fields:
        fields["attempts"] = frozenset((unit, attempt) for unit, attempt in fields["attempts"])
    return EVENT_TYPES[value["event"]](**fields)
