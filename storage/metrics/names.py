"""The names of metrics: `f1` is that of all rows, and `f1/LABEL` that of one class or label."""

from collections.abc import Iterable

LOWER_IS_BETTER = {"loss", "rmse", "mae", "mape", "brier", "quantile_loss"}
RANKED = "auc", "average_precision"
"""The metrics that depend on the order of rows; see `ranking.py`."""


USUAL_ORDER = (
    *("loss", "accuracy", "mean_iou", "top3", "balanced_accuracy", "f1", *RANKED, "mcc", "brier"),
    *("rmse", "mae", "r2", "psnr", "mape", "quantile_loss"),
)


DETAILS = {
    *("balanced_accuracy", "f1", "average_precision", "mcc", "brier", "subset_accuracy"),
    *("mae", "mape"),
}
"""The metrics that a narrow table leaves out."""


def in_usual_order(names: Iterable[str]) -> list[str]:
    """Metrics as people expect them: of all rows first, then those of single classes or labels, and of the steps of a
    forecast from near to far."""
    known = {name: number for number, name in enumerate(USUAL_ORDER)}

    def place(name: str) -> tuple[bool, int, int]:
        step = name.rpartition("+")[2]
        return "/" in name, known.get(name.partition("/")[0], len(known)), int(step) if step.isdecimal() else 0

    return sorted(names, key=place)


def main_scores(names: Iterable[str]) -> list[str]:
    """Metrics in the usual order, without those of single classes or labels whose mean is among them."""
    every = in_usual_order(names)
    return [name for name in every if "/" not in name or name.partition("/")[0] not in every]


def score_text(value: float) -> str:
    """A score with four decimals, or four significant digits if it is huge."""
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"


def brief_scores(names: Iterable[str], most: int) -> list[str]:
    """The first of the main scores, without details: loss, accuracy and AUC, or loss, RMSE and R²."""
    return [name for name in main_scores(names) if name.partition("/")[0] not in DETAILS][:most]
