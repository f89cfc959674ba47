"""Which runs can be members of one ensemble: complete ones on one dataset with the same folds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...storage.errors import UsageError
from ...storage.fold_plan import FoldPlan, open_plan
from ...storage.options import flag_of
from ...storage.places.locate import locate
from ...storage.places.place import Place
from ...training.run import RunFolder, RunJob, load_job
from ...training.splits.split import SplitOptions, options_of
from ..prediction.members import stamp_of
from ..runs.run import read_run


@dataclass(frozen=True)
class Candidate:
    """A complete run that is to be a member: where the user says it is, its folder, which may be that of a grid's best
    candidate, and its scores."""

    place: Place
    run: RunFolder
    job: RunJob
    summary: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"run": str(self.place), "summary": stamp_of(self.run)}


def find_candidates(places: Sequence[str], least: int = 2) -> list[Candidate]:
    """Open the runs that are to be members.

    Raises UsageError for fewer than `least`, for one that is not complete, for masks and images, for another dataset,
    and for other folds than those of the first run.
    """
    found = list[Candidate]()
    for place in map(locate, places):
        run, summary = read_run(place)
        found.append(Candidate(place, run, load_job(run), summary))
    if len({str(one.run.root) for one in found}) < len(found):
        twice = next(
            one.place for one in found if [str(other.run.root) for other in found].count(str(one.run.root)) > 1
        )
        raise UsageError(f"{twice} is given twice; name each run once")
    if len(found) < least:
        raise UsageError(
            f"{found[0].place}: an ensemble needs at least two runs; name more, before the folder to write"
        )
    for one in found:
        _check_fits(one, found[0])
    return found


def _check_fits(one: Candidate, first: Candidate) -> None:
    if what := one.job.schema.target_name:
        raise UsageError(
            f"{one.place}: it predicts {what}, whose out-of-fold predictions are stored without the probabilities that "
            "weights are found by; an ensemble needs classes, labels, numbers or vectors"
            if what == "masks"
            else f"{one.place}: it predicts {what}; an ensemble needs classes, labels, numbers or vectors"
        )
    if one.job.identity != first.job.identity:
        which = "another version of it" if one.job.dataset == first.job.dataset else one.job.dataset
        raise UsageError(
            f"{one.place} was trained on other data than {first.place}: {first.job.dataset} there, {which} here; train "
            f"it on the dataset of {first.place}"
        )
    if folds_in(open_plan(one.run.folds)) != folds_in(open_plan(first.run.folds)):
        ours, theirs = options_of(first.job.config.split), options_of(one.job.config.split)
        names = [name for name in ours if ours[name] != theirs.get(name)]
        differ = ", ".join(f"{flag_of(SplitOptions, name)} {theirs.get(name)}, not {ours[name]}" for name in names)
        differ = differ or f"--seed {one.job.config.split.seed}, not {first.job.config.split.seed}"
        raise UsageError(
            f"{one.place} has other folds than {first.place} ({differ}), so a prediction of the one would come from "
            f"models that have seen rows which the other holds out; train it with the split options of {first.place}"
        )


def folds_in(plan: FoldPlan) -> Any:
    """What two plans have in common exactly if all rows are in the same folds of the same models: the hashes of the
    codes, and the codes of each model."""
    entries = [entry.hashes for entry in plan.manifest.shards]
    return plan.layout.rows, entries, plan.models, plan.holdout
