"""Who listens to a job: to its progress, and to the addresses of its dashboards."""

from collections.abc import Callable
from dataclasses import dataclass

from ..storage.tasks import Progress, silent

Announce = Callable[[str, str], None]
"""Called with the name of a server and its address, or of what was decided and how."""


@dataclass(frozen=True)
class Listener:
    """Who is told how far a job is, and where its dashboards are."""

    progress: Progress = silent
    announce: Announce = lambda name, address: None


SILENT = Listener()
