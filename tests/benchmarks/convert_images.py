"""`make bench-convert-images`: image files to samples on disk, compared with common tools on the same files.

python -m tests.benchmarks.convert_images PEERS_PYTHON DIGITS RESULT.json [CASE…]. The contenders take turns, each
in its own process with two workers, ROUNDS times, and the median counts. Foldstream's Dask cluster is started before
timing.
"""

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.markdown import Markdown

from .image_contenders import CONTENDERS, PEERS
from .record import machine, write_section

HERE = Path(__file__).parent
ROUNDS = int(os.environ.get("ROUNDS", "3"))
PHOTOGRAPHS, DIGITS = 20_000, 60_000
SCENES = ("astronaut.png", "coffee.png", "rocket.jpg")  # in the public domain, from scikit-image
WHERE = "import importlib.util as i; print(i.find_spec('skimage').submodule_search_locations[0])"


def make_photographs(folder: Path, peers_python: str, digits: Path) -> None:
    """JPEG files of 500 x 375 pixels, quality 90: crops of three photographs, half of them mirrored."""
    data = Path(subprocess.run([peers_python, "-c", WHERE], capture_output=True, text=True).stdout.strip()) / "data"
    draws = np.random.default_rng(0)
    scenes = [Image.open(data / name).convert("RGB") for name in SCENES]
    for number in range(PHOTOGRAPHS):
        scene = scenes[number % len(scenes)]
        left, upper = (int(draws.integers(most + 1)) for most in (scene.width - 500, scene.height - 375))
        part = scene.crop((left, upper, left + 500, upper + 375))
        if draws.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        target = folder / SCENES[number % len(scenes)].partition(".")[0] / f"{number:05d}.jpg"
        target.parent.mkdir(exist_ok=True)
        part.save(target, quality=90)


def make_digits(folder: Path, peers_python: str, digits: Path) -> None:
    """PNG files of 28 x 28 pixels, in a folder for each digit."""
    with gzip.open(digits / "train.csv.gz", "rt") as file:
        for number, (label, *pixels) in enumerate(islice(csv.reader(file), 1, DIGITS + 1)):
            target = folder / label / f"{number:05d}.png"
            target.parent.mkdir(exist_ok=True)
            Image.fromarray(np.array(pixels, np.uint8).reshape(28, 28)).save(target)


CASES: dict[str, tuple[Callable[[Path, str, Path], None], str, int]] = {
    "photographs, JPEG of 500 x 375, to 224": (make_photographs, "rgb", 224),
    "digits, PNG, to 28": (make_digits, "gray", 28),
}


def measure(name: str, folder: Path, color: str, size: int, peers_python: str) -> dict[str, Any]:
    """Seconds and images of one contender, in its own process."""
    out = folder.parent / "out"
    python = peers_python if name in PEERS else sys.executable
    command = [python, str(HERE / "image_contenders.py"), name, str(folder), str(out), color, str(size)]
    done = subprocess.run(command, capture_output=True, text=True)
    shutil.rmtree(out, ignore_errors=True)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    if line is None:
        raise SystemExit(f"{name}: {done.stderr}")
    figures: dict[str, Any] = json.loads(line.removeprefix("RESULT"))
    return figures


def lines(case: str, rates: dict[str, list[float]]) -> list[str]:
    """The table of one case as Markdown."""
    own = median(rates["Foldstream"])
    table = [f"**{case}**:", "", "| | images/s | Foldstream is |", "|---|---:|---:|"]
    for contender, of_rounds in rates.items():
        table.append(f"| {contender} | {median(of_rounds):,.0f} | {own / median(of_rounds):.2f} × |")
    return [*table, ""]


def main(peers_python: str, digits: Path, result: Path, cases: list[str]) -> None:
    figures: dict[str, dict[str, list[float]]] = {}
    for case in cases or CASES:
        make, color, size = CASES[case]
        with tempfile.TemporaryDirectory(prefix="bench-convert-images-") as name:
            folder = Path(name, "images")
            folder.mkdir()
            make(folder, peers_python, digits)
            os.sync()  # otherwise the first contenders compete with write-back for the disk
            count = sum(1 for _ in folder.rglob("*.*"))
            rates: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
            for _ in range(ROUNDS):
                for contender in CONTENDERS:
                    one = measure(contender, folder, color, size, peers_python)
                    assert one["images"] == count, (contender, one)
                    rates[contender].append(count / one["seconds"])
                    print(case, contender, *(f"{rate:,.0f}" for rate in rates[contender]), flush=True)
        figures[case] = rates
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(json.dumps(figures, indent=2) + "\n")
    text = [line for case, rates in figures.items() for line in lines(case, rates)]
    Console(width=110).print(Markdown("\n".join(text)))
    if set(figures) == set(CASES):
        write_section("convert-images", [f"`make bench-convert-images` on {machine()}.", "", *text])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
