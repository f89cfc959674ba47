"""Listeners of a job's progress and of the addresses of its dashboards."""

from collections.abc import Callable
from dataclasses import dataclass

from ..storage.tasks import Progress, silent

Announce = Callable[[str, str], None]
"""Called with the name of a server and its address, a decision and its reason, or "warning" and a text."""


@dataclass(frozen=True)
class Listener:
    """The listener of a job: `progress` is called with its progress, `announce` with its dashboards' addresses."""

    progress: Progress = silent
    announce: Announce = lambda name, address: None


SILENT = Listener()
