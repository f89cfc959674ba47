"""Callbacks: code of the user's own that is told what happens in a run.

They run in the process of the command, and are told by the run's record: what they do costs the training no step. A run
that goes on tells of what is new only.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Self

from ...storage.errors import FoldstreamError, UsageError, did_you_mean
from ...storage.object_path import AnyPath
from ...training.zoo.factory import import_module
from ...training.zoo.user_code import in_words
from ..runs.status import FoldStatus, Phase, RunRecord, RunStatus

GROUP = "foldstream.callbacks"
"""The group of entry points by which a package offers callbacks."""

POLL_SECONDS = 0.5
FAILED = ("failed", "interrupted")

log = logging.getLogger(__name__)

CallbackFactory = Callable[[], "Callback"]

CallbackEvent = tuple[str, tuple[Any, ...]]
"""A method of `Callback`, and what it is called with."""


class Callback:
    """What happens in a run, a method each; those that are not wanted stay as they are. A fold is its name, as
    «fold 0»."""

    def run_begun(self, run: str, folds: Sequence[str], config: Mapping[str, Any]) -> None:
        """The command trains those folds of a run that are left, by its configuration."""

    def fold_begun(self, fold: str, attempt: int) -> None:
        """An attempt at a fold, counted from 1, is under way."""

    def epoch_ended(self, fold: str, epoch: int, metrics: Mapping[str, Any]) -> None:
        """An epoch, counted from 1, is over: its losses and scores, rows, seconds, and `ranks`, what each spent its
        seconds on."""

    def checkpoint_written(self, fold: str, name: str) -> None:
        """A checkpoint of that name is in the fold's folder."""

    def fold_failed(self, fold: str, attempt: int, error: str) -> None:
        """An attempt has failed."""

    def fold_ended(self, fold: str, metrics: Mapping[str, Any]) -> None:
        """A fold is trained to its end; the metrics are those of its last epoch."""

    def run_ended(self, summary: Mapping[str, Any]) -> None:
        """All folds are merged; the summary is what `train` returns, of a grid that of the best candidate."""

    def close(self) -> None:
        """The command leaves the run, however it has ended."""


def find_callback(name: str) -> CallbackFactory:
    """What makes the callback that `NAME` or `NAME=ARGUMENT` means: an entry point of the group «foldstream.callbacks»,
    as `mlflow=EXPERIMENT`, or `path/to/file.py:factory` or `package.module:factory`. The argument, text, goes to it.

    Raises UsageError where there is none, and then where it makes none.
    """
    target, separator, argument = name.partition("=")
    place, colon, attribute = target.rpartition(":")
    factory = getattr(import_module(place, "--callback", target), attribute, None) if colon else _offered(target)
    if not callable(factory):
        raise UsageError(f"--callback {target}: there is no function «{attribute}» in {place}")

    def make() -> Callback:
        try:
            made = factory(*[argument] * bool(separator))
        except UsageError:
            raise
        except ModuleNotFoundError as error:
            raise UsageError(f"--callback {target} needs {error.name}; pip install {error.name}") from None
        except Exception as error:  # the user's own code, of whatever kind
            raise UsageError(f"--callback {name} cannot be made: {in_words(error)}") from error
        if not isinstance(made, Callback):
            raise UsageError(f"--callback {target} gives {type(made).__name__}, not a foldstream.Callback")
        return made

    return make


def map_target(name: str, change: Callable[[str], str]) -> str:
    """`NAME=ARGUMENT` with another name, which the change makes of it."""
    target, separator, argument = name.partition("=")
    return change(target) + separator + argument


def _offered(name: str) -> Any:
    """What a package offers by an entry point. Raises UsageError."""
    offered = {point.name: point for point in entry_points(group=GROUP)}
    if name not in offered:
        raise UsageError(
            f"--callback «{name}» is not known: {did_you_mean(name, offered)}there are {', '.join(sorted(offered))}, "
            "path/to/file.py:factory, and package.module:factory"
        )
    return offered[name].load()


class Callbacks:
    """Several callbacks, made when it is entered. A thread of their own tells them what comes to the record of the run
    at `root`, until it is left."""

    def __init__(self, factories: Sequence[CallbackFactory], root: AnyPath) -> None:
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
        """Tell what is new, and then that the run has ended."""
        self._stop()
        self.notify("run_ended", summary)

    def notify(self, name: str, *arguments: Any) -> None:
        """Tell all of a moment. One that fails is logged, and told no more until it is closed: the run goes on."""
        with self.lock:
            for callback in self.callbacks:
                if callback in self.failed and name != "close":
                    continue
                try:
                    getattr(callback, name)(*arguments)
                except Exception:  # the user's own code, of whatever kind
                    log.exception("%s.%s failed; it is told no more, the run goes on", type(callback).__name__, name)
                    self.failed.append(callback)

    def _follow(self) -> None:
        while not self.ended.wait(POLL_SECONDS):
            self._poll()

    def _stop(self) -> None:
        """Look once more, and no more."""
        if self.callbacks and not self.ended.is_set():
            self.ended.set()
            self.follower.join()
            self._poll()

    def _poll(self) -> None:
        """Tell what has come to the record since the last look."""
        with self.lock:
            try:
                status = self.record.poll()
            except (OSError, FoldstreamError) as error:  # a file that is written just now, a store that is busy
                log.warning("the record of %s cannot be read just now: %s", self.root, error)
                return
            for name, arguments in events_between(self.before, status):
                self.notify(name, *arguments)
            self.before = status


def events_between(before: RunStatus, after: RunStatus) -> Iterator[CallbackEvent]:
    """What has happened from one status of a run to another, fold by fold."""
    known = {fold.name: fold for fold in before.folds}
    for fold in after.folds:
        yield from _fold_events(known[fold.name], fold)


def _fold_events(before: FoldStatus, after: FoldStatus) -> Iterator[CallbackEvent]:
    """Attempts are known by when they were begun: their numbers begin anew after a run that has failed."""
    begun, failed = ({phase.start for phase in attempts_of(before, *states)} for states in ((), FAILED))
    for phase in attempts_of(after):
        if phase.start not in begun:
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
    """The attempts at a fold, or those in certain states."""
    return [phase for phase in fold.phases if (phase.state in states if states else phase.state != "waiting")]
