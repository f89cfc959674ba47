"""`make bench-schedule`: 20 folds on 64 nodes that fail, simulated: hours until all are done, idle and lost work.

python -m tests.benchmarks.schedule RESULT.json. Each figure is of SEEDS runs whose folds may fail as often as they
like; «given up by default» counts the folds that the default of `--max-retries` gives up in the same situation.

m folds at a time, in any order, are done after at most work / m + (1 - 1 / m) longest if no node fails, which is
2 - 1 / m times the least (R. L. Graham, Bounds on Multiprocessing Timing Anomalies, SIAM J. Appl. Math. 17, 1969).
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
"""Nodes of a fold."""
BETWEEN_FAILURES = {"never": math.inf, "30 days": 720.0, "2 days": 48.0, "8 h": 8.0}
"""Mean hours between two failures of a node."""
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
    """Of the hours until all folds are done, without failures: the least, that if no fold is moved, and the most."""
    places, longest, work = NODES // demand, max(hours), sum(hours)
    falling = sorted(hours, reverse=True)
    # Of the longest k * places + 1 folds some place has k + 1: at best the shortest of them.
    stacked = [sum(falling[k * places - k : k * places + 1]) for k in range((FOLDS - 1) // places + 1)]
    least, most = max(longest, work * demand / NODES), work / places + (1 - 1 / places) * longest
    return {"least": least, "unmoved": max(least, *stacked), "most": most}


def simulate(demand: int, between_failures: float, seed: int) -> Figures:
    """The figures of one run: hours, and shares of the hours of the nodes that were there."""
    cluster = Cluster(demand, between_failures, MANY_RETRIES, seed)
    cluster.run()
    assert cluster.schedule.units_with(Status.DONE) == list(cluster.hours)
    assert cluster.spent[WOULD_FIT] == 0, f"seed {seed}: a fold waited that would have fitted"
    spent = sum(cluster.spent.values())
    figures = {"hours": cluster.now} | bounds(cluster.hours.values(), demand)
    figures |= {reason: cluster.spent[reason] / spent for reason in IDLE}
    figures["lost"] = max(0.0, 1 - sum(cluster.hours.values()) * demand / cluster.spent[BUSY])
    with_default = Cluster(demand, between_failures, DEFAULT_RETRIES, seed)
    with_default.run()
    return figures | {"given up": len(with_default.schedule.units_with(Status.FAILED))}


def lines(demand: int, figures: dict[str, list[Figures]]) -> list[str]:
    """The table of a demand, in Markdown."""
    least, unmoved, most = (fmean(run[bound] for run in figures["never"]) for bound in ("least", "unmoved", "most"))
    table = [
        f"**{demand} node{'s' * (demand > 1)} a fold, {min(FOLDS, NODES // demand)} folds at once**; without failures "
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
    told = f"{FOLDS} folds of {FOLD_HOURS:g} h in the mean on {NODES} nodes, {SEEDS} seeded runs: the same anywhere."
    write_section("schedule", [f"`make bench-schedule`: {told}", "", *text])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
