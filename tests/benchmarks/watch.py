"""`make bench-watch`: what it costs the training that somebody looks at its page.

python -m tests.benchmarks.watch DIGITS RESULT.json. One run on all cores, in turns of a few epochs: nobody looks; then
`foldstream watch` serves a page that is open somewhere. Who does not look is stopped by SIGSTOP, so each turn with the
server stands between two without, on a machine of the same speed. For the last quarter a browser on this machine draws
the page, and what server and browser take of a core is counted.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from foldstream.cluster.status import run_status
from foldstream.cluster.views.facts import TIMES
from foldstream.storage.files import read_json
from foldstream.training.run import RunFolder

from ..browser import chromium, source_data, started_watch
from ..chaos.processes import start
from .folds import timed
from .record import machine, write_section

FOLDS, EPOCHS, TURN, LAST = 2, 200, 2, 50
"""Folds, epochs of each, epochs in a turn, and how many in the end a browser looks at."""
POLL_SECONDS = 0.1
NOBODY, SERVER, BROWSER = "nobody", "the server", "the browser"
DRAWS = 10_000
"""Of the bootstrap."""


def watchers() -> dict[str, list[psutil.Process]]:
    """This process's children that watch: the server, and what belongs to the browser."""
    found: dict[str, list[psutil.Process]] = {SERVER: [], BROWSER: []}
    for child in psutil.Process().children():
        kind = SERVER if "watch" in child.cmdline() else BROWSER
        if "train" not in child.cmdline():
            found[kind] += [child, *child.children(recursive=True)]
    return found


def let(condition: str, found: dict[str, list[psutil.Process]]) -> None:
    """Have those look who look under a condition, and no others."""
    for kind, processes in found.items():
        looks = condition == BROWSER or kind == condition
        for process in processes:
            process.resume() if looks else process.suspend()


def cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def epochs_done(run: Path) -> int:
    """By a file of some bytes: this is to cost nothing itself."""
    return int(read_json(RunFolder(run).fold(0).progress)["epochs"])


def measure(dataset: Path, run: Path) -> dict[str, Any]:
    """The seconds of each epoch, and who looked at it; the seconds that watchers took of a core."""
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
        page.wait_for_function("Bokeh.documents[0]?.is_idle")
        found, looked = watchers(), dict[int, str]()
        used, before, condition = dict.fromkeys(found, 0.0), dict.fromkeys(found, 0.0), ""
        while training.poll() is None:
            done = epochs_done(run)
            if done not in looked:
                looked[done] = BROWSER if done >= EPOCHS - LAST else (NOBODY, SERVER)[done // TURN % 2]
                print(f"{done} of {EPOCHS}", end="\r", flush=True)
                for kind, processes in found.items():
                    now = cpu_seconds(processes)
                    used[kind] += (now - before[kind]) * (condition == BROWSER)
                    before[kind] = now
                condition = looked[done]
                let(condition, found)
            time.sleep(POLL_SECONDS)
        let(BROWSER, found)
        page.wait_for_function(
            f"Bokeh.documents[0].get_model_by_name('loss, held out, fold 0').data.epoch.at(-1) == {EPOCHS}"
        )
        assert len(source_data(page, "lanes")["fold"]) >= FOLDS
    if training.wait():
        raise SystemExit(run.with_suffix(".log").read_text())
    ranks = [epoch["ranks"][0] for epoch in run_status(run).folds[0].history]
    seconds = [sum(spent[name] for name in TIMES) for spent in ranks]
    return {"seconds": seconds, "looked": [looked.get(epoch, "") for epoch in range(EPOCHS)], "used": used}


def costs(seconds: Sequence[float], looked: Sequence[str]) -> np.ndarray:
    """By how much each turn with the server was slower than the turns around it, as shares."""
    turns = [(looked[at], float(np.mean(seconds[at : at + TURN]))) for at in range(0, EPOCHS, TURN)]
    whole = [len({*looked[at : at + TURN]}) == 1 for at in range(0, EPOCHS, TURN)]
    found = [
        turns[at][1] / np.mean([turns[at - 1][1], turns[at + 1][1]]) - 1
        for at in range(1, len(turns) - 1)
        if turns[at][0] == SERVER and turns[at + 1][0] == NOBODY and all(whole[at - 1 : at + 2])
    ]
    return np.array(found)


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """The mean of the middle half, and where 95 % of those lie that are drawn from the values again."""
    rng = np.random.default_rng(0)

    def middle(drawn: np.ndarray) -> np.ndarray:
        quarter = drawn.shape[-1] // 4
        kept: np.ndarray = np.sort(drawn, axis=-1)[..., quarter : drawn.shape[-1] - quarter].mean(axis=-1)
        return kept

    low, high = np.quantile(middle(rng.choice(values, (DRAWS, len(values)))), [0.025, 0.975])
    return float(middle(values)), float(low), float(high)


def main(digits: Path, result: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-watch-") as name:
        dataset = Path(name, "digits.zarr")
        convert = ["csv", str(digits / "train.csv.gz"), str(dataset), "--label", "label", "--shape", "1,28,28"]
        timed([sys.executable, "-m", "foldstream.cli", "convert", *convert])
        figures = measure(dataset, Path(name, "run"))
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")
    lines = [f"`make bench-watch` on {machine()}; mlp, {FOLDS} folds, {EPOCHS} epochs, in turns of {TURN}.", ""]
    slower = costs(figures["seconds"], figures["looked"])
    middle, low, high = interval(slower)
    lines.append(
        f"With the server, and a page open elsewhere, {len(slower)} turns were slower than those around them by "
        f"{middle:.2%} (95 % of means of drawn turns: {low:.2%} to {high:.2%})."
    )
    watched = sum(seconds for seconds, who in zip(figures["seconds"], figures["looked"], strict=True) if who == BROWSER)
    shares = {kind: used / watched for kind, used in figures["used"].items()}
    told = f"{shares[SERVER]:.2%} of a core, a browser beside it, which draws without a GPU, {shares[BROWSER]:.2%}"
    lines += ["", f"In the last {LAST} epochs, {watched:.0f} s, the server took {told}.", ""]
    print("\n".join(lines))
    write_section("watch", lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
