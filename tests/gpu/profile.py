"""What a GPU does when: kernels, copies and waits, by torch.profiler.

python -m tests.gpu.profile RESULT.txt [--rehearsal] profiles a ResNet-50 that is trained from disk.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

STEPS = 20
ACTIVITIES = [ProfilerActivity.CPU, ProfilerActivity.CUDA]


@contextmanager
def profiled() -> Iterator[list[Any]]:
    """Inside, everything is recorded. The events are in the list afterwards."""
    events: list[Any] = []
    with profile(activities=ACTIVITIES) as profiler:
        yield events
    events += profiler.events()


def spans(events: Sequence[Any], copies: bool) -> list[tuple[float, float]]:
    """When the GPU copied from the host, or when it computed, in µs, sorted."""
    on_gpu = (event for event in events if "CUDA" in str(event.device_type))
    chosen = (event for event in on_gpu if event.name.startswith("Memcpy HtoD") == copies)
    return sorted((event.time_range.start, event.time_range.end) for event in chosen)


def overlap_of_copies(events: Sequence[Any]) -> float:
    """The fraction of the time of copies to the GPU in which it computed as well."""
    copied, computed = (spans(events, copies) for copies in (True, False))
    total, shared, position = 0.0, 0.0, 0
    for start, end in copied:
        total += end - start
        while position < len(computed) and computed[position][1] <= start:
            position += 1
        for first, last in computed[position:]:
            if first >= end:
                break
            shared += max(0.0, min(end, last) - max(start, first))
    return shared / total if total else 0.0


def main(result: Path, rehearsal: bool) -> None:
    from ..datasets import write_dataset
    from .bench import Training, from_foldstream, measure
    from .loads import FULL, TINY

    load = (TINY if rehearsal else FULL)[0]
    training = Training(load, compiled=not rehearsal)
    with tempfile.TemporaryDirectory(prefix="profile-gpu-") as name:
        dataset = write_dataset(Path(name) / "dataset", load.rows, load.make)
        batches = from_foldstream(dataset, load, load.rows * load.row_bytes // 5)
        measure(batches, training.step, 1)
        with profile(activities=ACTIVITIES) as profiler:
            measure(batches, training.step, 2 if rehearsal else STEPS)
    kernels = profiler.key_averages().table(sort_by="self_cuda_time_total", row_limit=30)
    overlap = overlap_of_copies(profiler.events() or [])
    result.write_text(f"Of the time of copies to the GPU, {overlap:.1%} is hidden behind kernels.\n\n{kernels}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--rehearsal" in sys.argv)
