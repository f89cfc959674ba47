"""Tables of results in terminals of different widths."""

from typing import Any

import pytest
from foldstream.cluster.terminal.output import console
from foldstream.cluster.terminal.tables import show_result

NAMES = ("loss", "accuracy", "auc")
SCORES = dict.fromkeys(NAMES, 0.5)
SPREAD = {name: {"mean": 0.5, "std": 0.1} for name in NAMES}
TIMES = {"seconds": 123.4, "ranks": [{"data_wait": 0.1}]}
RUN = {
    "folds": [{"fold": fold, "rows": 1_234_567, "epoch": 20, **SCORES, **TIMES} for fold in range(2)],
    "out_of_fold": SCORES,
    "out_of_fold_rows": 2_469_134,
    "out_of_fold_intervals": {"accuracy": (0.4, 0.6)},
    "spread": SPREAD,
}
CANDIDATES = [{"name": f"lr={lr}", "out_of_fold": SCORES, "spread": SPREAD} for lr in (0.1, 0.01)]
GRID = {"candidates": CANDIDATES, "metric": "accuracy", "best": "lr=0.1"}


def test_a_huge_score_stays_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_width", 80)
    huge = [{**one, "out_of_fold": {**SCORES, "loss": 1.2345e33}} for one in CANDIDATES]
    with console.capture() as printed:
        show_result({**GRID, "candidates": huge})
    assert "1.234e+33 ± 0.1000" in printed.get()
    assert "0.5000" in printed.get()


@pytest.mark.parametrize(
    ("result", "width", "expected"),
    [
        (RUN, 120, NAMES),
        (RUN, 80, NAMES),
        (RUN, 70, ("loss", "accuracy")),
        (RUN, 60, ("loss",)),
        (GRID, 80, NAMES),
        (GRID, 60, ("accuracy", "loss")),
        (GRID, 40, ("accuracy",)),
    ],
)
def test_scores_that_do_not_fit_are_left_out_rather_than_cut_off(
    result: dict[str, Any], width: int, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_width", width)
    with console.capture() as printed:
        show_result(result)
    assert "…" not in printed.get()
    heading = printed.get().partition("┡")[0]
    assert {name for name in NAMES if name in heading} == set(expected)
