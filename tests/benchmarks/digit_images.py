"""`make bench-digit-images`: digits as PNG files give the same arrays, scores and predictions as their CSV.

python -m tests.benchmarks.digit_images DIGITS. Raises AssertionError if they differ.
"""

import csv
import gzip
import sys
import tempfile
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

import foldstream as fs
import numpy as np
from foldstream.cluster.dask.local import dask_cluster
from foldstream.storage.dataset import Dataset
from PIL import Image


def write_images(source: Path, folder: Path, labels: Path) -> None:
    """Write every row of a CSV as a PNG file named by its index, and the labels, if there are any, to another CSV."""
    folder.mkdir()
    with gzip.open(source, "rt") as file, open(labels, "w") as out:
        rows = csv.reader(file)
        labelled = next(rows)[0] == "label"
        out.write("path,label\n")
        for number, row in enumerate(rows):
            pixels = np.array(row[1:] if labelled else row, np.uint8).reshape(28, 28)
            Image.fromarray(pixels).save(folder / f"{number:06d}.png")
            out.write(f"{number:06d}.png,{row[0] if labelled else ''}\n")


def hashes(dataset: Dataset, names: tuple[str, ...]) -> list[str]:
    return [entry.hashes[name] for entry in dataset.manifest.shards for name in names]


def answers(path: Path) -> list[str]:
    """The second column of a CSV of predictions."""
    with open(path) as file:
        return [row[1] for row in islice(csv.reader(file), 1, None)]


def main(digits: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-digit-images-") as name, dask_cluster(2) as client:
        root = Path(name)
        write_images(digits / "train.csv.gz", root / "train", root / "labels.csv")
        write_images(digits / "test.csv.gz", root / "test", root / "none.csv")
        by_csv = fs.convert_csv(
            digits / "train.csv.gz", root / "csv.zarr", label="label", shape=(1, 28, 28), client=client
        )
        started = perf_counter()
        by_images = fs.convert_images(
            root / "train",
            root / "images.zarr",
            size=28,
            color="gray",
            labels=root / "labels.csv",
            shuffle=None,
            client=client,
        )
        print(f"{len(by_images):,} images converted in {perf_counter() - started:.1f} s", flush=True)
        assert hashes(by_images, ("x", "y", "id")) == hashes(by_csv, ("x", "y", "id"))
        assert by_images.statistics == by_csv.statistics
        summaries: list[dict[str, Any]] = []
        sources = {"csv": digits / "test.csv.gz", "images": root / "test"}
        for kind, source in sources.items():
            run, out = root / f"run-{kind}", root / f"{kind}.csv"
            summaries.append(fs.train(root / f"{kind}.zarr", run, folds=2, epochs=2, client=client).summary)
            fs.predict(run, source, out, client=client)
        scores = [summary["out_of_fold"] for summary in summaries]
        assert scores[0] == scores[1], scores
        assert answers(root / "csv.csv") == answers(root / "images.csv")
        print(f"equal: arrays, out-of-fold scores ({scores[0]}), {len(answers(root / 'csv.csv')):,} predictions")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
