"""`make bench-watch`: what it costs the training that somebody looks at its page.

python -m tests.benchmarks.watch DIGITS RESULT.json. One run on all cores of many short epochs, its page served and
drawn by a browser on the same machine all the time. What these take of a core comes in bursts, a few in a minute, so
most epochs are without: how much longer those last into which one falls, beside the epochs around them, gives what a
second of it costs the training, on a machine whose speed changes from minute to minute. In the end, told apart, the
page is loaded again and again: a burst that takes all cores.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from foldstream.cluster.runs.status import run_status
from foldstream.cluster.views.facts import TIMES
from foldstream.storage.files import read_json
from foldstream.training.run import RunFolder

from ..browser import chromium, source_data, started_watch
from ..chaos.processes import start
from .folds import timed
from .record import machine, write_section

FOLDS, EPOCHS, LAST, RELOAD = 2, 800, 160, 10
"""Folds, epochs of each; how many of them, in the end, in which the page is loaded anew after so many."""
EARLY_SECONDS = 300.0
POLL_SECONDS = 0.05
AROUND = 7  # epochs on each side that one is compared with
LAGS = (-1, 0, 1)
"""Epochs, beside that in which a burst was seen, that it may have fallen into."""
BLOCK, DRAWS = 20, 10_000
"""Of the bootstrap: epochs that are drawn together, and how often."""
SERVER, BROWSER = "server", "browser"


def watchers() -> dict[str, list[psutil.Process]]:
    """The server, and the processes of the browser, of this process's descendants."""
    found: dict[str, list[psutil.Process]] = {SERVER: [], BROWSER: []}
    for process in psutil.Process().children(recursive=True):
        command = process.cmdline()
        if "watch" in command:
            found[SERVER].append(process)
        elif command and "chrom" in command[0]:
            found[BROWSER].append(process)
    return found


class Meter:
    """What processes take of a core, to the nanosecond."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self.processes, self.threads = processes, dict[str, int]()

    def read(self) -> float:
        """The core seconds so far of all their threads, also of those that have ended since they were last read."""
        for process in self.processes:
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                with suppress(FileNotFoundError, ProcessLookupError):  # it has ended just now
                    self.threads[thread.name] = int((thread / "schedstat").read_text().split()[0])
        return sum(self.threads.values()) / 1e9


def epochs_done(run: Path) -> int:
    """By a file of some bytes: this is to cost nothing itself."""
    return int(read_json(RunFolder(run).fold(0).progress)["epochs"])


def measure(dataset: Path, run: Path) -> dict[str, Any]:
    """The seconds of each epoch that was watched from its beginning to its end, and the core seconds of those who
    watched it."""
    options = ["--model", "mlp", "--folds", str(FOLDS), "--epochs", str(EPOCHS), "--fold-mode", "fused"]
    command = [sys.executable, "-m", "foldstream.cli", "train", str(dataset), str(run), *options]
    training = start(command, run.with_suffix(".log"))
    while not (run / "folds" / "0" / "progress.json").exists():
        if training.poll() is not None:
            raise SystemExit(run.with_suffix(".log").read_text())
        time.sleep(POLL_SECONDS)
    with started_watch(run) as address, chromium() as browser:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_function("window.Bokeh?.documents[0]?.is_idle")
        meters = {kind: Meter(processes) for kind, processes in watchers().items()}
        taken: dict[int, dict[str, float]] = {}
        while training.poll() is None:
            done = epochs_done(run)
            if done not in taken:
                taken[done] = {kind: meter.read() for kind, meter in meters.items()}
                print(f"{done} of {EPOCHS}", end="\r", flush=True)
                if done > EPOCHS - LAST and done % RELOAD == 0:
                    page.reload()
            time.sleep(POLL_SECONDS)
        page.wait_for_function(
            f"Bokeh.documents[0].get_model_by_name('loss, held out, fold 0').data.epoch.at(-1) == {EPOCHS}"
        )
        assert len(source_data(page, "timeline")["fold"]) >= FOLDS
    if training.wait():
        raise SystemExit(run.with_suffix(".log").read_text())
    ranks = [epoch["ranks"][0] for epoch in run_status(run).folds[0].history]
    watched = [done for done in sorted(taken) if done > min(taken) and {done, done + 1} <= taken.keys()]
    return {
        "seconds": [sum(ranks[epoch][name] for name in TIMES) for epoch in watched],
        **{kind: [taken[epoch + 1][kind] - taken[epoch][kind] for epoch in watched] for kind in meters},
    }


def beside(values: np.ndarray) -> np.ndarray:
    """By how much each is above the mean of those around it."""
    window = np.ones(2 * AROUND + 1)
    return values - np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def seconds_for_a_second(seconds: np.ndarray, taken: np.ndarray) -> tuple[float, float, float]:
    """How much longer the training takes for a core second of the watchers, by least squares, and where 95 % of the
    answers lie if blocks of epochs are drawn again."""
    above, bursts = beside(seconds), beside(taken)
    near = np.stack([np.roll(bursts, lag) for lag in LAGS], axis=1)
    blocks = np.array_split(np.arange(len(seconds)), len(seconds) // BLOCK)
    squares = np.stack([near[block].T @ near[block] for block in blocks])
    products = np.stack([near[block].T @ above[block] for block in blocks])
    drawn = np.random.default_rng(0).integers(len(blocks), size=(DRAWS, len(blocks)))
    answers = np.linalg.solve(squares[drawn].sum(1), products[drawn].sum(1)[..., None])[..., 0].sum(1)
    answer = np.linalg.solve(squares.sum(0), products.sum(0)).sum()
    low, high = np.quantile(answers, [0.025, 0.975])
    return float(answer), float(low), float(high)


def main(digits: Path, result: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-watch-") as name:
        dataset = Path(name, "digits.zarr")
        convert = ["csv", str(digits / "train.csv.gz"), str(dataset), "--label", "label", "--shape", "1,28,28"]
        timed([sys.executable, "-m", "foldstream.cli", "convert", *convert])
        figures = measure(dataset, Path(name, "run"))
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")
    seconds, server, browser = (np.array(figures[name]) for name in ("seconds", SERVER, BROWSER))
    counted = len(seconds) - LAST
    cost, of_loading = (
        seconds_for_a_second(seconds[part], (server + browser)[part]) for part in (slice(counted), slice(counted, None))
    )
    early = int(np.searchsorted(seconds.cumsum(), EARLY_SECONDS))
    parts = {
        "page open elsewhere": (server, 0),
        "page open here": (server + browser, 0),
        f"the same, after {EARLY_SECONDS / 60:.0f} minutes": (server + browser, early),
    }
    lines = [
        f"`make bench-watch` on {machine()}; mlp, {FOLDS} folds, {counted} epochs of {seconds[:counted].mean():.2f} s.",
        "",
        "A second that watchers take of a core costs the training "
        f"{cost[0]:.2f} s ({cost[1]:.2f} to {cost[2]:.2f}) in these epochs, and "
        f"{of_loading[0]:.2f} s ({of_loading[1]:.2f} to {of_loading[2]:.2f}) where it loads the page, by all cores.",
        "",
        "| | of a core | training slower by | 95 % |",
        "|---|---:|---:|---:|",
    ]
    for name, (taken, first) in parts.items():
        share = taken[first:counted].sum() / seconds[first:counted].sum()
        middle, low, high = (factor * share for factor in cost)
        lines.append(f"| {name} | {share:.2%} | {middle:.2%} | {low:.2%} to {high:.2%} |")
    lines.append("")
    print("\n".join(lines))
    write_section("watch", lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
