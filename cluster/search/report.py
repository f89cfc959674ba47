"""The report of a search in three forms with the same facts: `search.json`, Markdown, and a single HTML page that loads
nothing. It says what was tried, what it cost, what was stopped when and why."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from math import isfinite
from typing import Any

from markupsafe import Markup

from ...storage.dataset import Dataset
from ...storage.places.place import Place
from ...training.run import SEARCH_PAGE
from ...training.search import SearchOptions
from ..views.charts import Frame, Point, drawing
from ..views.pages import template
from .costs import Cost, costs, full_cost, histories, mean_curve
from .draw import LEAST_FOR_IMPORTANCE, importances, known_scores
from .plan import ranking, reached_by, verdicts
from .record import SearchRecord, read_results, score_at, trial_name, write_search

TEXT = "search.md"
STYLES = {"finished": 0, "failed": 5}
"""The colors of lines and points by the state of a candidate; those of stopped ones are gray."""
STOPPED = 8


def write_search_report(
    root: Place, record: SearchRecord, dataset: Dataset, summaries: Mapping[str, Mapping[str, Any]], best: str
) -> None:
    """Write search.html and search.md for a search that is finished, and add the facts to search.json. `summaries` are
    those of the candidates that have trained to the end, by their names, and `best` is the best of them."""
    facts = search_facts(root, record, summaries, best)
    seen = {
        **facts,
        "name": root.name,
        "rows": len(dataset),
        "names": [*record.trials[0].settings],
        "curves": curves_chart(facts["trials"], facts["metric"]),
        "front": front_chart(facts["trials"], facts["metric"]),
        "least": LEAST_FOR_IMPORTANCE,
    }
    (root / SEARCH_PAGE).write(template("search.html").render(seen).encode())
    (root / TEXT).write(template("search.md").render(seen).encode())
    write_search(root, replace(record, facts=facts))


def search_facts(
    root: Place, record: SearchRecord, summaries: Mapping[str, Mapping[str, Any]], best: str
) -> dict[str, Any]:
    """What there is to say about a finished search."""
    results, rules = read_results(root, record), record.rules
    metric, higher = next(iter(record.metrics.items()))
    epochs = histories(root, record)
    spent = costs(root, record, epochs)
    found = verdicts(rules, len(record.trials), record.passes, results)
    options = SearchOptions.model_validate({name: record.definition[name] for name in ("space", "sampler")})
    first_scores = known_scores(0, {key: one for key, one in results.items() if not one.failure})
    trials = []
    for number, (trial, verdict) in enumerate(zip(record.trials, found, strict=True)):
        score = score_at(record, results.get((number, verdict.rung)))
        name = trial_name(number)
        trials.append(
            {"name": name, "settings": trial.settings, "wave": trial.wave, "state": verdict.state}
            | {"rung": verdict.rung + 1, "why": verdict.reason, "score": score, **asdict(spent.get(number, Cost()))}
            | {"curve": mean_curve(epochs.get(number, []), metric)}
            | {"out_of_fold": summaries[name]["out_of_fold"].get(metric) if name in summaries else None}
        )
    mark_front(trials, higher)
    last = ranking(len(rules.rungs) - 1, results)
    total, full = sum(spent.values(), Cost()), full_cost(epochs[last[0]], len(record.trials))
    return {
        "run": str(root),
        "metric": metric,
        "higher_is_better": higher,
        "best": best,
        "sampler": options.sampler,
        "reduction": rules.reduction,
        "rungs": [
            {"name": str(rung), "reached": reached_by(number, results), "failed": _failed(number, results)}
            for number, rung in enumerate(rules.rungs)
        ],
        "trials": trials,
        "cost": asdict(total),
        "full_cost": {"fold_epochs": full.fold_epochs, "rows": full.rows},
        "saved": 1 - total.rows / full.rows,
        "importance": importances(options, [trial.settings for trial in record.trials], first_scores),
    }


def _failed(rung: int, results: Mapping[tuple[int, int], Any]) -> int:
    return sum(at == rung and bool(one.failure) for (_, at), one in results.items())


def mark_front(trials: Sequence[dict[str, Any]], higher: bool) -> None:
    """Mark the candidates than which no other is both cheaper and better: the Pareto front of the score at the last
    rung reached and the rows trained on."""
    best: float | None = None
    for trial in trials:
        trial["front"] = False
    scored = [trial for trial in trials if trial["score"] is not None]
    for trial in sorted(scored, key=lambda one: (one["rows"], -one["score"] if higher else one["score"])):
        value = trial["score"] if higher else -trial["score"]
        if best is None or value > best:
            best, trial["front"] = value, True


def curves_chart(trials: Sequence[Mapping[str, Any]], metric: str) -> Markup:
    """The score of each candidate by epoch."""
    drawn = [one for one in trials if one["curve"] and all(map(isfinite, one["curve"]))]
    values = [value for one in drawn for value in one["curve"]]
    if not values:
        return Markup("")
    longest = max(len(one["curve"]) for one in drawn)
    frame = Frame((1, max(longest, 2)), (min(values), max(values)))
    parts = [*frame.axes("epoch", whole=True)]
    for one in sorted(drawn, key=lambda one: one["state"] == "finished"):  # those on top
        points = [(float(epoch), value) for epoch, value in enumerate(one["curve"], 1)]
        parts.append(_marked(frame, one, points[-1]))
        line = Markup('<polyline class="line s{}" points="{}"><title>{}</title></polyline>')
        parts.append(line.format(_style(one), frame.points(points), one["name"]))
    return drawing(f"{metric} of each candidate by epoch", parts)


def front_chart(trials: Sequence[Mapping[str, Any]], metric: str) -> Markup:
    """The score of each candidate at its last rung, by the epochs of folds that it cost, and the Pareto front."""
    drawn = [one for one in trials if one["score"] is not None and isfinite(one["score"])]
    if not drawn:
        return Markup("")
    scores = [one["score"] for one in drawn]
    most = max(one["fold_epochs"] for one in drawn)
    frame = Frame((0, max(most, 1)), (min(scores), max(scores)))
    front = sorted((one for one in drawn if one["front"]), key=lambda one: float(one["rows"]))
    points = [(float(one["fold_epochs"]), one["score"]) for one in front]
    parts = [*frame.axes("epochs of folds", whole=True)]
    parts.append(Markup('<polyline class="ideal" points="{}"/>').format(frame.points(points)))
    parts += [_marked(frame, one, (one["fold_epochs"], one["score"])) for one in drawn]
    return drawing(f"{metric} by cost", parts)


def _style(trial: Mapping[str, Any]) -> int:
    return STYLES.get(trial["state"], STOPPED)


def _marked(frame: Frame, trial: Mapping[str, Any], point: Point) -> Markup:
    dot = Markup('<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="3.5"><title>{}</title></circle>')
    return dot.format(_style(trial), *frame.at(*point), f"{trial['name']}: {point[1]:.4f}")
