"""Ray on this machine: who can reach it, and what is left of it."""

import subprocess

import psutil
import pytest
import ray
import torch
from foldstream.cluster.ray.job_cluster import ray_cluster
from foldstream.storage.errors import UsageError


def test_more_workers_than_gpus_are_refused_and_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="this machine has 1; use --workers 1"), ray_cluster(2):
        pass


def test_more_memory_than_there_is_is_refused_and_does_not_wait() -> None:
    with pytest.raises(UsageError, match="use less --memory or fewer --workers"), ray_cluster(2, 1 << 50):
        pass


def test_every_server_listens_on_loopback_and_ends() -> None:
    before = set(psutil.Process().children(recursive=True))
    with ray_cluster(1) as dashboard:
        assert dashboard.startswith("http://127.0.0.1:")
        assert ray.get(ray.remote(lambda: 1).remote()) == 1
        processes = set(psutil.Process().children(recursive=True)) - before
        beside = subprocess.Popen(["sleep", "60"])
        sockets = [
            connection.laddr.ip
            for process in processes
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(sockets) > 5
        assert set(sockets) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert beside.poll() is None, "a process of the caller is not ours to end"
    beside.kill()
    beside.wait()
    # A zombie has ended, and waits for its parent to take note.
    assert not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
