"""`make bench-schedule`: simulates 20 folds on 64 nodes that fail: hours to completion, idle time, lost work.

python -m tests.benchmarks.schedule RESULT.json. Each figure is the mean of SEEDS runs with unlimited retries. "given up
by default" counts the folds that the default of `--max-retries` gives up in the same situation.

If no node fails, m folds at a time, in any order, take at most work / m + (1 - 1 / m) longest, which is 2 - 1 / m times
the minimum (R. L. Graham, Bounds on Multiprocessing Timing Anomalies, SIAM J. Appl. Math. 17, 1969).
"""

import json
import math
import sys
from collections.abc import Collection
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import fmean, quantiles

from foldstream.cluster.runs.schedule import Status
from rich.console import Console
from rich.markdown import Markdown

from .record import write_section
from .simulated_cluster import BUSY, FOLD_HOURS, FOLDS, IDLE, NODES, WOULD_FIT, Cluster

SEEDS = 200
DEFAULT_RETRIES, MANY_RETRIES = 2, 1_000
DEMANDS = (1, 4, 8)
"""Nodes per fold."""
BETWEEN_FAILURES = {"never": math.inf, "30 days": 720.0, "2 days": 48.0, "8 h": 8.0}
"""Mean hours between failures of a node."""
COLUMNS = (
    "a node fails every",
    "all done, h",
    "95 % of runs within, h",
    "of the least",
    *(f"idle: {reason}" for reason in IDLE),
    "work lost",
    "given up by default",
)

Figures = dict[str, float]


def bounds(hours: Collection[float], demand: int) -> Figures:
    """Bounds of the hours to completion without failures: the least, the least if no fold moves, and the most."""
    slots, longest, work = NODES // demand, max(hours), sum(hours)
    falling = sorted(hours, reverse=True)
    # Among the longest k * slots + 1 folds, some slot runs k + 1 of them: at best the shortest ones.
    stacked = [sum(falling[k * slots - k : k * slots + 1]) for k in range((FOLDS - 1) // slots + 1)]
    least, most = max(longest, work * demand / NODES), work / slots + (1 - 1 / slots) * longest
    return {"least": least, "unmoved": max(least, *stacked), "most": most}


def simulate(demand: int, between_failures: float, seed: int) -> Figures:
    """Simulate one run. Returns its hours, and fractions of the hours of all live nodes."""
    cluster = Cluster(demand, between_failures, MANY_RETRIES, seed)
    cluster.run()
    assert cluster.schedule.units_with(Status.DONE) == list(cluster.hours)
    assert cluster.spent[WOULD_FIT] == 0, f"seed {seed}: a fold waited although it would have fitted"
    spent = sum(cluster.spent.values())
    figures = {"hours": cluster.now} | bounds(cluster.hours.values(), demand)
    figures |= {reason: cluster.spent[reason] / spent for reason in IDLE}
    figures["lost"] = max(0.0, 1 - sum(cluster.hours.values()) * demand / cluster.spent[BUSY])
    with_default = Cluster(demand, between_failures, DEFAULT_RETRIES, seed)
    with_default.run()
    return figures | {"given up": len(with_default.schedule.units_with(Status.FAILED))}


def lines(demand: int, figures: dict[str, list[Figures]]) -> list[str]:
    """The table of one demand as Markdown."""
    least, unmoved, most = (fmean(run[bound] for run in figures["never"]) for bound in ("least", "unmoved", "most"))
    table = [
        f"**{demand} node{'s' * (demand > 1)} per fold, {min(FOLDS, NODES // demand)} folds at once**; without failure "
        f"at least {least:.2f} h, {unmoved:.2f} h if no fold moves, and at most {most:.2f} h (Graham):",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---|" + (len(COLUMNS) - 1) * "---:|",
    ]
    for often, runs in figures.items():
        mean = {name: fmean(run[name] for run in runs) for name in runs[0]}
        within = quantiles([run["hours"] for run in runs], n=20)[-1]
        ratio = fmean(run["hours"] / run["least"] for run in runs)
        shares = " | ".join(f"{100 * mean[name]:.1f} %" for name in (*IDLE, "lost"))
        hours = f"{mean['hours']:.2f} | {within:.2f} | {ratio:.2f}"
        table.append(f"| {often} | {hours} | {shares} | {mean['given up']:.2f} |")
    return [*table, ""]


def main(result: Path) -> None:
    figures: dict[int, dict[str, list[Figures]]] = {}
    with ProcessPoolExecutor() as pool:
        for demand in DEMANDS:
            figures[demand] = {}
            for often, hours in BETWEEN_FAILURES.items():
                runs = pool.map(partial(simulate, demand, hours), range(SEEDS), chunksize=10)
                figures[demand][often] = list(runs)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")
    text = [line for demand, one in figures.items() for line in lines(demand, one)]
    Console(width=140).print(Markdown("\n".join(text)))
    setup = (
        f"{FOLDS} folds of {FOLD_HOURS:g} h on average on {NODES} nodes, {SEEDS} seeded runs, reproducible anywhere."
    )
    write_section("schedule", [f"`make bench-schedule`: {setup}", "", *text])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
