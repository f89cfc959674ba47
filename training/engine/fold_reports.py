"""Files that a fold's training writes for monitoring: progress.json, history.json and TensorBoard event files."""

from time import perf_counter, time
from typing import Any

from tensorboard.compat.tensorflow_stub.io.gfile import register_filesystem
from torch.utils.tensorboard import SummaryWriter

from ...storage.places.json_files import write_json
from ...storage.places.locate import SCHEMES, locate
from ...storage.places.place import Place
from ..run import FoldFolder

PROGRESS_SECONDS, BUCKET_SECONDS = 1.0, 15.0  # between two progress updates: in a bucket each takes a while


class FoldReports:
    """A fold's reports. They are not needed to resume, so training does not wait for the disk until its end."""

    def __init__(self, folder: FoldFolder) -> None:
        self.folder, self.written = folder, perf_counter()
        self.pause = BUCKET_SECONDS if folder.root.waits_for_network else PROGRESS_SECONDS
        self.logs: SummaryWriter | None = None

    def begin_epoch(self) -> None:
        """Restart the interval before the next progress update."""
        self.written = perf_counter()

    def is_due(self) -> bool:
        """Whether the next progress update is due; if so, restart the interval."""
        if perf_counter() - self.written <= self.pause:
            return False
        self.written = perf_counter()
        return True

    def write_progress(self, epochs: float, durable: bool = False) -> None:
        """Write the number of completed epochs."""
        write_json(self.folder.progress, {"epochs": epochs, "time": time()}, durable)

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
