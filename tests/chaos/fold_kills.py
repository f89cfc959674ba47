"""Kills processes during training: python -m tests.chaos.fold_kills VICTIM COUNT SEED DATASET.

VICTIM is worker (a training worker), node (a Ray node with all of its processes), controller (of Ray Train), driver (of
a fold) or coordinator (the command with all of its processes, which is then run again). At each of COUNT moments drawn
from SEED, one victim gets SIGKILL. The weights and the out-of-fold predictions must equal those of an undisturbed run.
"""

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import zarr
from foldstream.storage.places.json_files import read_json
from foldstream.storage.places.locate import Location, locate
from foldstream.training.run import RunFolder

from .processes import Deadline, assert_session_ended, kill_session, session_processes, start

FOLDS, EPOCHS = 3, 6
VICTIMS = {
    "worker": "ray::RayTrainWorker",
    "controller": "ray::TrainController",
    "driver": "ray::FoldDriver",
    "raylet": "/raylet/raylet ",
}
"""A part of the command line by which a process of each kind is recognized."""
NODE_CLUSTER = Path(__file__).with_name("node_cluster.py")
CLUSTERS = [("3", "1", "away"), ("2", "1", "replaced"), ("3", "2", "away"), ("2", "2", "replaced")]
"""Nodes, cores per node, and whether a lost node is replaced or stays away. The two workers share one node or use two,
and after a loss they move to a spare node or wait for the replacement."""


def command(dataset: Location, run: Location, *options: str) -> list[str]:
    """The command that trains digits-cnn, which uses random numbers and batch norm, with two workers."""
    fixed = ["--folds", str(FOLDS), "--epochs", str(EPOCHS), "--batch-size", "64", "--workers", "2"]
    return [sys.executable, "-m", "foldstream.cli", "train", str(dataset), str(run), *fixed, *options]


def on_nodes(arguments: list[str], cluster: tuple[str, str, str]) -> list[str]:
    """A foldstream command, run on a cluster of several Ray nodes."""
    return [sys.executable, str(NODE_CLUSTER), *cluster, *arguments[3:]]


def victims(session: int, victim: str) -> list[psutil.Process]:
    """The processes of a session that are of one kind, ordered by process id."""
    found = []
    for process in session_processes(session):
        try:
            if VICTIMS[victim] in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return sorted(found, key=lambda process: process.pid)


def nodes(session: int) -> list[list[psutil.Process]]:
    """The processes of each Ray node that has training workers: the raylet and its descendants."""
    workers = victims(session, "worker")
    everyone = [[raylet, *raylet.children(recursive=True)] for raylet in victims(session, "raylet")]
    return [node for node in everyone if any(worker in node for worker in workers)]


def steps_done(run: RunFolder) -> float:
    """The number of epochs that all folds together have completed."""
    total = 0.0
    for fold in range(FOLDS):
        folder = run.fold(fold)
        if folder.done.exists():
            total += EPOCHS
        elif folder.progress.exists():
            total += read_json(folder.progress)["epochs"]
    return total


def wait_for(process: subprocess.Popen[bytes], run: RunFolder, epochs: float) -> None:
    """Wait until a run has completed so many epochs, or has ended."""
    deadline = Deadline()
    while process.poll() is None and steps_done(run) < epochs:
        deadline.check(f"{epochs} epochs in {run.root}")
        time.sleep(0.005)


def await_victims(process: subprocess.Popen[bytes], victim: str) -> list[list[psutil.Process]]:
    """Wait for victims of a kind. Returns each with the processes that die with it; empty if the command ends first."""
    deadline, session = Deadline(), process.pid
    while process.poll() is None:
        alive = nodes(session) if victim == "node" else [[one] for one in victims(session, victim)]
        if alive:
            return alive
        deadline.check(f"process of the kind {victim}")
        time.sleep(0.05)
    return []


def kill(process: subprocess.Popen[bytes], victim: str, draw: random.Random) -> str:
    """Kill one victim of a kind. Returns a description of what was killed."""
    if victim == "coordinator":
        kill_session(process)
        return "the session"
    alive = await_victims(process, victim)
    if not alive:
        return "nothing"
    chosen = draw.choice(alive)
    titles = Counter(kind for kind in VICTIMS for one in victims(process.pid, kind) if one in chosen)
    for one in chosen:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    return f"process {chosen[0].pid}: " + ", ".join(f"{count} {kind}" for kind, count in titles.items())


@contextmanager
def training(arguments: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a training command. On exit, it must leave no process behind."""
    process = start(arguments, log)
    try:
        yield process
    finally:
        if process.poll() is None:
            kill_session(process)
    assert_session_ended(process.pid)


def result(run: RunFolder) -> tuple[list[bytes], bytes]:
    """The weights of all folds and the out-of-fold predictions, after a check that these cover each row once."""
    oof = zarr.open_group(run.oof.zarr_store(), mode="r")
    assert (oof["count"][...] == 1).all()  # type: ignore[index, union-attr]
    return [run.fold(fold).weights.read_bytes() for fold in range(FOLDS)], oof["prediction"][...].tobytes()  # type: ignore[index, union-attr]


def disturb(dataset: Path, root: Path, victim: str, moment: float, draw: random.Random, options: list[str]) -> str:
    """Run a command and kill one victim when the fraction `moment` of all epochs is done. Returns what happened."""
    run, log = RunFolder(locate(root)), root.with_suffix(".log")
    arguments = command(dataset, root, *options)
    where = ""
    if victim == "node":
        cluster = draw.choice(CLUSTERS)
        arguments, where = on_nodes(arguments, cluster), f"{'-'.join(cluster)} "
    with training(arguments, log) as process:
        wait_for(process, run, moment * FOLDS * EPOCHS)
        at, killed = steps_done(run), kill(process, victim, draw)
        code = process.wait()
    if victim == "coordinator":
        assert code == -signal.SIGKILL
        with training(arguments, log) as process:
            code = process.wait()
    assert code == 0, f"exit code {code}: {log.read_text()}"
    return f"{where}{killed} at {at:.2f} epochs"


def main(victim: str, count: int, seed: int, dataset: Path) -> None:
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="fold-kills-") as name:
        root = Path(name)
        subprocess.run(command(dataset, root / "quiet"), check=True, stdout=subprocess.DEVNULL)
        expected = result(RunFolder(locate(root / "quiet")))
        for number in range(count):
            every = draw.choice(["1 epoch", "5 steps", "0.01 minutes"])
            options = ["--fold-mode", draw.choice(["fused", "runs"]), "--checkpoint-every", every]
            run = root / f"{number}"
            what = disturb(dataset, run, victim, draw.random(), draw, options)
            assert result(RunFolder(locate(run))) == expected, f"kill {number}: {what}"
            how = f"{options[1]:5} {every:12}"
            print(f"{number:2} {victim:11} {how} {what} -> the same weights and predictions", flush=True)
    print(f"{count} kills of {victim}, seed {seed}: every result equals the undisturbed run")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
