"""What comes after the last fold: merged predictions, the report, the run's summary."""

from collections.abc import Sequence
from typing import Any

from ...pipeline.predictions.merge import merge_predictions
from ...pipeline.predictions.scores import Scorer
from ...storage.dataset import Dataset
from ...storage.fold_plan import ModelRows, open_plan
from ...storage.places.json_files import write_json
from ...storage.places.place import Place
from ...storage.tasks import Executor, Progress
from ...training.fitted.baseline import baseline_says, baseline_scores
from ...training.run import RunFolder, load_job, read_result
from ...training.settings import own_metrics, scoring_of
from ..views.facts import spread
from ..views.report import write_report
from .browse import BrowsableDataset


def merge_run(run: RunFolder, dataset: Dataset, executor: Executor, progress: Progress) -> dict[str, Any]:
    """Merge the folds' predictions, sum up, and with that complete the run. Returns its summary."""
    plan, job = open_plan(run.folds), load_job(run)
    scoring = scoring_of(dataset.schema, job.config, dataset.statistics.y_mean)
    scorer = Scorer(scoring, own_metrics(job.config))
    folders = [run.fold(fold) for fold in range(len(plan.models))]

    def merge(models: Sequence[ModelRows], parts: Sequence[Place], root: Place) -> dict[str, Any]:
        return merge_predictions(dataset, plan, models, parts, root, scorer, executor, progress)

    report = {"out_of_fold": merge(plan.models, [folder.parts for folder in folders], run.oof)}
    if plan.holdout.held_out:
        every = [plan.holdout] * len(folders)
        report["holdout"] = merge(every, [folder.holdout_parts for folder in folders], run.holdout)
    baseline = baseline_scores(scoring, plan)
    rows = BrowsableDataset(dataset.place, dataset.manifest, dataset.identity).rows
    write_report(run, job, dataset, report, baseline, rows)
    summary = summarize([read_result(folder) for folder in folders], report)
    summary |= {"baseline": baseline, "baseline_is": baseline_says(dataset.schema)}
    run.root.sync_folders()
    write_json(run.summary, summary)
    return summary


def summarize(results: list[dict[str, Any]], report: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The folds' final metrics with mean and standard deviation, and the scores over all rows that are held out from a
    model, and over those that no model has seen."""
    folds = [{"fold": result["fold"], **result["metrics"]} for result in results]
    merged = report["out_of_fold"]
    scores = [{name: fold[name] for name in merged["scores"] if name in fold} for fold in folds]
    summary: dict[str, Any] = {"rows": merged["rows"], "folds": folds, "spread": spread(scores)}
    for part, of_part in report.items():
        summary |= {part: of_part["scores"], f"{part}_intervals": of_part["intervals"], f"{part}_rows": of_part["rows"]}
    return summary
