"""The status of a run, as read from its record."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from foldstream.cluster.runs.journal import to_json
from foldstream.cluster.runs.schedule import Ended, Event, NodeLost, NodeSeen, Observed, Resources, Restarted, Silent
from foldstream.cluster.runs.status import FoldStatus, Phase, describe, phases_of
from foldstream.cluster.views.curves import MOST_POINTS, curves_of, rates_of, seconds_left, shares_of_time
from foldstream.cluster.views.dask_page import conversion_of
from foldstream.cluster.views.dask_page import rates_of as conversion_rates

SEEN, LOST = NodeSeen("a", Resources(2.0, 0.0, 8_000_000_000)), NodeLost("a")


def lines_of(*happened: Event | tuple[str, int, list[str]] | dict[str, Any]) -> list[dict[str, Any]]:
    """The journal's lines for events one second apart; a tuple is a start, a dictionary the line itself."""
    lines = []
    for second, one in enumerate(happened):
        line = dict(zip(("start", "attempt", "folds"), one, strict=True)) if isinstance(one, tuple) else one
        lines.append({**(line if isinstance(line, dict) else to_json(line)), "time": float(second)})
    return lines


STOP = {"stopped": True}
DEATH = {"replaced": "fold-0-to-fold-1", "attempt": 1, "reason": "worker 1 died"}
BOTH = ("fold-0-to-fold-1", 1, ["fold 0", "fold 1"])


@pytest.mark.parametrize(
    ("lines", "phases"),
    [
        (lines_of(), []),
        (lines_of(SEEN), [Phase("waiting", 0, 0.0, None)]),
        (lines_of(SEEN, BOTH), [Phase("waiting", 0, 0.0, 1.0), Phase("running", 1, 1.0, None)]),
        (
            lines_of(SEEN, BOTH, SEEN, Ended(BOTH[0], 1)),
            [Phase("waiting", 0, 0.0, 1.0), Phase("done", 1, 1.0, 3.0)],
        ),
        (
            lines_of(BOTH, Ended(BOTH[0], 1, "died"), ("fold-1", 2, ["fold 1"]), ("fold-0", 2, ["fold 0"])),
            [
                Phase("waiting", 0, 0.0, 0.0),
                Phase("failed", 1, 0.0, 1.0, "died"),
                Phase("waiting", 1, 1.0, 2.0),
                Phase("running", 2, 2.0, None),
            ],
        ),
        (
            lines_of(BOTH, LOST, Silent(BOTH[0], 1, 31.0)),
            [
                Phase("waiting", 0, 0.0, 0.0),
                Phase("failed", 1, 0.0, 2.0, "no progress for 31 s"),
                Phase("waiting", 1, 2.0, None),
            ],
        ),
        (
            lines_of(BOTH, Observed(frozenset({(BOTH[0], 1)})), Observed(frozenset())),
            [Phase("waiting", 0, 0.0, 0.0), Phase("failed", 1, 0.0, 2.0), Phase("waiting", 1, 2.0, None)],
        ),
        (
            lines_of(BOTH, Restarted(), SEEN, (BOTH[0], 2, BOTH[2])),
            [
                Phase("waiting", 0, 0.0, 0.0),
                Phase("interrupted", 1, 0.0, 1.0),
                Phase("waiting", 1, 1.0, 3.0),
                Phase("running", 2, 3.0, None),
            ],
        ),
        (lines_of(BOTH, DEATH), [Phase("waiting", 0, 0.0, 0.0), Phase("running", 1, 0.0, None)]),
        (
            lines_of(BOTH, STOP, Restarted(), (BOTH[0], 2, BOTH[2])),
            [
                Phase("waiting", 0, 0.0, 0.0),
                Phase("interrupted", 1, 0.0, 1.0),
                Phase("waiting", 1, 2.0, 3.0),
                Phase("running", 2, 3.0, None),
            ],
        ),
        (
            lines_of(BOTH, Ended(BOTH[0], 1, "nan", final=True), STOP),
            [Phase("waiting", 0, 0.0, 0.0), Phase("failed", 1, 0.0, 1.0, "nan")],
        ),
        (
            lines_of(BOTH, Ended(BOTH[0], 1), STOP, Restarted()),
            [Phase("waiting", 0, 0.0, 0.0), Phase("done", 1, 0.0, 1.0)],
        ),
    ],
    ids=[
        "nothing",
        "a node",
        "running",
        "done",
        "failed and retried",
        "silent",
        "vanished",
        "restarted",
        "a worker replaced",
        "stopped and resumed",
        "given up",
        "done before",
    ],
)
def test_the_timeline_of_a_fold_follows_from_the_journal(lines: list[dict[str, Any]], phases: list[Phase]) -> None:
    assert list(phases_of("fold 1", lines)) == phases


def test_events_are_described() -> None:
    happened = SEEN, BOTH, DEATH, Ended(BOTH[0], 1, "no such layer"), LOST, Observed(frozenset()), STOP
    described = [describe(line) for line in lines_of(*happened)]
    assert described == [
        "node added: 2 cores, 0 GPUs, 8 GB",
        "fold-0-to-fold-1, attempt 1: started",
        "fold-0-to-fold-1, attempt 1: worker 1 died",
        "fold-0-to-fold-1, attempt 1: no such layer",
        "node lost",
        "",
        "command stopped",
    ]


def fold(number: int, losses: list[float]) -> FoldStatus:
    ranks = [{"data_wait": 1.0, "compute": 2.0, "evaluate": 1.0, "checkpoint": 0.0}]
    history = [
        {"loss": loss, "rows": 100, "seconds": 0.5, "ranks": ranks, "epoch": n} for n, loss in enumerate(losses, 1)
    ]
    return FoldStatus(f"fold {number}", False, len(losses), 9, history, "", "all", [])


def test_a_mean_is_over_the_folds_that_have_reached_the_epoch() -> None:
    curves = {curve.name: curve.points for curve in curves_of([fold(0, [4.0, 2.0, 1.0]), fold(1, [2.0]), fold(2, [])])}
    assert list(curves) == [
        "loss, held out, fold 0",
        "loss, held out, fold 1",
        "loss, held out, mean",
        "rows/s, training pass, all",
    ]
    assert {name: points.tolist() for name, points in curves["loss, held out, mean"].items()} == {
        "epoch": [1, 2, 3],
        "value": [3.0, 2.0, 1.0],
        "low": [2.0, 2.0, 1.0],
        "high": [4.0, 2.0, 1.0],
    }
    assert curves["loss, held out, fold 1"]["value"].tolist() == [2.0]


def test_the_rate_of_a_pass_is_that_of_all_its_folds() -> None:
    folds = [fold(0, [4.0, 2.0, 1.0]), fold(1, [2.0])]
    assert {unit: rates.tolist() for unit, rates in rates_of(folds).items()} == {"all": [400.0, 200.0, 200.0]}


def test_each_candidate_has_its_own_mean_without_its_refit() -> None:
    grid = [
        replace(fold(number, [loss]), name=f"{candidate} {name}", candidate=candidate)
        for candidate, losses in {"lr=1": (1.0, 3.0, 9.0), "lr=2": (2.0, 4.0, 9.0)}.items()
        for number, (name, loss) in enumerate(zip(("fold 0", "fold 1", "refit"), losses, strict=True))
    ]
    means = {curve.subject: curve.points["value"].tolist() for curve in curves_of(grid) if "low" in curve.points}
    assert means == {"lr=1 mean": [2.0], "lr=2 mean": [3.0]}


def test_long_curves_are_thinned_and_keep_the_points_already_drawn() -> None:
    losses = np.linspace(5, 1, 7 * MOST_POINTS + 3).tolist()
    drawn = next(iter(curves_of([fold(0, losses)]))).points
    assert MOST_POINTS / 2 < len(drawn["epoch"]) <= MOST_POINTS + 1
    assert drawn["epoch"][-1] == len(losses)
    np.testing.assert_array_equal(drawn["value"], np.array(losses)[drawn["epoch"] - 1])
    more = next(iter(curves_of([fold(0, [*losses, 1.0])]))).points
    assert more["epoch"][: len(drawn["epoch"]) - 1].tolist() == drawn["epoch"][:-1].tolist()


def test_the_remaining_time_is_that_of_all_units_divided_by_those_running() -> None:
    running = [Phase("running", 1, 0.0, None)]
    begun = replace(fold(0, [1.0, 1.0]), unit="fold-0", phases=running)  # 4 s an epoch, 7 are left
    waits = replace(fold(1, []), unit="fold-1", phases=[Phase("waiting", 0, 0.0, None)])
    assert seconds_left([begun, waits]) == 7 * 4 + 9 * 4
    assert seconds_left([begun, replace(begun, unit="fold-2")]) == 7 * 4
    assert seconds_left([waits]) is None


def test_nothing_is_drawn_before_the_first_epoch() -> None:
    assert list(curves_of([fold(0, [])])) == []
    assert shares_of_time([fold(0, [])]) == {}


def test_the_time_of_folds_trained_together_is_shown_once() -> None:
    shares = shares_of_time([fold(0, [1.0]), fold(1, [1.0])])
    assert shares == {"all, rank 0": {"data_wait": 25.0, "compute": 50.0, "evaluate": 25.0, "checkpoint": 0.0}}


def test_a_conversion_ends_with_its_last_stage_and_done() -> None:
    stages = [("a", "cut"), ("a", "convert"), ("a", "done"), ("b", "cut"), ("b", "convert"), ("b", "convert")]
    events = [(float(when), {"place": place, "stage": stage}) for when, (place, stage) in enumerate(stages)]
    assert conversion_of([]) == []
    assert conversion_of(events[:2]) == events[1:2]
    assert conversion_of(events[:3]) == events[1:3]
    assert conversion_of(events[:4]) == events[3:4]
    assert conversion_of([*events, (6.0, {"place": "b", "stage": "done"})])[:2] == events[4:]


def test_a_burst_of_shards_is_not_a_high_rate() -> None:
    """Every ten seconds, two workers each finish a shard at nearly the same time."""
    times = [when for ten in range(5) for when in (10.0 * ten, 10.0 * ten + 0.01)]
    events = [(when, {"rows_done": 100 * n, "bytes_read": 0}) for n, when in enumerate(times)]
    assert max(conversion_rates(events)["rows"][1:]) < 100
    assert conversion_rates(events)["rows"][-1] == pytest.approx(30, abs=15)
