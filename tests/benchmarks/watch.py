"""`make bench-watch`: the slowdown of training while its page is open.

python -m tests.benchmarks.watch DIGITS RESULT.json. One run trains many short epochs on all cores, while its page is
served and drawn by a browser on the same machine. Server and browser use a core in bursts, a few per minute, so most
epochs have none. An epoch with a burst is compared with the epochs around it, which gives the cost to training of one
second of core time, even though the speed of the machine changes from minute to minute. The last epochs are evaluated
separately: there the page is reloaded repeatedly, a burst on all cores.
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
from foldstream.storage.places.json_files import read_json
from foldstream.storage.places.locate import locate
from foldstream.training.run import RunFolder

from ..browser import chromium, source_data, started_watch
from ..chaos.processes import start
from .folds import timed
from .record import machine, write_section

FOLDS, EPOCHS, LAST, RELOAD = 2, 800, 160, 10
"""Folds; epochs of each; how many of the last epochs reload the page; and after how many epochs they do."""
EARLY_SECONDS = 300.0
POLL_SECONDS = 0.05
AROUND = 7  # neighboring epochs on each side that an epoch is compared with
LAGS = (-1, 0, 1)
"""Offsets of the epochs that a burst may have affected, relative to the epoch in which it was observed."""
BLOCK, DRAWS = 20, 10_000
"""Bootstrap: epochs that are resampled together, and the number of resamples."""
SERVER, BROWSER = "server", "browser"


def watchers() -> dict[str, list[psutil.Process]]:
    """The server and the browser processes among the descendants of this process."""
    found: dict[str, list[psutil.Process]] = {SERVER: [], BROWSER: []}
    for process in psutil.Process().children(recursive=True):
        command = process.cmdline()
        if "watch" in command:
            found[SERVER].append(process)
        elif command and "chrom" in command[0]:
            found[BROWSER].append(process)
    return found


class Meter:
    """Measures the CPU time of processes, to the nanosecond."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self.processes, self.threads = processes, dict[str, int]()

    def read(self) -> float:
        """CPU seconds so far of all threads, including those that have ended since the last reading."""
        for process in self.processes:
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                with suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
                    self.threads[thread.name] = int((thread / "schedstat").read_text().split()[0])
        return sum(self.threads.values()) / 1e9


def epochs_done(run: Path) -> int:
    """Completed epochs, from a small file, so that the measurement itself costs nothing."""
    return int(read_json(RunFolder(locate(run)).fold(0).progress)["epochs"])


def measure(dataset: Path, run: Path) -> dict[str, Any]:
    """The seconds of each epoch that was watched from start to end, and the CPU seconds that the watchers used."""
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
    ranks = [epoch["ranks"][0] for epoch in run_status(locate(run)).folds[0].history]
    watched = [done for done in sorted(taken) if done > min(taken) and {done, done + 1} <= taken.keys()]
    return {
        "seconds": [sum(ranks[epoch][name] for name in TIMES) for epoch in watched],
        **{kind: [taken[epoch + 1][kind] - taken[epoch][kind] for epoch in watched] for kind in meters},
    }


def beside(values: np.ndarray) -> np.ndarray:
    """The difference between each value and the mean of the values around it."""
    window = np.ones(2 * AROUND + 1)
    return values - np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")


def seconds_for_a_second(seconds: np.ndarray, taken: np.ndarray) -> tuple[float, float, float]:
    """The slowdown of training per CPU second of the watchers, by least squares, with its 95 % block bootstrap CI."""
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
        "One CPU second of the watchers costs the training "
        f"{cost[0]:.2f} s ({cost[1]:.2f} to {cost[2]:.2f}) in these epochs, and "
        f"{of_loading[0]:.2f} s ({of_loading[1]:.2f} to {of_loading[2]:.2f}) while the page loads on all cores.",
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
