"""Asks trainings to stop by a signal: python -m tests.chaos.stops COUNT SEED [KIND...].

KIND is here (--workers 0, the signal goes to the command), helper (to a process that trains along), command (on Ray, to
the command) or worker (on Ray, to a worker). In each phase (first step, step, evaluation, checkpoint, compile) the
signal comes at COUNT moments drawn from SEED. The command must end within ten seconds with exit code 75 and tell how to
resume; after the same command the weights and predictions must equal those of an undisturbed run. Another worker takes
the place of one that is stopped: the command goes on to that result by itself.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import foldstream as fs
from foldstream.storage.errors import StoppedError
from foldstream.storage.places.locate import locate
from foldstream.training.run import RunFolder

from ..conftest import EXAMPLES
from .fold_kills import FOLDS, result, training

PHASES = "first step", "step", "evaluation", "checkpoint", "compile"
KINDS = "here", "helper", "command", "worker"
EVENTS = {"first step": 1, "step": 30, "evaluation": 5, "checkpoint": 3, "compile": 1}
"""The last of the events of a phase, counted in a process, after which a signal may come."""
DELAY_SECONDS = {"first step": 0.05, "step": 0.05, "evaluation": 0.02, "checkpoint": 0.02, "compile": 4.0}
LONGEST_SECONDS = 10.0
MODEL = """
import json, os, signal, sys, threading, time
from pathlib import Path
from torch import nn

WANTED = json.loads(os.environ.get("FOLDSTREAM_STOP", "{}"))

def note(phase, counts={}):
    if WANTED.get("phase") != phase or "RANK" not in os.environ:  # not while the model is checked
        return
    counts[phase] = counts.get(phase, 0) + 1
    chosen = "helper.py" in sys.argv[0] if WANTED["kind"] == "helper" else True
    if counts[phase] == WANTED["event"] and chosen:
        threading.Timer(WANTED["delay"], send).start()

def send():
    told = Path(WANTED["told"])
    try:
        told.touch(exist_ok=False)
    except FileExistsError:
        return
    told.write_text(str(time.time()))
    os.kill(int(Path(WANTED["pid"]).read_text()) if WANTED["kind"] == "command" else os.getpid(), signal.SIGTERM)

class Noted(nn.Module):
    def __init__(self, net, compiled):
        super().__init__()
        self.net, self.compiled = net, compiled
        self.register_state_dict_pre_hook(lambda *_: note("checkpoint"))

    def train(self, mode=True):
        if mode and self.compiled:
            note("compile")
        return super().train(mode)

    def forward(self, x):
        if not self.compiled:
            for phase in ("first step", "step") if self.training else ("evaluation",):
                note(phase)
        return self.net(x)

def make(sample_shape, outputs, compiled=False):
    return Noted(nn.Sequential(
        nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, outputs)
    ), compiled)
"""


def command(folder: Path, run: Path, kind: str, phase: str) -> list[str]:
    """The command that trains a small model, which uses random numbers and batch norm."""
    rows = "many.zarr" if kind == "helper" else "few.zarr"
    options = {"--model": f"{folder}/own.py:make", "--folds": FOLDS, "--epochs": 3, "--batch-size": 64}
    if kind == "helper":
        options["--epochs"] = 8  # from which another process helps
    else:
        options["--workers"] = 0 if kind == "here" else 2
    words = [str(word) for option in options.items() for word in option]
    compiled = ["--set", "compile=true", "--set", "compiled=true"] if phase == "compile" else []
    return [sys.executable, "-m", "foldstream.cli", "train", f"{folder}/{rows}", str(run), *words, *compiled]


def weights(root: Path) -> tuple[list[bytes], bytes]:
    return result(RunFolder(locate(root)))


def stop_once(folder: Path, kind: str, phase: str, draw: random.Random) -> str:
    """Stop a run once, and resume it. Returns what happened; the result is in the folder `run`."""
    run, log, told, pid = folder / "run", folder / "log", folder / "told", folder / "pid"
    for old in (told, pid):
        old.unlink(missing_ok=True)
    subprocess.run(["rm", "-rf", str(run)], check=True)
    event, delay = draw.randint(1, EVENTS[phase]), draw.uniform(0, DELAY_SECONDS[phase])
    wanted = {"kind": kind, "phase": phase, "event": event, "delay": delay, "told": str(told), "pid": str(pid)}
    arguments = command(folder, run, kind, phase)
    os.environ["FOLDSTREAM_STOP"] = json.dumps(wanted)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp(dir=folder)
    try:
        with training(arguments, log) as process:
            pid.write_text(str(process.pid))
            code = process.wait()
            ended = time.time()
    finally:
        del os.environ["FOLDSTREAM_STOP"]
    printed = log.read_text()
    what = f"{kind}, {phase} {event} + {delay * 1000:.0f} ms"
    if not told.exists():
        return f"{what}: it ended before"
    seconds = ended - float(told.read_text())
    checkpoints = len(list(run.glob("folds/*/checkpoints/epoch-*")))
    if kind in ("worker", "helper"):  # another one takes its place
        assert code == 0, f"{what}: exit code {code}: {printed}"
        return f"{what}: went on by itself"
    assert code == StoppedError.exit_code, f"{what}: exit code {code}: {printed}"
    assert "Traceback" not in printed, printed
    assert "resume" in printed, printed
    assert seconds < LONGEST_SECONDS, f"{what}: {seconds:.1f} s"
    with training(arguments, log) as process:
        assert process.wait() == 0, log.read_text()
    return f"{what}: {checkpoints} checkpoints after {seconds:.1f} s"


def main(count: int, seed: int, kinds: list[str]) -> None:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="stops-") as name:
        folder = Path(name)
        (folder / "own.py").write_text(MODEL)
        source = EXAMPLES / "train.csv.gz"
        fs.convert_csv(source, folder / "many.zarr", label="label")
        few = subprocess.run(["sh", "-c", f"zcat {source} | head -n 1201"], capture_output=True, check=True).stdout
        (folder / "few.csv").write_bytes(few)
        fs.convert_csv(folder / "few.csv", folder / "few.zarr", label="label")
        expected = {}
        for kind in kinds:
            for phase in PHASES:
                key = kind == "helper", phase == "compile"
                if key not in expected:
                    quiet = folder / f"quiet-{kind}-{phase}"
                    with training(command(folder, quiet, kind, phase), folder / "log") as process:
                        assert process.wait() == 0, (folder / "log").read_text()
                    expected[key] = weights(quiet)
                for _ in range(count):
                    what = stop_once(folder, kind, phase, draw)
                    assert weights(folder / "run") == expected[key], f"{what}: other weights"
                    print(what, flush=True)
    print(f"{count} moments in each of {len(PHASES)} phases, seed {seed}: every result equals the undisturbed run")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or list(KINDS))
