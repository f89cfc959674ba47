"""Callbacks: user code that is notified of the events of a run.

They run in the command's process and read events from the run's record, so they never slow down a training step.
When a run is resumed, they are notified only of new events.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Self

from ...storage.errors import FoldstreamError, UsageError, did_you_mean
from ...storage.places.place import Place
from ...storage.programs.loading import load_entry
from ...storage.programs.user_code import describe_error
from ..runs.status import FoldStatus, Phase, RunRecord, RunStatus

GROUP = "foldstream.callbacks"
"""The entry point group in which packages register callbacks."""

POLL_SECONDS = 0.5
FAILED = ("failed", "interrupted")

log = logging.getLogger(__name__)

CallbackFactory = Callable[[], "Callback"]

CallbackEvent = tuple[str, tuple[Any, ...]]
"""The name of a `Callback` method, and its arguments."""


class Callback:
    """Receives the events of a run. Override the methods you need; by default they do nothing. `fold` is the name of a
    fold, such as 'fold 0'.

    Example:
        >>> class Log(fs.Callback):
        ...     def fold_ended(self, fold, metrics):
        ...         print(fold, "has ended")
        >>> run = fs.train("flowers.zarr", "runs/logged", model="mlp", folds=2, epochs=1, callbacks=[Log()])
        fold 0 has ended
        fold 1 has ended
    """

    def run_begun(self, run: str, folds: Sequence[str], config: Mapping[str, Any]) -> None:
        """Called when the command starts or resumes a run.

        Args:
            run: Path or URL of the run.
            folds: Names of the folds that are still to be trained.
            config: The run's configuration.
        """

    def fold_begun(self, fold: str, attempt: int) -> None:
        """Called when an attempt to train a fold starts.

        Args:
            fold: Name of the fold.
            attempt: Number of the attempt, from 1.
        """

    def epoch_ended(self, fold: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        """Called after each epoch.

        Args:
            fold: Name of the fold.
            epoch: Number of the epoch, from 1.
            metrics: Losses, scores, rows and seconds of the epoch, and `ranks`: the seconds that each rank spent on
                each activity.
        """

    def checkpoint_written(self, fold: str, name: str) -> None:
        """Called when a checkpoint has been written.

        Args:
            fold: Name of the fold.
            name: File name of the checkpoint, in the fold's folder.
        """

    def fold_failed(self, fold: str, attempt: int, error: str) -> None:
        """Called when an attempt to train a fold has failed.

        Args:
            fold: Name of the fold.
            attempt: Number of the attempt, from 1.
            error: Why it failed.
        """

    def fold_ended(self, fold: str, metrics: Mapping[str, Any]) -> None:
        """Called when a fold is fully trained.

        Args:
            fold: Name of the fold.
            metrics: Metrics of its last epoch.
        """

    def run_ended(self, summary: Mapping[str, Any]) -> None:
        """Called when the predictions of all folds have been merged.

        Args:
            summary: What `train` returns; for a grid, the summary of the best candidate.
        """

    def close(self) -> None:
        """Called when the command ends, whether it succeeded or failed."""


def find_callback(name: str) -> CallbackFactory:
    """Find the factory of the callback that `NAME` or `NAME=ARGUMENT` describes.

    `NAME` is an entry point of the group 'foldstream.callbacks' (`mlflow=EXPERIMENT`), `path/to/file.py:factory` or
    `package.module:factory`. The factory receives `ARGUMENT` as a string.

    Raises UsageError if the callback does not exist; the factory raises it if it cannot create one.
    """
    target, separator, argument = name.partition("=")
    own = ":" in target
    factory = load_entry("--callback", target, in_place=True) if own else _load_entry_point(target)

    def make() -> Callback:
        try:
            made = factory(*[argument] * bool(separator))
        except UsageError:
            raise
        except ModuleNotFoundError as error:
            raise UsageError(
                f"--callback {target}: {error.name} is not installed; run 'pip install {error.name}'"
            ) from None
        except Exception as error:  # user code may raise anything
            raise UsageError(f"--callback {name} cannot be created: {describe_error(error)}") from error
        if not isinstance(made, Callback):
            raise UsageError(
                f"--callback {target} returned {type(made).__name__}; it must return a foldstream.Callback"
            )
        return made

    return make


def map_target(name: str, change: Callable[[str], str]) -> str:
    """Apply `change` to the `NAME` of `NAME=ARGUMENT`."""
    target, separator, argument = name.partition("=")
    return change(target) + separator + argument


def _load_entry_point(name: str) -> Any:
    """Load a callback that an installed package registers. Raises UsageError if none has that name."""
    offered = {point.name: point for point in entry_points(group=GROUP)}
    if name not in offered:
        raise UsageError(
            f"--callback '{name}': unknown callback; {did_you_mean(name, offered)}use one of "
            f"{', '.join(sorted(offered))}, path/to/file.py:factory or package.module:factory"
        )
    return offered[name].load()


class Callbacks:
    """A context manager that creates callbacks and notifies them of new events in the record of the run at `root`, from
    a background thread."""

    def __init__(self, factories: Sequence[CallbackFactory], root: Place) -> None:
        self.factories, self.root = factories, root
        self.callbacks, self.failed = list[Callback](), list[Callback]()
        self.record = RunRecord(root)
        self.before = self.record.poll() if factories else RunStatus(False, [])
        self.lock, self.ended = threading.RLock(), threading.Event()
        self.follower = threading.Thread(target=self._follow, name="foldstream-callbacks", daemon=True)

    def __enter__(self) -> Self:
        try:
            for make in self.factories:
                self.callbacks.append(make())
        except UsageError:
            self.notify("close")
            raise
        if self.callbacks:
            self.follower.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()
        self.notify("close")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Notify the callbacks of all remaining events, and then of the end of the run."""
        self._stop()
        self.notify("run_ended", summary)

    def notify(self, name: str, *arguments: Any) -> None:
        """Call a method of every callback. One that raises is logged, and receives no more events except `close`."""
        with self.lock:
            for callback in self.callbacks:
                if callback in self.failed and name != "close":
                    continue
                try:
                    getattr(callback, name)(*arguments)
                except Exception:  # user code may raise anything
                    log.exception(
                        "%s.%s failed; it receives no more events, but the run continues", type(callback).__name__, name
                    )
                    self.failed.append(callback)

    def _follow(self) -> None:
        while not self.ended.wait(POLL_SECONDS):
            self._poll()

    def _stop(self) -> None:
        """Poll one last time, and stop the thread."""
        if self.callbacks and not self.ended.is_set():
            self.ended.set()
            self.follower.join()
            self._poll()

    def _poll(self) -> None:
        """Notify the callbacks of new events in the record."""
        with self.lock:
            try:
                status = self.record.poll()
            except (OSError, FoldstreamError) as error:  # a file is being written, or the object store is busy
                log.warning("cannot read the record of %s at the moment: %s", self.root, error)
                return
            for name, arguments in events_between(self.before, status):
                self.notify(name, *arguments)
            self.before = status


def events_between(before: RunStatus, after: RunStatus) -> Iterator[CallbackEvent]:
    """The events between two snapshots of a run's status, fold by fold."""
    known = {fold.name: fold for fold in before.folds}
    for fold in after.folds:  # those of a search's candidates begin one after the other
        yield from _fold_events(known.get(fold.name) or _before(fold), fold)


def _before(fold: FoldStatus) -> FoldStatus:
    """The status of a fold before it began."""
    return FoldStatus(fold.name, False, 0.0, fold.total_epochs, [], "", fold.unit, [])


def _fold_events(before: FoldStatus, after: FoldStatus) -> Iterator[CallbackEvent]:
    """The events of one fold. Attempts are identified by their start time: their numbers restart at 1 after a
    failure."""
    started, failed = ({phase.start for phase in attempts_of(before, *states)} for states in ((), FAILED))
    for phase in attempts_of(after):
        if phase.start not in started:
            yield "fold_begun", (after.name, phase.attempt)
        if phase.state in FAILED and phase.start not in failed:
            yield "fold_failed", (after.name, phase.attempt, phase.error or phase.state)
    for number in range(len(before.history), len(after.history)):
        yield "epoch_ended", (after.name, number + 1, after.history[number])
    if after.checkpoint and after.checkpoint != before.checkpoint:
        yield "checkpoint_written", (after.name, after.checkpoint)
    if after.done and not before.done:
        yield "fold_ended", (after.name, after.scores)


def attempts_of(fold: FoldStatus, *states: str) -> list[Phase]:
    """The attempts to train a fold, or only those in the given states."""
    return [phase for phase in fold.phases if (phase.state in states if states else phase.state != "waiting")]
