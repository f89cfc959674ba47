"""Check whether a GPU is used and how fast it is: the article's check, copies from memory, a ring of all GPUs."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter

import torch
import torch.distributed as dist
from torch import multiprocessing

from ...storage.machine import size_text
from .finding import Finding

CHECK_FLOATS = 230_400
CHECK_TIMES = 1_000
COPY_BYTES = 256 << 20
RING_BYTES = 256 << 20
TIMES = 10
USED = 3.0  # times as fast as the CPU: below, the GPU is hardly used


def examine_gpus() -> list[Finding]:
    """The time of the article's check on each device, a verdict on each GPU, and the bandwidth of copies to it."""
    devices = [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]
    seconds = {str(device): time_exp(device) for device in devices}
    findings = [Finding(f"exp on {name}", f"{own:.3f} s") for name, own in seconds.items()]
    findings += judge_gpus(seconds)
    for device in devices[1:]:
        findings.append(Finding(f"copies to {device}", f"{size_text(copy_bandwidth(device))}/s from pinned memory"))
    if len(devices) > 2:
        bandwidth = ring_bandwidth(len(devices) - 1, "nccl", RING_BYTES)
        findings.append(Finding("NCCL ring", f"{size_text(bandwidth)}/s between {len(devices) - 1} GPUs"))
    return findings


def judge_gpus(seconds: Mapping[str, float]) -> list[Finding]:
    """Whether each GPU is used, judging by the `seconds` that the article's check takes on each device, "cpu" first."""
    verdicts = []
    for name, own in seconds.items():
        if name != "cpu":
            times = seconds["cpu"] / own
            verdict = "the GPU is used" if times >= USED else "the GPU is hardly used"
            remedy = "check with nvidia-smi whether another program is using it, and install a torch build for this GPU"
            verdicts.append(Finding(name, f"{verdict}: {times:,.1f} × the CPU's speed", times >= USED, remedy))
    return verdicts


def time_exp(device: torch.device) -> float:
    """Seconds to compute exp of 230,400 floats 1,000 times: the article's check that a GPU is used."""
    values = torch.rand(CHECK_FLOATS, device=device)
    return time_calls(lambda: torch.exp(values), CHECK_TIMES, device)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second from pinned memory to a GPU."""
    here = torch.empty(COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(COPY_BYTES, dtype=torch.uint8, device=device)
    return TIMES * COPY_BYTES / time_calls(lambda: there.copy_(here, non_blocking=True), TIMES, device)


def ring_bandwidth(count: int, backend: str, size: int) -> float:
    """Bytes per second on each link when `count` processes, each with a GPU for `nccl`, all-reduce `size` bytes.

    A ring sends every byte 2 (n - 1) / n times over each link (Patarasuk and Yuan 2009).
    """
    with tempfile.TemporaryDirectory(prefix="foldstream-ring-") as name:
        multiprocessing.spawn(_ring, (count, backend, size, name), nprocs=count)  # type: ignore[attr-defined, no-untyped-call]
        seconds = max(float((Path(name) / str(rank)).read_text()) for rank in range(count))
    return 2 * (count - 1) / count * TIMES * size / seconds


def _ring(rank: int, count: int, backend: str, size: int, folder: str) -> None:
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=rank, world_size=count)
    values = torch.ones(size // 4, device=device)
    seconds = time_calls(lambda: dist.all_reduce(values), TIMES, device)
    (Path(folder) / str(rank)).write_text(str(seconds))
    dist.destroy_process_group()


def time_calls(call: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds that a device takes for `times` calls, after one warm-up call."""
    call()
    _synchronize(device)
    started = perf_counter()
    for _ in range(times):
        call()
    _synchronize(device)
    return perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
