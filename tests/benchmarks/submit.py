"""`make bench-submit`: what a local cluster costs: the demo run by the command, and submitted to a cluster for it.

python -m tests.benchmarks.submit RESULT.json. Starting the cluster, waiting for the job's end and stopping the cluster
count. The predictions must be the same bytes.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from .record import machine, write_section

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
ROUNDS = 2


def foldstream(*arguments: object, **environment: str) -> float:
    """Seconds of a command."""
    started = perf_counter()
    line = [sys.executable, "-m", "foldstream.cli", *map(str, arguments)]
    done = subprocess.run(line, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{line}: {done.stdout}{done.stderr}")
    return perf_counter() - started


def job_in(folder: Path) -> Path:
    """The demo's job and data, whose results go to `folder`/build/demo."""
    place = folder / "examples" / "digits"
    shutil.copytree(EXAMPLE, place)
    return place / "job.toml"


def measure(folder: Path) -> tuple[float, dict[str, float]]:
    """Seconds of the demo run here, and of each step of having a cluster do it."""
    here, there = job_in(folder / "here"), job_in(folder / "there")
    alone, home = foldstream("run", here), {"FOLDSTREAM_HOME": str(folder)}
    steps = {"start": foldstream("cluster", "start", **home)}
    try:
        steps["job"] = foldstream("submit", there, "--follow", **home)
    finally:
        steps["stop"] = foldstream("cluster", "stop", **home)
    result = Path("build", "demo", "submission.csv")
    if (folder / "here" / result).read_bytes() != (folder / "there" / result).read_bytes():
        raise SystemExit("the predictions differ")
    return alone, steps


def main(result: Path) -> None:
    rounds = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="bench-submit-") as name:
            rounds.append(measure(Path(name)))
            print(rounds[-1], flush=True)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(rounds, indent=2) + "\n")
    lines = [f"`make bench-submit` on {machine()}, {ROUNDS} rounds, the same predictions.", ""]
    lines += ["| the demo, s | run here | cluster started | job submitted, until its end | cluster stopped | more |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for number, (alone, steps) in enumerate(rounds, 1):
        cells = (alone, *steps.values(), sum(steps.values()) - alone)
        lines.append(f"| round {number} | " + " | ".join(f"{seconds:.1f}" for seconds in cells) + " |")
    write_section("submit", [*lines, ""])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
