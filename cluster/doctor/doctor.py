"""Diagnostics for this machine: facts and remedies."""

import platform
import shutil
import socket
from importlib.metadata import version
from pathlib import Path

import torch

from ...storage.machine import size_text, this_machine
from ..dask.local import DASK_DASHBOARD
from ..loopback import LOOPBACK
from ..ray.job_cluster import RAY_DASHBOARD
from .finding import Finding

PACKAGES = ("foldstream", "torch", "ray", "dask", "distributed", "zarr", "numpy", "pyarrow")


def examine(folder: Path = Path()) -> list[Finding]:
    """Facts about this machine. Disk space is that of `folder`."""
    machine = this_machine()
    free = shutil.disk_usage(folder).free
    findings = [
        Finding("python", platform.python_version()),
        *(Finding(name, version(name)) for name in PACKAGES),
        Finding("cores", str(machine.cores), machine.cores >= 2, "one core is enough but slow: two workers share it"),
        Finding("memory", size_text(machine.memory), machine.memory >= 2e9, "use at least 2 GB"),
        Finding(
            "disk free",
            size_text(free),
            free >= 1e9,
            f"free some space on the disk of {folder.absolute()}",
        ),
        *(_port(name, port) for name, port in (("Dask dashboard", DASK_DASHBOARD), ("Ray dashboard", RAY_DASHBOARD))),
    ]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if not gpus:
        return [*findings, Finding("GPU", "none usable by torch; training runs on the CPU")]
    return [*findings, *(Finding(f"GPU {number}", name) for number, name in enumerate(gpus))]


def _port(name: str, port: int) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return Finding(name, f"port {port} is in use", False, "another port will be used, and its address printed")
    return Finding(name, f"port {port} is free")
