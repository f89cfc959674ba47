"""`make bench-submit`: the cost of a local cluster: the demo run directly, and submitted to a new cluster.

python -m tests.benchmarks.submit RESULT.json. The time includes starting the cluster, waiting for the job, and stopping
the cluster. The predictions must be identical.
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
    """Run a foldstream command. Returns its seconds."""
    started = perf_counter()
    line = [sys.executable, "-m", "foldstream.cli", *map(str, arguments)]
    done = subprocess.run(line, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{line}: {done.stdout}{done.stderr}")
    return perf_counter() - started


def job_in(folder: Path) -> Path:
    """Copy the demo's job and data, whose results go to `folder`/build/demo. Returns the job file."""
    target = folder / "examples" / "digits"
    shutil.copytree(EXAMPLE, target)
    return target / "job.toml"


def measure(folder: Path) -> tuple[float, dict[str, float]]:
    """Seconds of the demo when run directly, and of each step when submitted to a cluster."""
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
