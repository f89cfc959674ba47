"""A job on three hosts that share nothing but a network and an object store: `make test-cluster`.

Each host is a network namespace with its own Ray node. Another host runs the object store, and one is a spare. The same
job file is first run on this machine alone. Whatever happens to the hosts, the predictions and the weights must be
identical to the last byte.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import obstore
import pytest
from foldstream.cluster.ray.auth import MODE, TOKEN_PATH
from foldstream.storage.places.requests import open_store

from ..object_store import BUCKET, ObjectServer, object_server
from .hosts import Host, hosts, why_not

pytestmark = [
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.timeout(1500),
    pytest.mark.long,
]

JOB = """
[convert.csv]
sources = ["s3://{bucket}/source/*.csv"]
out = "s3://{bucket}/{name}/digits.zarr"
label = "label"
shape = [1, 28, 28]

[train]
run = "s3://{bucket}/{name}/run"
model = "own.py:linear"
folds = 3
epochs = 6
batch_size = 64
workers = 2
checkpoint_every = "20 steps"
settings = {{ hidden = 32, lr = 0.01 }}

[predict]
source = "s3://{bucket}/source/part-0.csv"
out = "s3://{bucket}/{name}/predictions.csv"
"""
MODEL = """
import time

from torch import nn

class Pause(nn.Module):
    def forward(self, x):
        time.sleep(0.05 * self.training)  # so that training lasts long enough to be disturbed
        return x

def linear(sample_shape, outputs, hidden=8):
    return nn.Sequential(Pause(), nn.Flatten(), nn.Linear(784, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
"""
RESULTS = ["predictions.csv", *(f"run/folds/{fold}/model.safetensors" for fold in range(3))]
PARTS = 6
SUPERVISED = 'while true; do "$@"; sleep 1; done'
"""Restarts a node that has ended, as the service manager of a host would."""


@dataclass
class Site:
    """The hosts, of which the first is the head, a spare host, and the object store."""

    hosts: list[Host]
    spare: Host
    store: ObjectServer
    folder: Path

    def start_node(self, host: Host, head: Host) -> None:
        """Start a Ray node on a host. All nodes but the head are restarted if they end."""
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        ray += ["--node-ip-address", host.address, "--num-cpus", "1", "--object-store-memory", str(100 << 20)]
        ray += ["--memory", str(3 << 30)]
        where = ["--head", "--port", "6379"] if host is head else ["--address", f"{head.address}:6379"]
        shell = ["bash", "-c", SUPERVISED, "supervisor"]
        host.start([*shell, *ray, *where] if host is not head else [*ray, *where], self.folder / f"{host.name}.log")

    def start(self) -> None:
        """Start the cluster and wait until all nodes are alive."""
        head, *others = self.hosts
        self.start_node(head, head)
        # A node that finds no head tries again after longer and longer pauses, and gives up after a minute.
        self._wait(f"import socket; socket.create_connection(('{head.address}', 6379), 1)")
        for host in others:
            self.start_node(host, head)
        alive = "sum(node['Alive'] for node in ray.nodes())"
        self._wait(f"import ray; ray.init('auto', log_to_driver=False); exit({alive} < {len(self.hosts)})")

    def _wait(self, code: str) -> None:
        """Wait until Python code succeeds on the head."""
        deadline = time.monotonic() + 240
        while (asked := self.hosts[0].run([sys.executable, "-c", code])).returncode:
            logs = [(self.folder / f"{host.name}.log") for host in self.hosts]
            said = [f"{log}:\n{log.read_text()[-2000:]}" for log in logs if log.exists()]
            assert time.monotonic() < deadline, "\n".join([asked.stderr, *said])
            time.sleep(0.5)

    def stop(self) -> None:
        for host in (*self.hosts, self.spare):
            host.kill()

    def submit(self, name: str) -> list[str]:
        """The command that submits the job to the cluster. Its results go under `name` in the bucket."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "own.py").write_text(MODEL)
        (folder / "job.toml").write_text(JOB.format(bucket=BUCKET, name=name))
        return [
            sys.executable,
            "-m",
            "foldstream.cli",
            "submit",
            str(folder / "job.toml"),
            "--to",
            "http://127.0.0.1:8265",
            "--follow",
        ]

    def results(self, name: str) -> list[bytes]:
        return [bytes(obstore.get(self.store.store, f"{name}/{path}").bytes()) for path in RESULTS]

    def wait_for(self, name: str, path: Callable[[str], bool]) -> None:
        """Wait until the job has written an object whose path matches."""
        deadline = time.monotonic() + 300
        while not any(path(str(item["path"])) for batch in obstore.list(self.store.store, name) for item in batch):
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture(scope="module")
def site(digits_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "token").write_text("f" * 64)
    (folder / "token").chmod(0o600)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {MODE: "token", TOKEN_PATH: str(folder / "token"), "FOLDSTREAM_HOME": str(folder), "COLUMNS": "200"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    with hosts(5, environment) as (*nodes, spare, last), object_server(last.address, last.shell) as store:
        for host in (*nodes, spare):
            host.environment = environment | store.environment
        header, *rows = digits_csv.read_text().splitlines(keepends=True)
        for part in range(PARTS):
            obstore.put(store.store, f"source/part-{part}.csv", (header + "".join(rows[part::PARTS])).encode())
        yield Site(nodes, spare, store, folder)
        open_store.cache_clear()


@pytest.fixture(scope="module")
def expected(site: Site) -> list[bytes]:
    """The results of the job on this machine, without a cluster."""
    command = site.submit("alone")
    alone = site.hosts[0].run([sys.executable, "-m", "foldstream.cli", "run", command[4]])
    assert alone.returncode == 0, alone.stdout + alone.stderr
    return site.results("alone")


@pytest.fixture
def cluster(site: Site) -> Iterator[Site]:
    site.start()
    yield site
    site.stop()


def begun(path: str) -> bool:
    """Whether the path is a checkpoint, which means that training is under way."""
    return "/checkpoints/" in path


def converting(path: str) -> bool:
    return "/digits.zarr/" in path


def test_three_hosts_give_what_one_gives_though_one_has_a_slow_link(cluster: Site, expected: list[bytes]) -> None:
    with cluster.hosts[2].slowed("40mbit"):
        done = cluster.hosts[0].run(cluster.submit("three"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert cluster.results("three") == expected


def test_hosts_that_are_killed_are_replaced_or_done_without(cluster: Site, expected: list[bytes]) -> None:
    head, first, second = cluster.hosts
    log = cluster.folder / "killed.log"
    job = head.start(cluster.submit("killed"), log)
    cluster.wait_for("killed", converting)
    second.kill()
    cluster.start_node(cluster.spare, head)
    cluster.wait_for("killed", begun)
    first.kill()
    assert job.wait() == 0, log.read_text()
    assert cluster.results("killed") == expected


def test_where_the_head_was_killed_the_job_is_submitted_again(cluster: Site, expected: list[bytes]) -> None:
    head = cluster.hosts[0]
    head.start(cluster.submit("head"), cluster.folder / "head.log")
    cluster.wait_for("head", begun)
    cluster.stop()
    cluster.start()
    done = head.run(cluster.submit("head"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert cluster.results("head") == expected


def test_a_host_may_be_cut_off_and_come_back(cluster: Site, expected: list[bytes]) -> None:
    head, _, victim = cluster.hosts
    job = head.start(cluster.submit("cut"), cluster.folder / "cut.log")
    cluster.wait_for("cut", begun)
    victim.set_link(up=False)
    time.sleep(60)  # longer than a brief network outage
    victim.set_link(up=True)
    assert job.wait() == 0, (cluster.folder / "cut.log").read_text()
    assert cluster.results("cut") == expected
