"""`make bench-start`: how long small jobs take from the command to its end, against the same work as a plain script.

python -m tests.benchmarks.start DIGITS RESULT.json [CASE…]. Each command and each script is a process of its own, timed
with the start of Python. They take turns, ROUNDS times, and the medians count.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from time import perf_counter

from rich.console import Console
from rich.markdown import Markdown

from .convert import make_digits
from .record import machine, write_section

ROUNDS = int(os.environ.get("ROUNDS", "5"))
EXAMPLES = Path(__file__).parents[2] / "examples" / "digits"
FOLDSTREAM = [str(Path(sys.executable).with_name("foldstream"))]
PLAIN = [sys.executable, "-m", "tests.benchmarks.plain"]
LABELLED = ["--label", "label", "--shape", "1,28,28"]
SMALL_BYTES, SMALL_ROWS, MODEL, EPOCHS = 26_000, 900, "digits-cnn", 10
DEMO_EPOCHS = "8"  # as in the example's job.toml


@dataclass(frozen=True)
class Case:
    """A command, and the script that does the same. `prepare` writes what both read into a folder, from the folder of
    the full digits."""

    command: Callable[[Path], list[str]]
    script: Callable[[Path], list[str]] | None
    goal: str
    holds: Callable[[float, float], bool]
    """Whether the goal is reached, by the seconds of the command and of the script."""
    prepare: Callable[[Path, Path], None]
    status: int = 0


def write_rows(folder: Path, rows: int | None = None, size: int | None = None) -> None:
    """The first rows of the digits example as `digits.csv`: so many, or so many bytes."""
    with gzip.open(EXAMPLES / "train.csv.gz", "rb") as source:
        lines = list(islice(source, None if rows is None else rows + 1))
    if size is not None:
        while sum(map(len, lines)) > size:
            lines.pop()
    (folder / "digits.csv").write_bytes(b"".join(lines))


def small_file(folder: Path, digits: Path) -> None:
    write_rows(folder, SMALL_ROWS)


def small_dataset(folder: Path, digits: Path) -> None:
    write_rows(folder, SMALL_ROWS)
    run(convert(folder, "data"))


def complete_run(folder: Path, digits: Path) -> None:
    small_dataset(folder, digits)
    run([*train(folder), "--epochs", "1"])


def big_file(folder: Path, digits: Path) -> None:
    make_digits(digits, folder / "digits.csv")


def demo_files(folder: Path, digits: Path) -> None:
    """The example's files as they are, and unpacked for the script."""
    shutil.copytree(EXAMPLES, folder / "examples" / "digits")
    for name in ("train", "test"):
        with gzip.open(EXAMPLES / f"{name}.csv.gz", "rb") as source, open(folder / f"{name}.csv", "wb") as out:
            shutil.copyfileobj(source, out)


def convert(folder: Path, out: str = "out") -> list[str]:
    return [*FOLDSTREAM, "convert", "csv", str(folder / "digits.csv"), str(folder / out), *LABELLED]


def train(folder: Path, run: str = "run") -> list[str]:
    options = ["--model", MODEL, "--folds", "5", "--batch-size", "128"]
    return [*FOLDSTREAM, "train", str(folder / "data"), str(folder / run), *options]


CASES = {
    "convert 26 KB": Case(
        convert,
        lambda folder: [*PLAIN, "convert", str(folder / "digits.csv"), str(folder / "plain")],
        "at most 2.5 s",
        lambda ours, script: ours <= 2.5,
        lambda folder, digits: write_rows(folder, size=SMALL_BYTES),
    ),
    "convert 1 GB, against parsing alone": Case(
        convert,
        lambda folder: [*PLAIN, "parse", str(folder / "digits.csv")],
        "at least 1.8 times as fast",
        lambda ours, script: script >= 1.8 * ours,
        big_file,
    ),
    "train 900 rows": Case(
        lambda folder: [*train(folder, "out"), "--epochs", str(EPOCHS)],
        lambda folder: [*PLAIN, "train", str(folder / "data"), MODEL, str(EPOCHS)],
        "at most 1.5 times as long, plus 2 s",
        lambda ours, script: ours <= 1.5 * script + 2,
        small_dataset,
    ),
    "the demo": Case(
        lambda folder: [*FOLDSTREAM, "run", str(folder / "examples" / "digits" / "job.toml")],
        lambda folder: [*PLAIN, "demo", *(str(folder / f"{n}.csv") for n in ("train", "test", "plain")), DEMO_EPOCHS],
        "at most 1.25 times as long",
        lambda ours, script: ours <= 1.25 * script,
        demo_files,
    ),
    "a complete run": Case(
        lambda folder: [*train(folder), "--epochs", "1"],
        None,
        "at most 1.5 s",
        lambda ours, script: ours <= 1.5,
        complete_run,
    ),
    "a column that does not exist": Case(
        lambda folder: [*convert(folder), "--label", "nosuch"],
        None,
        "at most 1.5 s",
        lambda ours, script: ours <= 1.5,
        small_file,
        status=2,
    ),
}


def run(command: Sequence[str], status: int = 0) -> float:
    """Run a command. Returns its seconds."""
    started = perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = perf_counter() - started
    if done.returncode != status:
        raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return seconds


def measure(case: Case, folder: Path, digits: Path) -> tuple[float, float]:
    """The median seconds of a case's command and of its script."""
    case.prepare(folder, digits)
    ours: list[float] = []
    scripts: list[float] = []
    for _ in range(ROUNDS):
        ours.append(run(case.command(folder), case.status))
        if case.script:
            scripts.append(run(case.script(folder)))
        for name in ("out", "plain", "build"):
            shutil.rmtree(folder / name, ignore_errors=True)
    return median(ours), median(scripts) if scripts else 0.0


def main(digits: Path, result: Path, names: Sequence[str]) -> None:
    figures = {}
    lines = ["| | Foldstream, s | plain script, s | goal | reached |", "|---|---:|---:|---|---|"]
    for name in names or CASES:
        case = CASES[name]
        with tempfile.TemporaryDirectory(prefix="bench-start-") as folder:
            ours, script = measure(case, Path(folder), digits)
        holds = case.holds(ours, script)
        figures[name] = {"seconds": ours, "script": script, "goal": case.goal, "reached": holds}
        print(name, figures[name], flush=True)
        lines.append(f"| {name} | {ours:.2f} | {script:.2f} | {case.goal} | {'yes' if holds else 'no'} |")
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")
    Console(width=110).print(Markdown("\n".join(lines)))
    if set(figures) == set(CASES):
        write_section("start", [f"`make bench-start` on {machine()}, medians of {ROUNDS}.", "", *lines, ""])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
