"""`make bench-gpu`: how near a training loop comes to the pace that it has with its data on the GPU already.

python -m tests.gpu.bench RESULT.json [--rehearsal]. Each load is trained from the same batch resident on the device,
the ceiling; from Foldstream, with memory for a fifth of the data and with all of it decoded in memory; and from what
else is installed. A rehearsal has tiny sizes and runs on the CPU.
"""

import importlib.util
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import foldstream as fs
import numpy as np
import psutil
import torch
from foldstream.storage.dataset import Dataset
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.run import folds_of, read_result
from foldstream.training.splits.split import Split
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from ..benchmarks.record import machine
from ..datasets import write_arrays, write_dataset
from ..unit.test_training import make_job
from .conftest import write_shapes
from .figures import FoldFigures, GpuFigures, LoadFigures, Pace
from .loads import FULL, TINY, Load

Batches = Iterator[tuple[Tensor, Tensor]]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
WARM_UP = 5  # steps, of which the first compiles the model
WORKERS = 8


class Training:
    """A model and its step: bfloat16, compiled; bytes become numbers on the device."""

    def __init__(self, load: Load, compiled: bool) -> None:
        torch.manual_seed(0)
        self.format = torch.channels_last if load.channels_last else torch.preserve_format
        self.model = load.model().to(DEVICE).to(memory_format=self.format)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.forward = torch.compile(self.model) if compiled else self.model

    def step(self, x: Tensor, y: Tensor) -> None:
        x = x.to(torch.bfloat16).div_(255) if x.dtype == torch.uint8 else x
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = functional.cross_entropy(self.forward(x.contiguous(memory_format=self.format)), y.long())
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()


class Stamps:
    """When each step began, on the device's own clock."""

    def __init__(self) -> None:
        self.stamps: list[Any] = []

    def add(self) -> None:
        if DEVICE.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self.stamps.append(event)
        else:
            self.stamps.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """The time of each step."""
        synchronize()
        pairs = itertools.pairwise(self.stamps)
        if DEVICE.type == "cuda":
            return [begin.elapsed_time(end) / 1000 for begin, end in pairs]
        return [end - begin for begin, end in pairs]


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def cpu_seconds() -> float:
    """CPU time of this process and its children so far."""
    own = psutil.Process()
    times = [own.cpu_times(), *(child.cpu_times() for child in own.children(recursive=True))]
    return sum(one.user + one.system for one in times)


@dataclass(frozen=True)
class Measured:
    seconds: float
    steps: list[float]
    waited: float
    cpu: float
    first_batch: float


def measure(batches: Batches, step: Callable[[Tensor, Tensor], None], count: int) -> Measured:
    """Train on `count` batches, after some that warm up."""
    asked, stamps, waited = time.perf_counter(), Stamps(), 0.0
    first_batch = begun = cpu = 0.0
    for number in range(WARM_UP + count):
        before = time.perf_counter()
        x, y = next(batches)
        now = time.perf_counter()
        first_batch = first_batch or now - asked
        if number >= WARM_UP:
            waited += now - before
        step(x, y)
        if number == WARM_UP - 1:
            synchronize()
            begun, cpu = time.perf_counter(), cpu_seconds()
            stamps.add()
        elif number >= WARM_UP:
            stamps.add()
    steps = stamps.seconds()
    return Measured(time.perf_counter() - begun, steps, waited, cpu_seconds() - cpu, first_batch)


def repeated(epochs: Callable[[], Iterable[Any]]) -> Batches:
    """Batches on the device, epoch after epoch."""
    for _ in itertools.count():
        for x, y, *_ in epochs():
            yield x.to(DEVICE, non_blocking=True), y.to(DEVICE, non_blocking=True)


def resident(load: Load) -> Batches:
    """One batch that is on the device already."""
    x, y = (torch.from_numpy(np.array(column)).to(DEVICE) for column in load.make(0, load.batch))
    return itertools.repeat((x, y))


def from_foldstream(dataset: Dataset, load: Load, memory: int, decoded: bool = False) -> Batches:
    """From disk with so much memory, or `decoded`: after an epoch in which every block was read."""
    least = fs.stream(dataset, batch_size=load.batch).memory_needed  # type: ignore[union-attr]
    stream = fs.stream(dataset, batch_size=load.batch, memory=max(memory, least), device=DEVICE)
    for _ in stream if decoded else ():
        pass
    return repeated(lambda: stream)


def from_data_loader(folder: Path, load: Load) -> Batches:
    """torch's DataLoader over a memory-mapped file."""
    x, y = np.load(folder / "x.npy", mmap_mode="c"), np.load(folder / "y.npy")
    tensors = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    options: dict[str, Any] = {"batch_size": load.batch, "shuffle": True, "drop_last": True}
    workers = min(WORKERS, len(os.sched_getaffinity(0)))
    loader = DataLoader(tensors, **options, num_workers=workers, pin_memory=DEVICE.type == "cuda")
    return repeated(lambda: loader)


def from_litdata(folder: Path, load: Load) -> Batches:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    x, y = np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy")
    out = folder / "litdata"
    out.mkdir()
    writer = BinaryWriter(str(out), chunk_bytes="64MB")
    for number in range(len(x)):
        writer[number] = {"x": torch.from_numpy(np.array(x[number])), "y": int(y[number])}
    writer.done()
    writer.merge(num_workers=1)
    dataset = StreamingDataset(str(out), shuffle=True, drop_last=True)
    workers = min(WORKERS, len(os.sched_getaffinity(0)))
    loader = StreamingDataLoader(dataset, batch_size=load.batch, num_workers=workers, pin_memory=DEVICE.type == "cuda")
    return repeated(lambda: ((batch["x"], batch["y"]) for batch in loader))


def loaders(folder: Path, load: Load) -> Iterator[tuple[str, Callable[[], Batches]]]:
    """The loaders by their names, the ceiling first. Their files are written as they are asked for."""
    yield "resident on the device", lambda: resident(load)
    dataset, whole = write_dataset(folder / "dataset", load.rows, load.make), load.rows * load.row_bytes
    yield "Foldstream, memory for a fifth", lambda: from_foldstream(dataset, load, whole // 5)
    yield "Foldstream, decoded in memory", lambda: from_foldstream(dataset, load, 3 * whole, decoded=True)
    write_arrays(folder, load.rows, load.make)
    yield "DataLoader, memory-mapped", lambda: from_data_loader(folder, load)
    if importlib.util.find_spec("litdata") and load.row_bytes > 1024:  # row by row, small rows take minutes to write
        yield "LitData", lambda: from_litdata(folder, load)


def measure_load(load: Load, rehearsal: bool, failed: dict[str, str]) -> LoadFigures:
    training, paces = Training(load, compiled=not rehearsal), dict[str, Pace]()
    alone = 0.0  # seconds of a step at the ceiling
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as name:
        for loader, make in loaders(Path(name), load):
            try:
                measured = measure(make(), training.step, load.steps)
            except Exception as error:  # noqa: BLE001 - the other loaders are measured nevertheless
                failed[f"{load.name}: {loader}"] = f"{type(error).__name__}: {error}"
                continue
            alone = alone or median(measured.steps)
            rate = load.batch * load.steps / measured.seconds
            paces[loader] = Pace(
                samples_per_second=rate,
                bytes_per_second=rate * load.row_bytes,
                of_ceiling=rate * alone / load.batch,
                utilization=min(1.0, alone * (load.steps - 1) / sum(measured.steps[1:])),
                waiting=measured.waited / measured.seconds,
                p99_over_median=float(np.quantile(measured.steps, 0.99)) / median(measured.steps),
                cores=measured.cpu / measured.seconds,
                first_batch_seconds=measured.first_batch,
            )
            print(
                f"{load.name:10} {loader:32} {rate:12,.0f}/s, utilization {paces[loader].utilization:.3f}", flush=True
            )
    return LoadFigures(rows=load.rows, row_bytes=load.row_bytes, batch=load.batch, steps=load.steps, loaders=paces)


def measure_folds(rehearsal: bool) -> FoldFigures:
    """Five folds of digits-cnn: separate runs one after the other, one pass, and one pass with the models stacked."""
    rows, epochs, seconds = 600 if rehearsal else 60_000, 2 if rehearsal else 3, dict[str, float]()
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as name:
        dataset = write_shapes(Path(name) / "shapes.zarr", rows)
        modes: dict[str, tuple[list[list[int]], dict[str, Any]]] = {
            "separate runs": ([[fold] for fold in range(5)], {}),
            "one pass": ([[0, 1, 2, 3, 4]], {}),
            "one pass, stacked": ([[0, 1, 2, 3, 4]], {"stack": True}),
        }
        for mode, (groups, settings) in modes.items():
            options = {"split": Split(folds=5), "epochs": epochs, "batch_size": 64 if rehearsal else 128}
            job, run = make_job(dataset, Path(name) / mode.replace(" ", "-"), settings, **options)
            for group in groups:
                FoldTrainer(folds_of(job, run, group), Process(device=DEVICE)).train()
            passes = [read_result(run.fold(group[0]))["history"][1:] for group in groups]  # the first epoch warms up
            seconds[mode] = sum(epoch["seconds"] for of_group in passes for epoch in of_group) / (epochs - 1)
            print(f"five folds {mode:32} {seconds[mode]:12.3f} s an epoch", flush=True)
    runs = seconds["separate runs"]
    return FoldFigures(rows=rows, epoch_seconds=seconds, speedup={mode: runs / own for mode, own in seconds.items()})


def main(result: Path, rehearsal: bool) -> None:
    failed: dict[str, str] = {}
    loads = {load.name: measure_load(load, rehearsal, failed) for load in (TINY if rehearsal else FULL)}
    figures = GpuFigures(
        card=torch.cuda.get_device_name() if DEVICE.type == "cuda" else "none",
        machine=machine(),
        torch=torch.__version__,
        rehearsal=rehearsal,
        loads=loads,
        folds=measure_folds(rehearsal),
        failed=failed,
    )
    result.write_text(figures.model_dump_json(indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--rehearsal" in sys.argv)
