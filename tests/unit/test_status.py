"""What a run's record tells those who watch it."""

from typing import Any

import numpy as np
import pytest
from foldstream.cluster.journal import to_json
from foldstream.cluster.schedule import Ended, Event, NodeLost, NodeSeen, Observed, Resources, Restarted, Silent
from foldstream.cluster.status import FoldStatus, Span, in_words, spans_of
from foldstream.cluster.views.curves import MOST_POINTS, curves_of, shares_of_time

SEEN, LOST = NodeSeen("a", Resources(2.0, 0.0, 8_000_000_000)), NodeLost("a")


def lines_of(*happened: Event | tuple[str, int, list[str]] | dict[str, Any]) -> list[dict[str, Any]]:
    """The journal's lines of what happened, a second each; a tuple is a start, a dictionary the line itself."""
    lines = []
    for second, one in enumerate(happened):
        line = dict(zip(("start", "attempt", "folds"), one, strict=True)) if isinstance(one, tuple) else one
        lines.append({**(line if isinstance(line, dict) else to_json(line)), "time": float(second)})
    return lines


DEATH = {"replaced": "fold-0-to-fold-1", "attempt": 1, "reason": "worker 1 has died"}
BOTH = ("fold-0-to-fold-1", 1, ["fold 0", "fold 1"])


@pytest.mark.parametrize(
    ("lines", "spans"),
    [
        (lines_of(), []),
        (lines_of(SEEN), [Span("waiting", 0, 0.0, None)]),
        (lines_of(SEEN, BOTH), [Span("waiting", 0, 0.0, 1.0), Span("running", 1, 1.0, None)]),
        (
            lines_of(SEEN, BOTH, SEEN, Ended(BOTH[0], 1)),
            [Span("waiting", 0, 0.0, 1.0), Span("done", 1, 1.0, 3.0)],
        ),
        (
            lines_of(BOTH, Ended(BOTH[0], 1, "died"), ("fold-1", 2, ["fold 1"]), ("fold-0", 2, ["fold 0"])),
            [
                Span("waiting", 0, 0.0, 0.0),
                Span("failed", 1, 0.0, 1.0, "died"),
                Span("waiting", 1, 1.0, 2.0),
                Span("running", 2, 2.0, None),
            ],
        ),
        (
            lines_of(BOTH, LOST, Silent(BOTH[0], 1, 31.0)),
            [
                Span("waiting", 0, 0.0, 0.0),
                Span("failed", 1, 0.0, 2.0, "silent for 31 s"),
                Span("waiting", 1, 2.0, None),
            ],
        ),
        (
            lines_of(BOTH, Observed(frozenset({(BOTH[0], 1)})), Observed(frozenset())),
            [Span("waiting", 0, 0.0, 0.0), Span("failed", 1, 0.0, 2.0), Span("waiting", 1, 2.0, None)],
        ),
        (
            lines_of(BOTH, Restarted(), SEEN, (BOTH[0], 2, BOTH[2])),
            [
                Span("waiting", 0, 0.0, 0.0),
                Span("cut short", 1, 0.0, 1.0),
                Span("waiting", 1, 1.0, 3.0),
                Span("running", 2, 3.0, None),
            ],
        ),
        (lines_of(BOTH, DEATH), [Span("waiting", 0, 0.0, 0.0), Span("running", 1, 0.0, None)]),
    ],
    ids=[
        "nothing",
        "a node",
        "running",
        "done",
        "failed and begun again",
        "silent",
        "vanished",
        "restarted",
        "a worker replaced",
    ],
)
def test_a_folds_time_is_told_by_the_journal(lines: list[dict[str, Any]], spans: list[Span]) -> None:
    assert list(spans_of("fold 1", lines)) == spans


def test_events_in_words() -> None:
    happened = SEEN, BOTH, DEATH, Ended(BOTH[0], 1, "no such layer"), LOST, Observed(frozenset())
    told = [in_words(line) for line in lines_of(*happened)]
    assert told == [
        "a node with 2 cores, 0 GPUs, 8.0 GB is there",
        "fold-0-to-fold-1, attempt 1: begun",
        "fold-0-to-fold-1, attempt 1: worker 1 has died; from the last checkpoint others go on",
        "fold-0-to-fold-1, attempt 1: no such layer",
        "a node is lost",
        "",
    ]


def fold(number: int, losses: list[float]) -> FoldStatus:
    ranks = [{"data_wait": 1.0, "compute": 2.0, "evaluate": 1.0, "checkpoint": 0.0}]
    history = [
        {"loss": loss, "rows": 100, "seconds": 0.5, "ranks": ranks, "epoch": n} for n, loss in enumerate(losses, 1)
    ]
    return FoldStatus(f"fold {number}", False, len(losses), 9, history, "", "all", [])


def test_the_mean_is_of_those_folds_that_have_come_as_far() -> None:
    curves = {curve.name: curve.points for curve in curves_of([fold(0, [4.0, 2.0, 1.0]), fold(1, [2.0]), fold(2, [])])}
    assert list(curves)[:4] == [f"loss, held out, {name}" for name in ("fold 0", "fold 1", "fold 2", "mean")]
    assert {name: points.tolist() for name, points in curves["loss, held out, mean"].items()} == {
        "epoch": [1, 2, 3],
        "value": [3.0, 2.0, 1.0],
        "low": [2.0, 2.0, 1.0],
        "high": [4.0, 2.0, 1.0],
    }
    assert curves["loss, held out, fold 1"]["value"].tolist() == [2.0]
    assert curves["rows/s, training pass, fold 0"]["value"].tolist() == [200.0] * 3


def test_long_curves_are_thinned_and_end_where_they_end() -> None:
    losses = np.linspace(5, 1, 7 * MOST_POINTS + 3).tolist()
    points = next(iter(curves_of([fold(0, losses)]))).points
    assert MOST_POINTS / 2 < len(points["epoch"]) <= MOST_POINTS
    assert points["epoch"][-1] == len(losses)
    np.testing.assert_array_equal(points["value"], np.array(losses)[points["epoch"] - 1])


def test_nothing_is_drawn_before_the_first_epoch() -> None:
    assert list(curves_of([fold(0, [])])) == []
    assert shares_of_time([fold(0, [])]) == {}


def test_the_time_of_folds_that_are_trained_together_is_told_once() -> None:
    shares = shares_of_time([fold(0, [1.0]), fold(1, [1.0])])
    assert shares == {"all, rank 0": {"data_wait": 25.0, "compute": 50.0, "evaluate": 25.0, "checkpoint": 0.0}}
