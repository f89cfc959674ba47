"""`make bench-encoded`: images stored as files compared with images stored as pixels: size, conversion, batches.

python -m tests.benchmarks.encoded_images RESULT.json. The images are JPEG files cut from the two photographs that
scikit-learn contains. In one process, a stream of the files and one of the pixels take turns, TURNS times: the speed
of a shared machine changes within minutes. Both have memory for their windows only, so that every block is read and
decoded in each epoch.
"""

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import foldstream as fs
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from .adopt import rate
from .record import machine, write_section

TURNS, BATCH, QUALITY = 5, 64, 90


@dataclass(frozen=True)
class Case:
    """So many JPEG files of a size (width, height), whose samples have a side of `size`."""

    images: int
    file: tuple[int, int]
    size: int


CASES = {
    "photographs": Case(2_000, (500, 375), 224),
    "photographs, small samples": Case(2_000, (500, 375), 64),
    "large photographs": Case(400, (2_000, 1_500), 224),
    "thumbnails": Case(10_000, (64, 64), 64),
}


def write_images(folder: Path, case: Case, seed: int = 0) -> int:
    """Write crops of the two photographs, with a class each. Returns the size of all files in bytes."""
    draws, sources, total = np.random.default_rng(seed), load_sample_images(), 0
    for number in range(case.images):
        which = number % 2
        image = Image.fromarray(sources.images[which])
        width = int(draws.integers(250, image.width))
        height = min(image.height, width * case.file[1] // case.file[0])
        left, upper = (int(draws.integers(0, most + 1)) for most in (image.width - width, image.height - height))
        path = folder / ("china", "flower")[which] / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.crop((left, upper, left + width, upper + height)).resize(case.file).save(path, quality=QUALITY)
        total += path.stat().st_size
    return total


def measure(case: Case) -> dict[str, Any]:
    """The sizes, the seconds of conversion and the rates of a case, of the files and of the pixels."""
    with tempfile.TemporaryDirectory(prefix="bench-encoded-") as name:
        folder, streams, seconds, stored = Path(name), [], [], []
        source = write_images(folder / "images", case)
        for encoded in (True, False):
            started = perf_counter()
            dataset = fs.convert_images(
                folder / "images", folder / f"{encoded}.zarr", size=case.size, encoded=encoded, progress=False
            )
            seconds.append(perf_counter() - started)
            stored.append(dataset.stored_bytes)
            opened: Any = fs.stream(dataset, batch_size=BATCH)
            streams.append(fs.stream(dataset, batch_size=BATCH, memory=opened.memory_needed))
        for stream in streams:
            rate(stream)
        turns = [[rate(stream) for stream in streams] for _ in range(TURNS)]
    return {"source_bytes": source, "stored_bytes": stored, "seconds": seconds, "turns": turns}


def lines(figures: dict[str, Any]) -> list[str]:
    """The table as Markdown."""
    table = [
        "| images | their files | samples | stored as files | as pixels | files, rows/s | pixels, rows/s | files are |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, one in figures["cases"].items():
        case = CASES[name]
        files, pixels = (median(turn[which] for turn in one["turns"]) for which in (0, 1))
        ratio = median(turn[0] / turn[1] for turn in one["turns"])
        each = [f"{size / case.images / 1000:,.1f} KB" for size in one["stored_bytes"]]
        width, height = case.file
        table.append(
            f"| {name} | {width} x {height} | {case.size} x {case.size} | {each[0]} each | {each[1]} each | "
            f"{files:,.0f} | {pixels:,.0f} | {ratio:.2f} × |"
        )
    return table


def main(result: Path) -> None:
    figures = {"machine": machine(), "cases": {name: measure(case) for name, case in CASES.items()}}
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=2) + "\n")
    text = f"`make bench-encoded` on {figures['machine']}, medians of {TURNS} turns."
    write_section("encoded", [text, "", *lines(figures), ""])
    print("\n".join(lines(figures)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
