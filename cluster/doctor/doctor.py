"""Diagnostics of this machine: facts, remedies, and the article's benchmark that shows whether a GPU is used."""

import platform
import shutil
import socket
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import torch

from ...storage.machine import this_machine
from ..dask.local import DASK_DASHBOARD
from ..loopback import LOOPBACK
from ..ray.job_cluster import RAY_DASHBOARD

PACKAGES = ("foldstream", "torch", "ray", "dask", "distributed", "zarr", "numpy", "pyarrow")
CHECK_FLOATS = 230_400
CHECK_TIMES = 1_000


@dataclass(frozen=True)
class Finding:
    """A fact, and a remedy if it is a problem."""

    name: str
    value: str
    ok: bool = True
    remedy: str = ""


def examine(folder: Path = Path()) -> list[Finding]:
    """Facts about this machine. Disk space is that of `folder`."""
    machine = this_machine()
    free = shutil.disk_usage(folder).free
    findings = [
        Finding("python", platform.python_version()),
        *(Finding(name, version(name)) for name in PACKAGES),
        Finding("cores", str(machine.cores), machine.cores >= 2, "one core is enough but slow: two workers share it"),
        Finding("memory", f"{machine.memory / 2**30:.1f} GiB", machine.memory >= 2 << 30, "use at least 2 GiB"),
        Finding(
            "disk free",
            f"{free / 2**30:.1f} GiB",
            free >= 1 << 30,
            f"free some space on the disk of {folder.absolute()}",
        ),
        *(_port(name, port) for name, port in (("Dask dashboard", DASK_DASHBOARD), ("Ray dashboard", RAY_DASHBOARD))),
    ]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return (
        [*findings, *(Finding(f"GPU {i}", name) for i, name in enumerate(gpus))]
        if gpus
        else [
            *findings,
            Finding("GPU", "none usable by torch; training runs on the CPU"),
        ]
    )


def _port(name: str, port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return Finding(name, f"port {port} is in use", False, "another port is used; its address is printed")
    return Finding(name, f"port {port} is free")


def time_devices() -> dict[str, float]:
    """Seconds for exp over 230,400 floats, 1,000 times, on the CPU and on each GPU: the article's check that a GPU is
    used. A GPU that is not much faster than the CPU is not used."""
    devices = [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]
    return {str(device): _time_exp(device) for device in devices}


def _time_exp(device: torch.device) -> float:
    values = torch.rand(CHECK_FLOATS, device=device)
    torch.exp(values)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = perf_counter()
    for _ in range(CHECK_TIMES):
        torch.exp(values)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter() - started
