"""Dask's workers as Ray actors: Ray's account of them, what becomes of them when they die, nodes that are wanted."""

import os
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
import ray
from distributed import Client
from foldstream.cluster.dask.on_ray import RayDaskCluster, dask_on_ray, workers_released
from foldstream.cluster.ray.job_cluster import ray_cluster

pytestmark = pytest.mark.long

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


@pytest.mark.usefixtures("connected")
def test_a_job_uses_the_cores_of_all_nodes() -> None:
    with dask_on_ray() as client:
        client.wait_for_workers(3, timeout=60)
        assert sum(client.nthreads().values()) == 3
