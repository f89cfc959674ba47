"""Rows for benchmarks: real digits, random tables, and crops of real photographs in two sizes."""

import gzip
from functools import cache
from pathlib import Path

import numpy as np
from sklearn.datasets import load_sample_images

from ..datasets import MakeRows

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits" / "train.csv.gz"


@cache
def digits() -> np.ndarray:
    with gzip.open(EXAMPLE, "rt") as file:
        return np.loadtxt(file, delimiter=",", skiprows=1, dtype=np.uint8)


@cache
def photographs() -> np.ndarray:
    """Two photographs, (2, 3, 427, 640) uint8."""
    return np.stack(load_sample_images().images).transpose(0, 3, 1, 2).copy()


def make_digits(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """The example's digits, repeated, and brightened a little each time, so that no two blocks are equal."""
    numbers = np.arange(start, stop)
    rows = digits()[numbers % len(digits())]
    x = rows[:, 1:]
    return x + (x > 0) * (numbers // len(digits()) % 100).astype(np.uint8)[:, None], rows[:, 0]


def make_table(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Normally distributed numbers, of which only the exponents are compressible."""
    generator = np.random.default_rng(start)
    x = generator.standard_normal((stop - start, 64), np.float32)
    return x, (x[:, 0] > 0).astype(np.uint8)


def make_images(size: int) -> MakeRows:
    """Crops of the photographs at random positions."""

    def make(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        generator = np.random.default_rng(start)
        images, height, width = photographs(), *photographs().shape[2:]
        y = generator.integers(0, 2, stop - start)
        tops, lefts = generator.integers(0, height - size, len(y)), generator.integers(0, width - size, len(y))
        crops = [images[i, :, t : t + size, s : s + size] for i, t, s in zip(y, tops, lefts, strict=True)]
        return np.stack(crops), y

    return make


KINDS: dict[str, tuple[int, MakeRows]] = {
    "digits": (600_000, make_digits),
    "table": (1_800_000, make_table),
    "3x64x64": (40_000, make_images(64)),
    "3x224x224": (3_200, make_images(224)),
}
