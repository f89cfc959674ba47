"""Slurm on this machine, from Debian's packages: a controller and a node, with their own ports and folders.

The node sees only its own processes, as on a separate machine, because `ray symmetric-run` stops every Ray it sees.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..object_store import free_ports

TOOLS = ("slurmctld", "slurmd", "sbatch", "munged")
START_SECONDS = 60
ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")

CONFIG = """
ClusterName=foldstream
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """The reason why Slurm cannot run on this machine; empty if it can."""
    if os.geteuid():
        return "starting Slurm requires root"
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"{', '.join(missing)} not installed (Debian packages: slurm-wlm, munge)"
    if subprocess.run([*ALONE, "true"], capture_output=True).returncode:
        return "this machine does not allow process namespaces"
    return ""


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Run Slurm with one node. Yields the environment in which its commands find it."""
    controller, node = free_ports(2)
    host, cores = socket.gethostname(), len(os.sched_getaffinity(0))
    for name in ("state", "spool"):
        (folder / name).mkdir()
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(host=host, controller=controller, node=node, folder=folder, cores=cores))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    environment = os.environ | {"SLURM_CONF": str(config)}
    munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munge += [f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    started: list[tuple[subprocess.Popen[bytes], signal.Signals]] = []
    with open(folder / "log", "wb") as log:
        try:
            for command, is_up in (
                (munge, (folder / "munge.socket").exists),
                (["slurmctld", "-D"], lambda: _ask(environment) != ""),
                ([*ALONE, "slurmd", "-D"], lambda: _ask(environment) == "idle"),
            ):
                process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
                # `unshare` ignores every other signal. Its child processes end with it.
                started.append((process, signal.SIGKILL if command[0] == ALONE[0] else signal.SIGTERM))
                deadline = time.monotonic() + START_SECONDS
                while not is_up():
                    ended = process.poll() is not None or time.monotonic() > deadline
                    assert not ended, (folder / "log").read_text()[-3000:]
                    time.sleep(0.2)
            yield environment
        finally:
            for process, end in reversed(started):
                process.send_signal(end)
            for process, _ in started:
                process.wait()


def _ask(environment: dict[str, str]) -> str:
    """The state of the node; empty while the controller does not respond."""
    asked = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
    return asked.stdout.strip()
