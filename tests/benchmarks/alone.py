"""Runs a contender of a benchmark in its own process, and ends all that it leaves behind."""

import json
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

SAMPLE_SECONDS = 1.0  # sampling all processes slows down the one that is measured


def run_alone(
    command: Sequence[str], environment: Mapping[str, str] | None = None, limit: float = 300
) -> dict[str, Any]:
    """Run a command that prints its figures after the word RESULT, for at most so many seconds.

    Returns:
        The figures, with the peak memory of the process tree as `peak_bytes`; or why it `failed`.
    """
    if not Path(command[0]).exists():
        return {"failed": "not installed"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )
    peak, ended = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not ended.wait(SAMPLE_SECONDS):
            peak = max(peak, tree_memory(process.pid))

    sampler = threading.Thread(target=sample)
    sampler.start()
    family: list[psutil.Process] = []
    try:
        out, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"timeout after {limit} s"}
    finally:
        ended.set()
        sampler.join()
        family = [p for p in psutil.process_iter() if _group(p.pid) == process.pid]
        for member in family:
            member.kill()
    line = next((line for line in out.splitlines() if line.startswith("RESULT")), None)
    if line is None:
        return {"failed": (errors.strip().splitlines() or ["no output"])[-1][:200]}
    figures: dict[str, Any] = json.loads(line.removeprefix("RESULT"))
    return {**figures, "peak_bytes": max(peak, figures["peak_bytes"])}


def _group(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def tree_memory(pid: int) -> int:
    """Resident bytes of a process and its descendants."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total
