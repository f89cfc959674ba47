"""The log of a job, kept with its run so that it outlives the machine on which the job ran."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from ...training.run import RunFolder
from ..listener import Listener


@contextmanager
def job_log(run: RunFolder, listener: Listener) -> Iterator[Listener]:
    """A listener that also writes to a new file in the run's `logs`, once that folder exists: addresses, the start and
    end of each stage, and how the job ended. The file is rewritten for each line, as object stores require; it is
    short."""
    started, lines, stages = datetime.now(UTC), list[str](), dict[str, bool]()
    place = run.logs / f"{started:%Y-%m-%dT%H-%M-%S.%f}.log"

    def write(text: str) -> None:
        lines.append(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}\n")
        if run.job.exists():
            place.write("".join(lines).encode())

    def progress(stage: str, done: int, total: int, remark: str = "") -> None:
        listener.progress(stage, done, total, remark)
        if stages.get(stage) is not (ended := done >= total):
            stages[stage] = ended
            write(f"{stage}: {'done' if ended else 'started'}{f', {remark}' if remark else ''}")

    def announce(name: str, what: str) -> None:
        listener.announce(name, what)
        write(f"{name}: {what}")

    write(f"on {platform.node()}")
    try:
        yield replace(listener, progress=progress, announce=announce)
    except BaseException as error:
        write(f"{type(error).__name__}: {error}")
        raise
    write("done")
