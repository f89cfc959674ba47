"""`make bench-metrics`: AUC and average precision of ten million rows from bounded memory, against scikit-learn's.

python -m tests.benchmarks.metrics RESULT.json. Rows come in parts, as from shards, and their probabilities are
continuous: nearly all of them differ, so they have to share bins.
"""

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from foldstream.storage.metrics.ranking import MOST_BINS, RankSums
from rich.console import Console
from rich.markdown import Markdown
from sklearn.metrics import average_precision_score, roc_auc_score

from .record import machine, write_section

ROWS, PART = 10_000_000, 250_000
POSITIVES = 0.05


def make_rows() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (rows,) float32, and whether each row is positive, (rows,) bool."""
    draw = np.random.default_rng(0)
    y = draw.random(ROWS) < POSITIVES
    return (1 / (1 + np.exp(-draw.normal(1.5 * y - 3, 1)))).astype(np.float32), y


def main(result: Path) -> None:
    p, y = make_rows()
    started = perf_counter()
    total = RankSums(1)
    for first in range(0, ROWS, PART):
        part = RankSums(1)
        part.add(p[first : first + PART, None], y[first : first + PART, None])
        total.merge(*part.parts())
    found, errors = total.metrics()
    seconds = perf_counter() - started
    rows: list[dict[str, Any]] = []
    for name, exact in (("auc", roc_auc_score), ("average_precision", average_precision_score)):
        started = perf_counter()
        value = float(exact(y, p))
        whole = perf_counter() - started
        wrong = abs(found[name] - value)
        assert wrong <= errors[name], f"{name}: {wrong} is more than the bound {errors[name]}"
        rows.append({"metric": name, "exact": value, "error": wrong, "bound": errors[name], "sklearn_seconds": whole})
    bins = len(total.parts()[0])
    figures = {"machine": machine(), "rows": ROWS, "values": len(np.unique(p)), "bins": bins, "seconds": seconds}
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps({**figures, "metrics": rows}, indent=2) + "\n")
    text = [
        f"`make bench-metrics` on {machine()}: {ROWS:,} rows with {figures['values']:,} different probabilities, in "
        f"parts of {PART:,}, counted in {bins:,} bins of at most {MOST_BINS:,}. Both metrics took {seconds:.1f} s.",
        "",
        "| metric | scikit-learn, all rows in memory | error | bound | scikit-learn, s |",
        "|---|---:|---:|---:|---:|",
        *(
            f"| {row['metric']} | {row['exact']:.9f} | {row['error']:.1e} | {row['bound']:.1e} | "
            f"{row['sklearn_seconds']:.1f} |"
            for row in rows
        ),
    ]
    Console(width=120).print(Markdown("\n".join(text)))
    write_section("metrics", text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
