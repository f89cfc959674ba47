"""Make an ensemble: its members, their weights, its out-of-fold predictions and its report, committed last.

The same call resumes what was interrupted, and returns a complete ensemble at once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ...pipeline.ensembles.blend import SAMPLE_BYTES, FoundWeights, Weighting, blend_predictions, find_weights
from ...pipeline.ensembles.member_rows import NO_FOLD, MemberSource
from ...pipeline.predictions.scores import Scorer
from ...storage.dataset import Dataset
from ...storage.errors import ConflictError, UsageError, check_choice, disk_in_words
from ...storage.fold_plan import open_plan
from ...storage.machine import parse_bytes
from ...storage.metrics.scoring import Scoring
from ...storage.places.json_files import read_json, same_json, write_json
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...storage.tasks import Executor, Progress
from ...training.run import ENSEMBLE, RunFolder
from ...training.settings import own_metrics, ranking_metrics, scoring_of
from ..dask.executor import job_executor
from ..prediction.members import names_of
from ..requests import EnsembleRequest, Session
from .fitting import Candidate, find_candidates
from .report import write_ensemble_report
from .stack import train_stacker

REQUEST, WEIGHTS = "request.json", "weights.json"
"""In the folder: which ensemble it is, written first, and its weights by fold."""


def make_ensemble(request: EnsembleRequest, session: Session) -> dict[str, Any]:
    """Make the ensemble of a request. Returns its summary, the content of `ensemble.json`.

    Raises UsageError for runs that do not fit together, and ConflictError if the folder contains something else.
    """
    members, folder = find_candidates([str(run) for run in request.runs]), RunFolder(locate(str(request.out)))
    dataset = members[0].job.open_data()
    config = members[0].job.config
    scorer = Scorer(scoring_of(dataset.schema, config, dataset.statistics.y_mean), own_metrics(config))
    weighting = weighting_of(request, members, scorer.scoring)
    wanted = {**vars(weighting), "method": request.method, "members": [member.to_json() for member in members]}
    with (
        disk_in_words(folder.root),
        folder.root.lock(f"{folder.root} is being written by another process; wait for it to finish"),
    ):
        claim(folder.root, wanted)
        if (folder.root / ENSEMBLE).exists():
            session.listener.announce("complete", str(folder.root))
        else:
            stacker = train_stacker(members, folder.root, session) if request.method == "stack" else None
            with job_executor(session.listener, session.client, request.dask) as executor:
                complete(folder, members, dataset, weighting, scorer, executor, session.listener.progress, stacker)
    summary: dict[str, Any] = read_json(folder.root / ENSEMBLE)
    return summary


def weighting_of(request: EnsembleRequest, members: Sequence[Candidate], scoring: Scoring) -> Weighting:
    """How the weights of a request are found: greedy selection is by the given metric, or what the first run
    monitors, or else the loss, or R² for runs that are ranked by it. Raises UsageError for a metric that there is not,
    and for one that the method does not use."""
    if request.metric and request.method != "greedy":
        raise UsageError(
            f"--metric {request.metric}: only --method greedy selects by a metric, not {request.method}; remove it"
        )
    own = {name for name, _ in scoring.own}
    known = [name for name in scoring.names() if name not in own]
    ranked = ranking_metrics(scoring.schema, [member.job.config for member in members])
    # A loss sees every probability; selection by accuracy follows single rows.
    metrics = {"loss": False} if "loss" in ranked else ranked
    if request.metric:
        check_choice("--metric", request.metric, known)
        metrics = {request.metric: scoring.higher_is_better(request.metric)}
    metrics = {name: higher for name, higher in metrics.items() if name in known} or {"loss": False}
    method = "mean" if request.method == "stack" else request.method
    return Weighting(method, metrics, request.seed, parse_bytes(request.memory) or SAMPLE_BYTES)


def claim(root: Place, wanted: dict[str, Any]) -> None:
    """Claim the folder for an ensemble, or check that it contains this one. Raises ConflictError."""
    path = root / REQUEST
    if not path.exists():
        if root.names():
            raise ConflictError(f"{root} already contains something that is not an ensemble; choose another folder")
        write_json(path, wanted)
        return
    stored = read_json(path)
    if same_json(stored, wanted):
        return
    before, now = ({one["run"]: one["summary"] for one in some["members"]} for some in (stored, wanted))
    changed = [run for run in now if run in before and before[run] != now[run]]
    differ = [f"{run} has been trained again" for run in changed]
    differ += [f"{run} was not a member" for run in now if run not in before]
    differ += [f"{run} was a member" for run in before if run not in now]
    options = [name for name in wanted if name != "members" and stored[name] != wanted[name]]
    differ += [f"{name} was {_shown(stored[name])} and is now {_shown(wanted[name])}" for name in options]
    differ = differ or ["the members were in another order"]
    raise ConflictError(f"{root} already contains another ensemble: {'; '.join(differ[:4])}; choose another folder")


def _shown(option: Any) -> str:
    """An option of an ensemble in a message; of the metrics only the names."""
    return ", ".join(option) if isinstance(option, dict) else str(option)


def complete(
    folder: RunFolder,
    members: Sequence[Candidate],
    dataset: Dataset,
    weighting: Weighting,
    scorer: Scorer,
    executor: Executor,
    progress: Progress,
    stacker: dict[str, Any] | None = None,
) -> None:
    """Find the weights, write the predictions and the report, and commit the ensemble. With the summary of a `stacker`,
    its predictions are those of the ensemble, and weights only serve the facts."""
    plan = members[0].run.folds
    source = MemberSource(dataset.reference, str(plan), tuple(str(member.run.oof) for member in members))
    found = stored_weights(folder.root / WEIGHTS)
    if found is None:
        found = find_weights(source, weighting, scorer.scoring, executor, progress)
        write_json(folder.root / WEIGHTS, vars(found))
    if stacker:
        _commit(folder, {**facts_of(members, dataset, weighting, found, {}), **_of_stacker(stacker)}, scorer.scoring)
        return
    report = {"out_of_fold": blend_predictions(source, found.by_fold, folder.oof, scorer, executor, progress)}
    if open_plan(plan).holdout.held_out:
        of_holdout = MemberSource(source.dataset, source.plan, tuple(str(member.run.holdout) for member in members))
        by_fold = {NO_FOLD: found.final}
        report["holdout"] = blend_predictions(of_holdout, by_fold, folder.holdout, scorer, executor, progress)
    _commit(folder, facts_of(members, dataset, weighting, found, report), scorer.scoring)


def _commit(folder: RunFolder, facts: dict[str, Any], scoring: Scoring) -> None:
    write_ensemble_report(folder, facts, scoring)
    folder.root.sync_folders()
    write_json(folder.root / ENSEMBLE, facts)


def _of_stacker(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a run on the members' predictions: its scores are those of the ensemble."""
    parts = [part for part in ("out_of_fold", "holdout") if part in summary]
    names = [f"{part}{more}" for part in parts for more in ("", "_intervals", "_rows")]
    return {"method": "stack", "weights_by_fold": {}, **{name: summary[name] for name in names}}


def stored_weights(place: Place) -> FoundWeights | None:
    """The weights that an interrupted call has found."""
    if not place.exists():
        return None
    value = read_json(place)
    by_fold = {int(fold): tuple(weights) for fold, weights in value.pop("by_fold").items()}
    return FoundWeights(**{**value, "final": tuple(value["final"]), "by_fold": by_fold})


def facts_of(
    members: Sequence[Candidate],
    dataset: Dataset,
    weighting: Weighting,
    found: FoundWeights,
    report: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The summary of an ensemble as JSON. The scores of its members are those of their own summaries."""
    names = names_of([str(member.place) for member in members])
    of_members = [
        {
            **member.to_json(),
            "name": name,
            "model": member.job.config.model.rpartition("/")[2],
            "weight": weight,
            "out_of_fold": member.summary["out_of_fold"],
            "out_of_fold_intervals": member.summary["out_of_fold_intervals"],
            **({"holdout": member.summary["holdout"]} if "holdout" in member.summary else {}),
        }
        for member, name, weight in zip(members, names, found.final, strict=True)
    ]
    facts: dict[str, Any] = {
        "dataset": str(dataset.place),
        "identity": dataset.identity,
        "method": weighting.method,
        **({"metric": next(iter(weighting.metrics))} if weighting.method == "greedy" else {}),
        "members": of_members,
        "weights_by_fold": {str(fold): weights for fold, weights in found.by_fold.items()},
        "rows": found.rows,
        "uncovered": found.uncovered,
        "sampled": found.sampled,
        "correlation": found.correlation,
    }
    for part, one in report.items():
        facts |= {part: one["scores"], f"{part}_intervals": one["intervals"], f"{part}_rows": one["rows"]}
    return facts
