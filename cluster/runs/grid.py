"""Grid search: each candidate is a run in its own folder; all candidates are trained together and compared."""

import math
import re
from collections.abc import Collection, Mapping
from itertools import product
from typing import Any

from ...storage.errors import ConflictError, RunError, UsageError
from ...storage.places.place import Place
from ...training.run import CANDIDATES, RunFolder, divergence_of

MOST_CANDIDATES = 1000


def expand_grid(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of every candidate by name, e.g. `lr=0.01,hidden=64`. A single candidate has an empty name.

    Values to vary are lists or comma-separated strings. Raises UsageError if there are too many candidates.
    """
    values = {name: _values(value) for name, value in settings.items()}
    varied = [name for name, of_name in values.items() if len(of_name) > 1]
    candidates = {}
    for chosen in product(*values.values()):
        candidate = dict(zip(values, chosen, strict=True))
        candidates[",".join(f"{name}={candidate[name]}" for name in varied)] = candidate
        if len(candidates) > MOST_CANDIDATES:
            raise UsageError(f"--set: the grid has more than {MOST_CANDIDATES:,} candidates; use fewer values")
    return candidates


def _values(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return list(value)
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else [value]


def candidate_folder(root: Place, name: str) -> RunFolder:
    """The folder of a candidate's run; for a single candidate, the run's own folder."""
    return RunFolder(root / CANDIDATES / re.sub(r"[^\w.=,+-]", "_", name) if name else root)


def check_folder(root: Place, names: Collection[str], what: str) -> None:
    """Raise ConflictError unless candidates of these names may have their runs in a folder: it is empty, or contains
    runs of such candidates only. `what` is what is to be started. A single run claims its folder by itself, unless that
    is the folder of a grid."""
    there = {*(root / CANDIDATES).subfolders()}
    others = sorted(there - {candidate_folder(root, name).root.name for name in names if name})
    if others:
        shown = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if others[4:] else "")
        raise ConflictError(
            f"{root} already contains a grid with other candidates ({shown}); choose another folder, or keep their "
            "values and add to them"
        )
    if there or [*names] == [""]:
        return
    if RunFolder(root).job.exists():
        raise ConflictError(f"{root} already contains a single run, not a {what}; choose another folder")
    if any(not name.startswith(".") for name in root.names()):
        raise ConflictError(f"{root} already contains something that is not a {what}; choose another folder")


def compare_grid(
    root: Place, candidates: Mapping[str, dict[str, Any]], summaries: Mapping[str, Any], metrics: Mapping[str, bool]
) -> dict[str, Any]:
    """Compare the candidates of the run in a folder, which keeps the result as `GRID`.

    The best candidate has the best out-of-fold value of the first of the `metrics`, of which it is known whether higher
    values are better; the others decide between equals. Candidates without a summary have diverged.

    Raises RunError if all have.
    """
    failures = {name: divergence_of(candidate_folder(root, name)) for name in candidates if name not in summaries}
    if not summaries:
        name, reason = next(iter(failures.items()))
        raise RunError(
            f"{root}: all {len(candidates)} candidates have diverged, the first one, {name}, in {reason}; start a new "
            "run with lower learning rates (--set lr=…) or with gradient clipping (--set clip_grad_norm=1)"
        )

    def rank(name: str) -> list[float]:
        scores = summaries[name]["out_of_fold"]
        signs = {metric: -1 if higher_is_better else 1 for metric, higher_is_better in metrics.items()}
        return [sign * scores[metric] if metric in scores else math.inf for metric, sign in signs.items()]

    best = min(summaries, key=rank)
    return {
        "best": best,
        "metric": next(iter(metrics)),
        "folder": str(candidate_folder(root, best).root).removeprefix(f"{root}/"),
        "candidates": [
            {"name": name, "settings": settings}
            | {part: summaries[name][part] if name in summaries else {} for part in ("out_of_fold", "spread")}
            | ({"failure": failures[name]} if name in failures else {})
            for name, settings in candidates.items()
        ],
    }
