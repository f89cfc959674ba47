"""Files that a fold's training writes for monitoring: progress.json, steps.json, history.json and TensorBoard event
files."""

import math
from time import perf_counter, time
from typing import Any

import psutil
import torch
from tensorboard.compat.tensorflow_stub.io.gfile import register_filesystem
from torch.utils.tensorboard import SummaryWriter

from ...storage.places.json_files import write_json
from ...storage.places.locate import SCHEMES, locate
from ...storage.places.place import Place
from ..run import FoldFolder

PROGRESS_SECONDS, BUCKET_SECONDS = 1.0, 15.0  # between two progress updates: in a bucket each takes a while
MOST_POINTS = 400  # of the training loss within epochs


class LossTrace:
    """The training loss within epochs: points (epochs, mean loss since the previous point), of bounded number. When
    there are too many, two neighbors become one, and from then on points are twice as far apart."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self.stride, self.waiting = 1, list[tuple[float, float]]()
        """How many updates a point stands for, and those that wait to become one."""
        self.begin_epoch(0.0)

    def begin_epoch(self, total: float) -> None:
        """Begin an epoch, or the rest of one, with the `total` loss of its rows so far."""
        self.seen = total, 0

    def mean_since(self, total: float, rows: int) -> float | None:
        """The mean loss of the rows since the last call, from the total loss in the epoch and the rows of this part of
        it; None if there are no rows, or if it is not finite."""
        (before, earlier), self.seen = self.seen, (total, rows)
        mean = (total - before) / (rows - earlier) if rows > earlier else math.nan
        return mean if math.isfinite(mean) else None

    def add(self, epochs: float, loss: float) -> None:
        self.waiting.append((epochs, loss))
        if len(self.waiting) < self.stride:
            return
        self.points.append(_merged(self.waiting))
        self.waiting = []
        if len(self.points) == MOST_POINTS:
            self.points = [_merged(self.points[at : at + 2]) for at in range(0, len(self.points), 2)]
            self.stride *= 2


def _merged(points: list[tuple[float, float]]) -> tuple[float, float]:
    """One point for several: where the last one is, with their mean loss."""
    return points[-1][0], sum(loss for _, loss in points) / len(points)


def memory_use(device: torch.device) -> dict[str, Any]:
    """The memory of this process in bytes, and on a GPU its name, torch's memory there and that of the GPU."""
    used: dict[str, Any] = {"memory": psutil.Process().memory_info().rss}
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        used["gpu"] = {"name": gpu.name, "memory": torch.cuda.memory_reserved(device), "total": gpu.total_memory}
    return used


class FoldReports:
    """A fold's reports. They are not needed to resume, so training does not wait for the disk until its end."""

    def __init__(self, folder: FoldFolder, device: torch.device) -> None:
        self.folder, self.device, self.written = folder, device, perf_counter()
        self.pause = BUCKET_SECONDS if folder.root.waits_for_network else PROGRESS_SECONDS
        self.logs: SummaryWriter | None = None
        self.losses = LossTrace()

    def begin_epoch(self, total_loss: float) -> None:
        """Begin an epoch, or the rest of one, with the total loss of its rows so far."""
        self.written = perf_counter()
        self.losses.begin_epoch(total_loss)

    def is_due(self) -> bool:
        """Whether the next progress update is due; if so, restart the interval."""
        if perf_counter() - self.written <= self.pause:
            return False
        self.written = perf_counter()
        return True

    def write_progress(self, epochs: float, durable: bool = False) -> None:
        """Write the number of completed epochs."""
        write_json(self.folder.progress, {"epochs": epochs, "time": time()}, durable)

    def write_step(self, epochs: float, loss: float | None) -> None:
        """Write the progress within an epoch, on the rank that trains the fold: the mean loss since the last update, if
        it is finite, and the memory that the training uses."""
        if loss is not None:
            self.losses.add(epochs, loss)
        write_json(self.folder.steps, {"losses": self.losses.points, "used": memory_use(self.device)}, durable=False)
        self.write_progress(epochs)

    def write_epoch(self, history: list[dict[str, Any]], lr: float) -> None:
        """Write the metrics of all epochs so far."""
        self._write_logs(history[-1], len(history), lr)
        write_json(self.folder.history, history, durable=False)
        self.write_progress(float(len(history)))

    def finish(self, history: list[dict[str, Any]]) -> None:
        """Make the reports of all epochs durable."""
        write_json(self.folder.history, history)
        self.write_progress(float(len(history)), durable=True)

    def _write_logs(self, metrics: dict[str, Any], epoch: int, lr: float) -> None:
        """Write an epoch to TensorBoard. An epoch that is trained again after a crash replaces the first attempt."""
        if self.logs is None:
            self.logs = open_logs(self.folder.tensorboard, epoch)
        for rank, spent in enumerate(metrics["ranks"]):
            for name, seconds in spent.items():
                self.logs.add_scalar(f"seconds/{name}/rank-{rank}", seconds, epoch)
        for name in metrics.keys() - {"ranks"}:
            self.logs.add_scalar(name, metrics[name], epoch)
        self.logs.add_scalar("lr", lr, epoch)
        self.logs.flush()

    def close(self) -> None:
        if self.logs is not None:
            self.logs.close()


class _Objects:
    """The part of a file system that TensorBoard's writer needs, for object stores, with the same credentials as
    datasets. It writes the whole file at each flush."""

    def exists(self, filename: bytes | str) -> bool:
        return True

    def makedirs(self, path: bytes | str) -> None:
        """Do nothing: an object store has no folders."""

    def join(self, path: bytes | str, *paths: bytes | str) -> str:
        return "/".join(map(_text, (path, *paths)))

    def write(self, filename: bytes | str, content: bytes, binary_mode: bool = False) -> None:
        locate(_text(filename)).write(content)


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def open_logs(folder: Place, purge_step: int) -> SummaryWriter:
    """A writer of event files in a folder. Readers ignore earlier events with a step of `purge_step` or later."""
    if folder.waits_for_network:
        for scheme in SCHEMES:
            register_filesystem(scheme, _Objects())
    return SummaryWriter(str(folder), purge_step=purge_step)
