"""Writes rows in the format of a library: python -m tests.benchmarks.peer_files LOADER FOLDER OUT [OPTION ...].

FOLDER contains `x.npy` and `y.npy`. An option is `compressed` or `tensors`. This runs in the peers' own venv.
"""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np

name, folder, out, options = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
x, y = np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy")
partial = out.with_name(f"{out.name}.partial")
import_module(f".loaders.{name}", __package__).write(x, y, partial, **dict.fromkeys(options, True))
partial.rename(out)
