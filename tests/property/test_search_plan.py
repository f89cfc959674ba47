"""The plan of a search: what goes on, what stops, and that a search that was killed decides the same again."""

from collections.abc import Iterator
from itertools import pairwise

from foldstream.cluster.search.plan import (
    Draw,
    Outcome,
    Pass,
    Rules,
    Rung,
    choose_rungs,
    next_step,
    ranking,
    verdicts,
)
from hypothesis import given, settings
from hypothesis import strategies as st

Results = dict[tuple[int, int], Outcome]


@st.composite
def searches(draw: st.DrawFn) -> tuple[Rules, list[float], set[tuple[int, int]]]:
    """Rules, how good each candidate is, and where some fail."""
    rungs = (*(Rung(1, epochs) for epochs in range(1, draw(st.integers(1, 4)))), Rung(None, 9))
    rules = Rules(rungs, draw(st.integers(1, 30)), draw(st.integers(1, 12)), draw(st.integers(2, 4)))
    quality = draw(st.lists(st.integers(0, 5), min_size=rules.trials, max_size=rules.trials))
    cells = st.tuples(st.integers(0, rules.trials - 1), st.integers(0, len(rungs) - 1))
    return rules, [float(one) for one in quality], draw(st.sets(cells, max_size=6))


def outcome(trial: int, rung: int, quality: list[float], failing: set[tuple[int, int]]) -> Outcome:
    return Outcome(failure="nan") if (trial, rung) in failing else Outcome((quality[trial] + rung % 2 * (trial % 3),))


def decisions(
    rules: Rules, quality: list[float], failing: set[tuple[int, int]], results: Results
) -> Iterator[tuple[list[Pass], int]]:
    """Everything that a search decides, with `results` as far as it has come."""
    passes, drawn = list[Pass](), 0
    while step := next_step(rules, drawn, passes, results):
        if isinstance(step, Draw):
            passes.append(Pass(0, tuple(range(drawn, drawn + step.count))))
            drawn += step.count
        elif step != passes[-1]:
            passes.append(step)
        yield list(passes), drawn
        for trial in passes[-1].trials:
            results[trial, passes[-1].rung] = outcome(trial, passes[-1].rung, quality, failing)


@given(searches())
@settings(deadline=None)
def test_whoever_goes_on_is_among_the_best_of_its_rung_by_then(
    search: tuple[Rules, list[float], set[tuple[int, int]]],
) -> None:
    rules, quality, failing = search
    results: Results = {}
    known: Results = {}
    for passes, drawn in decisions(rules, quality, failing, results):
        one = passes[-1]
        if one.rung:
            reached = [trial for trial, at in known if at == one.rung - 1]
            lost = [trial for (trial, at), found in known.items() if at >= one.rung and found.failure]
            best = [trial for trial in ranking(one.rung - 1, known) if trial not in lost]
            most = len(reached) // rules.reduction
            assert most or drawn == rules.trials  # only at the end does one go on in any case
            assert {*one.trials} <= {*best[: max(most, 1)]}
        known = dict(results) | {(trial, one.rung): outcome(trial, one.rung, quality, failing) for trial in one.trials}
    trained = [(trial, one.rung) for one in passes for trial in one.trials]
    assert len(trained) == len({*trained})  # nobody trains to a rung twice
    last = [trial for trial, at in results if at == len(rules.rungs) - 1]
    assert last or all(any((trial, at) in failing for at in range(4)) for trial in range(rules.trials))


@given(searches())
@settings(deadline=None)
def test_in_a_single_wave_no_more_than_the_reduction_allows_go_on(
    search: tuple[Rules, list[float], set[tuple[int, int]]],
) -> None:
    rules, quality, _ = search
    rules = Rules(rules.rungs, rules.trials, rules.trials, rules.reduction)
    *_, (passes, _) = decisions(rules, quality, set(), {})
    counts = [sum(len(one.trials) for one in passes if one.rung == rung) for rung in range(len(rules.rungs))]
    for before, after in pairwise(counts):
        assert 1 <= after <= -(-before // rules.reduction)


@given(searches(), st.data())
@settings(deadline=None)
def test_a_search_that_goes_on_from_any_moment_decides_the_same(
    search: tuple[Rules, list[float], set[tuple[int, int]]], data: st.DataObject
) -> None:
    """A kill leaves some of the results of the last pass that was committed."""
    rules, quality, failing = search
    every = list(decisions(rules, quality, failing, {}))
    (expected, drawn) = every[-1]
    passes, seen = every[data.draw(st.integers(0, len(every) - 1))]
    kept = data.draw(st.integers(0, len(passes[-1].trials)))
    left = [(trial, one.rung) for one in passes[:-1] for trial in one.trials]
    left += [(trial, passes[-1].rung) for trial in passes[-1].trials[:kept]]
    results = {cell: outcome(*cell, quality, failing) for cell in left}
    passes = list(passes)
    while step := next_step(rules, seen, passes, results):
        if isinstance(step, Draw):
            passes.append(Pass(0, tuple(range(seen, seen + step.count))))
            seen += step.count
        elif step != passes[-1]:
            passes.append(step)
        results |= {
            (trial, passes[-1].rung): outcome(trial, passes[-1].rung, quality, failing) for trial in passes[-1].trials
        }
    assert (passes, seen) == (expected, drawn)
    told = verdicts(rules, seen, passes, results)
    assert {one.state for one in told} <= {"stopped", "failed", "finished"}
    assert all(one.reason for one in told if one.state != "finished")


def test_who_fails_at_a_late_rung_gives_way_at_every_rung_before() -> None:
    rules = Rules((Rung(1, 1), Rung(1, 2), Rung(1, 3), Rung(None, 9)), trials=2, width=1, reduction=2)
    results: Results = {}
    *_, (passes, drawn) = decisions(rules, [0.0, 0.0], {(0, 2)}, results)
    assert [one.state for one in verdicts(rules, drawn, passes, results)] == ["failed", "finished"]


def test_the_usual_rungs_follow_from_the_epochs_and_the_held_out_rows() -> None:
    assert choose_rungs(9, 3, 3, 20_000) == (Rung(1, 1), Rung(1, 3), Rung(None, 9))
    assert choose_rungs(10, 4, 5, 700) == (Rung(3, 2), Rung(None, 10))
    assert choose_rungs(4, 2, 3, 100) == (Rung(None, 1), Rung(None, 2), Rung(None, 4))
    assert choose_rungs(9, 3, 3, 20_000, together=True)[0] == Rung(None, 1)
    assert choose_rungs(1, 3, 3, 20_000) == (Rung(None, 1),)


def test_the_reason_says_the_rank_at_the_rung() -> None:
    rules = Rules((Rung(1, 1), Rung(None, 3)), 16, 16, 3)
    results: Results = {}
    *_, (passes, drawn) = decisions(rules, [float(n) for n in range(16)], {(3, 0)}, results)
    found = verdicts(rules, drawn, passes, results)
    assert found[9].reason == "rung 1: 7th of 16, the best 5 went on"
    assert (found[3].state, found[3].reason) == ("failed", "nan")
    assert [number for number, one in enumerate(found) if one.state == "finished"] == [11, 12, 13, 14, 15]


def test_the_reason_counts_also_those_that_went_on_from_an_earlier_wave() -> None:
    rules = Rules((Rung(None, 1), Rung(None, 2)), 8, 4, 2)
    scores = {number: Outcome((float(number),)) for number in range(8)}  # each wave is better than the one before
    results = {(number, 0): outcome for number, outcome in scores.items()}
    passes = [Pass(0, (0, 1, 2, 3)), Pass(1, (3, 2)), Pass(0, (4, 5, 6, 7)), Pass(1, (7, 6, 5, 4))]
    results |= {(number, 1): scores[number] for number in range(2, 8)}
    found = verdicts(rules, 8, passes, results)
    assert found[1].reason == "rung 1: 7th of 8, the best 4 went on, and 2 others"
