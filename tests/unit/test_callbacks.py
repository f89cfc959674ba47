"""Which events callbacks receive, and how callbacks are found."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import foldstream as fs
import pytest
from foldstream.cluster.callbacks.callback import Callback, Callbacks, events_between, find_callback
from foldstream.cluster.runs.status import FoldStatus, Phase, RunStatus
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import UsageError

from .test_training import make_job

EPOCHS = [{"loss": 3.0}, {"loss": 2.0}, {"loss": 1.0}]
WAITING = FoldStatus("fold 0", False, 0.0, 3, [], "", "fold 0", [Phase("waiting", 0, 0.0, None)])
RUNNING = replace(
    WAITING, epochs=1.0, history=EPOCHS[:1], phases=[Phase("waiting", 0, 0.0, 1.0), Phase("running", 1, 1.0, None)]
)
FAILED = replace(
    RUNNING,
    checkpoint="epoch-00001-step-000000000.safetensors",
    phases=[RUNNING.phases[0], Phase("failed", 1, 1.0, 5.0, "a worker died"), Phase("waiting", 1, 5.0, None)],
)
AGAIN = replace(FAILED, phases=[*FAILED.phases[:2], Phase("waiting", 1, 5.0, 5.1), Phase("running", 2, 5.1, None)])
DONE = replace(AGAIN, done=True, epochs=3.0, history=EPOCHS, phases=[*AGAIN.phases[:3], Phase("done", 2, 5.1, 9.0)])


def events(before: FoldStatus, after: FoldStatus) -> list[tuple[str, tuple[Any, ...]]]:
    return list(events_between(RunStatus(False, [before]), RunStatus(False, [after])))


def test_callbacks_are_notified_of_new_events_once() -> None:
    assert events(WAITING, RUNNING) == [("fold_begun", ("fold 0", 1)), ("epoch_ended", ("fold 0", 1, EPOCHS[0]))]
    assert events(RUNNING, FAILED) == [
        ("fold_failed", ("fold 0", 1, "a worker died")),
        ("checkpoint_written", ("fold 0", FAILED.checkpoint)),
    ]
    assert events(FAILED, AGAIN) == [("fold_begun", ("fold 0", 2))]
    assert events(AGAIN, DONE) == [
        *(("epoch_ended", ("fold 0", epoch, EPOCHS[epoch - 1])) for epoch in (2, 3)),
        ("fold_ended", ("fold 0", EPOCHS[2])),
    ]
    for status in (WAITING, RUNNING, FAILED, AGAIN, DONE):
        assert events(status, status) == []


def test_many_events_may_lie_between_two_polls() -> None:
    assert [name for name, _ in events(WAITING, DONE)] == [
        "fold_begun",
        "fold_failed",
        "fold_begun",
        *["epoch_ended"] * 3,
        "checkpoint_written",
        "fold_ended",
    ]


OWN = """
import foldstream as fs

class Own(fs.Callback):
    def __init__(self, text="nothing"):
        self.text = text

def wrong():
    return 3
"""


def test_a_callback_is_found_by_its_file_and_gets_its_argument(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    made: Any = [find_callback(f"{tmp_path}/own.py:Own{argument}")() for argument in ("", "=a=b", "=")]
    assert [one.text for one in made] == ["nothing", "a=b", ""]
    assert all(isinstance(one, fs.Callback) for one in made)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlflo", "did you mean .mlflow"),
        ("{folder}/own.py:wrong", "returned int; it must return a foldstream.Callback"),
        ("{folder}/own.py:none", "does not define a function 'none'"),
        ("{folder}/no.py:Own", "the file does not exist"),
        ("prometheus=http", "not a port number"),
    ],
)
def test_an_invalid_callback_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(UsageError, match=message):
        find_callback(name.format(folder=tmp_path))()


def test_callbacks_created_before_an_invalid_one_are_closed(digits: Dataset, tmp_path: Path) -> None:
    _, run = make_job(digits, tmp_path / "run")
    closed = []

    class Open(Callback):
        def close(self) -> None:
            closed.append(self)

    (tmp_path / "own.py").write_text(OWN)
    makers = [Open, find_callback(f"{tmp_path}/own.py:wrong")]
    with pytest.raises(UsageError, match="returned int"), Callbacks(makers, run.root):
        pass
    assert len(closed) == 1


def test_every_method_is_optional() -> None:
    summary: Mapping[str, Any] = {}
    nothing = Callback()
    nothing.run_begun("run", ["fold 0"], {})
    nothing.epoch_ended("fold 0", 1, {})
    nothing.run_ended(summary)
    nothing.close()
