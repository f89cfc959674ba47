"""Ray on this machine: who can reach it, and what is left of it."""

import psutil
import ray
from foldstream.cluster.local_ray import ray_cluster


def test_every_server_listens_on_loopback_and_ends() -> None:
    before = set(psutil.Process().children(recursive=True))
    with ray_cluster(1) as dashboard:
        assert dashboard.startswith("http://127.0.0.1:")
        assert ray.get(ray.remote(lambda: 1).remote()) == 1
        processes = set(psutil.Process().children(recursive=True)) - before
        sockets = [
            connection.laddr.ip
            for process in processes
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        ]
        assert len(sockets) > 5
        assert set(sockets) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    # A zombie has ended, and waits for its parent to take note.
    assert not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
