"""The journal of a run's schedule: every event, durable before anything is done about it; and for those who look, when
it happened, which attempts were begun, which workers replaced, and
when a command has stopped."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from ...storage.files import sync_directory
from ...storage.object_path import AnyPath, ObjectPath
from .schedule import Ended, Event, NodeLost, NodeSeen, Observed, Resources, Restarted, Silent, Start

KINDS: dict[str, type[Event]] = {
    kind.__name__: kind for kind in (NodeSeen, NodeLost, Ended, Silent, Observed, Restarted)
}


class Journal:
    """A file of JSON lines, or an object, which is written anew for each. A line that a crash has cut short was not
    acted upon, and does not count."""

    def __init__(self, path: AnyPath) -> None:
        self.path = path

    def lines(self) -> Iterator[dict[str, Any]]:
        """All that was written, in its order: events by their names and fields, attempts as they were begun, workers as
        they were replaced, and stops, each with its `time` in seconds since 1970."""
        if self.path.exists():
            for line in self.path.read_bytes().splitlines(keepends=True):
                if line.endswith(b"\n"):
                    yield json.loads(line)

    def read(self) -> Iterator[Event]:
        """All events, in their order."""
        return (from_json(line) for line in self.lines() if "event" in line)

    def append(self, event: Event) -> None:
        """Add an event, and return when it is durable."""
        self._write(to_json(event))

    def record_start(self, start: Start, folds: Sequence[str]) -> None:
        """Add that an attempt at a unit of some folds is begun."""
        self._write({"start": start.unit, "attempt": start.attempt, "folds": list(folds)})

    def record_replacement(self, unit: str, attempt: int, reason: str) -> None:
        """Add that an attempt at a unit goes on with other workers."""
        self._write({"replaced": unit, "attempt": attempt, "reason": reason})

    def record_stop(self) -> None:
        """Add that the command goes on with nothing, having come to its end or been told to stop."""
        self._write({"stopped": True})

    def _write(self, value: dict[str, Any]) -> None:
        line = json.dumps({**value, "time": time.time()}).encode() + b"\n"
        new = not self.path.exists()
        if isinstance(self.path, ObjectPath):
            self.path.write_bytes(line if new else self.path.read_bytes() + line)
            return
        with open(self.path, "r+b" if not new else "xb") as file:
            file.truncate(self._sound_length())
            file.seek(0, os.SEEK_END)
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if new:
            sync_directory(self.path.parent)

    def _sound_length(self) -> int:
        return self.path.read_bytes().rfind(b"\n") + 1


def to_json(event: Event) -> dict[str, Any]:
    fields = asdict(event)
    if isinstance(event, Observed):
        fields["attempts"] = sorted(map(list, event.attempts))
    return {"event": type(event).__name__, **fields}


def from_json(value: dict[str, Any]) -> Event:
    fields = {name: item for name, item in value.items() if name not in ("event", "time")}
    if "resources" in fields:
        fields["resources"] = Resources(**fields["resources"])
    if "attempts" in fields:
        fields["attempts"] = frozenset((unit, attempt) for unit, attempt in fields["attempts"])
    return KINDS[value["event"]](**fields)
