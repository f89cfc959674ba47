"""The same work as Foldstream's, as a plain script with all data in memory.

python -m tests.benchmarks.plain convert SOURCE.csv OUT.zarr
python -m tests.benchmarks.plain parse SOURCE.csv
python -m tests.benchmarks.plain train DATASET.zarr MODEL EPOCHS
python -m tests.benchmarks.plain demo TRAIN.csv TEST.csv OUT.csv EPOCHS

Each imports what it needs and nothing else: it is timed from the start of Python on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def convert(source: str, out: str) -> None:
    """A CSV file of digits as Zarr arrays."""
    import zarr

    x, y = read_digits(source)
    group = zarr.create_group(out)
    group.create_array("x", data=x)
    group.create_array("y", data=y)


def read_digits(source: str) -> tuple[np.ndarray, np.ndarray]:
    """The pixels, (rows, 1, 28, 28) uint8, and the labels, (rows,) uint8, of a CSV file of digits."""
    import numpy as np
    import pandas as pd

    table = pd.read_csv(source, dtype=np.uint8)
    y = table.pop("label").to_numpy() if "label" in table else np.zeros(len(table), np.uint8)
    return table.to_numpy().reshape(-1, 1, 28, 28), y


def parse(source: str) -> None:
    """Parse a CSV file of digits with pyarrow and two threads; nothing is written."""
    import pyarrow as pa
    from pyarrow import csv

    pa.set_cpu_count(2)
    with open(source) as file:
        names = file.readline().strip().split(",")
    csv.read_csv(source, convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, pa.uint8())))


def train(dataset: str, model: str, epochs: str) -> None:
    """Train all folds on a dataset, and print the accuracy on all held-out rows."""
    import numpy as np
    import zarr

    from .plain_loop import train_folds

    arrays = zarr.open_group(dataset, mode="r")
    x, y = (np.asarray(arrays[name][...]) for name in ("x", "y"))  # type: ignore[index]
    print(train_folds(x, y, model, int(epochs))[1])


def demo(training: str, test: str, out: str, epochs: str) -> None:
    """From the training and the test file to a CSV file of predictions by all folds together."""
    import numpy as np
    import pandas as pd

    from .plain_loop import predict, train_folds

    models, _ = train_folds(*read_digits(training), "digits-cnn", int(epochs))
    chosen = predict(models, read_digits(test)[0])
    pd.DataFrame({"ImageId": np.arange(1, len(chosen) + 1), "Label": chosen}).to_csv(out, index=False)


if __name__ == "__main__":
    commands: dict[str, Callable[..., None]] = {"convert": convert, "parse": parse, "train": train, "demo": demo}
    commands[sys.argv[1]](*sys.argv[2:])
