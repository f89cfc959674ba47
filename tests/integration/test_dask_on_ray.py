"""Dask's workers as Ray actors: Ray's account of them, what becomes of them when they die, nodes that are wanted."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray
from distributed import Client
from foldstream.cluster.dask_on_ray import RayDaskCluster, dask_on_ray, workers_released
from foldstream.cluster.local_ray import ray_cluster

MEMORY = 500 << 20


@pytest.fixture(scope="module")
def connected() -> Iterator[None]:
    with ray_cluster(3):
        yield


def await_that(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def free_cores() -> float:
    return float(ray.available_resources().get("CPU", 0))


def dask_processes() -> list[psutil.Process]:
    """The nannies that run on this machine."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if "distributed.cli.dask_worker" in (process.info["cmdline"] or ()):
            found.append(process)
    return found


@pytest.mark.usefixtures("connected")
def test_ray_accounts_for_each_worker_and_gets_its_cores_back() -> None:
    before = set(dask_processes())
    with RayDaskCluster(2, memory=MEMORY) as cluster, Client(cluster) as client:
        client.wait_for_workers(2, timeout=60)
        assert free_cores() == 1
        workers = client.scheduler_info()["workers"].values()
        assert [worker["memory_limit"] for worker in workers] == [MEMORY, MEMORY]
        assert client.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result() == ""
        assert sum(client.gather(client.map(lambda n: n * n, range(100)))) == 328350
        assert cluster.dashboard_link.startswith("http://127.0.0.1:")
        cluster.scale(1)
        await_that(lambda: free_cores() == 2)
        cluster.scale(3)
        client.wait_for_workers(3, timeout=60)
        with workers_released(client):
            await_that(lambda: free_cores() == 3)
        assert client.submit(sum, [1, 2]).result() == 3
    await_that(lambda: free_cores() == 3)
    await_that(lambda: set(dask_processes()) <= before)


@pytest.mark.usefixtures("connected")
def test_it_grows_and_shrinks_with_the_work() -> None:
    with RayDaskCluster(1, memory=MEMORY) as cluster, Client(cluster) as client:
        cluster.adapt(minimum=1, maximum=3, interval="200ms", target_duration="500ms")
        futures = client.map(time.sleep, [0.5] * 30, pure=False)
        client.wait_for_workers(3, timeout=60)
        assert client.gather(futures) == [None] * 30
        del futures
        await_that(lambda: len(client.scheduler_info()["workers"]) == 1)


@pytest.mark.usefixtures("connected")
def test_a_killed_actor_takes_its_worker_with_it_and_comes_back() -> None:
    before = set(dask_processes())
    with RayDaskCluster(1, memory=MEMORY) as cluster, Client(cluster) as client:
        client.wait_for_workers(1, timeout=60)
        (nanny,) = set(dask_processes()) - before
        children = nanny.children(recursive=True)
        actor = nanny.parent()
        assert actor is not None
        actor.kill()
        psutil.wait_procs([nanny, *children], timeout=20)
        assert not [one for one in (nanny, *children) if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
        assert client.submit(sum, [2, 3]).result(timeout=60) == 5, "another one came"
        (nanny,) = set(dask_processes()) - before
        nanny.kill()
        assert client.submit(sum, [3, 4]).result(timeout=60) == 7


def test_a_job_uses_the_cores_of_all_nodes() -> None:
    with ray_cluster(2), dask_on_ray() as client:
        client.wait_for_workers(2, timeout=60)
        assert len(client.nthreads()) == max(2, len(os.sched_getaffinity(0)))


JOB = """
[convert.csv]
sources = ["{source}"]
out = "digits.zarr"
label = "label"
shape = [1, 28, 28]

[train]
run = "run"
model = "mlp"
folds = 2
epochs = 1
workers = 2
"""
AUTOSCALED = """
import sys
import ray
from foldstream.cluster.ray_token import make_token
from ray.cluster_utils import AutoscalingCluster

make_token()
node = {"resources": {"CPU": 2, "memory": 2 << 30, "object_store_memory": 100 << 20}, "node_config": {}}
node |= {"min_workers": 0, "max_workers": 1}
cluster = AutoscalingCluster({"CPU": 0}, {"worker": node}, idle_timeout_minutes=5)
cluster.start()
try:
    from foldstream.cluster.jobs import run_job
    summary = run_job(sys.argv[1], cluster="auto")
    assert summary["rows"] == 1200
finally:
    cluster.shutdown()
"""


def test_a_cluster_without_nodes_gets_them_for_the_job(digits_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(JOB.format(source=digits_csv))
    (tmp_path / "script.py").write_text(AUTOSCALED)
    line = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "job.toml")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
