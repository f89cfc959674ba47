"""Listeners of a job's progress and of the addresses of its dashboards."""

from collections.abc import Callable
from dataclasses import dataclass

from ..storage.tasks import Progress, silent

Announce = Callable[[str, str], None]
"""Called with the name of a server and its address, a decision and its reason, or "warning" and a text."""


@dataclass(frozen=True)
class Listener:
    """The listener of a job, which a function notifies instead of showing progress bars.

    Args:
        progress: Called with the name of a stage, the units done, the total units, and a short remark.
        announce: Called with the name of a dashboard and its address, a decision and its reason, or "warning" and a
            text.

    Example:
        >>> told = {}
        >>> run = fs.train("flowers.zarr", "runs/flowers", model="mlp", folds=3, epochs=5, batch_size=16,
        ...                listener=fs.Listener(announce=told.__setitem__))
        >>> told["report"] == run.report
        True
    """

    progress: Progress = silent
    announce: Announce = lambda name, address: None


SILENT = Listener()
