"""Foldstream: train PyTorch models with k-fold cross-validation on data larger than memory.

    import foldstream as fs

    fs.convert("train.csv", "digits.zarr", label="label", shape=(1, 28, 28))  # or a DataFrame, arrays, images
    run = fs.train("digits.zarr", "runs/digits", model="digits-cnn", folds=5)
    run.metrics, run.oof(), run.models  # out-of-fold scores and predictions, plain torch modules
    run.predict("test.csv", out="submission.csv")  # a DataFrame with the probability of each class

    for x, y, id in fs.stream("digits.zarr", batch_size=256):  # your own training loop
        ...

Keywords have the same names as the command-line flags.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.platform not in ("linux", "darwin"):
    raise ImportError(
        f"Foldstream runs on Linux and macOS, not on {sys.platform}: it needs their file locks and signals; "
        "on Windows, use WSL 2 or a Linux container"
    )

if TYPE_CHECKING:
    from .cluster.api.browse import BrowsableDataset as Dataset
    from .cluster.api.browse import open_to_browse as open
    from .cluster.api.conversion import adopt, convert_csv, convert_images, prune, verify
    from .cluster.api.job import run_job
    from .cluster.api.predict import predict
    from .cluster.api.split import split_rows
    from .cluster.callbacks.callback import Callback
    from .cluster.listener import Listener
    from .cluster.python.append import append
    from .cluster.python.conversion import convert
    from .cluster.python.ensemble import Ensemble, ensemble, stack
    from .cluster.python.run import Run
    from .cluster.python.train import search, train
    from .storage.errors import FoldstreamError
    from .training.model.export import export, load_models
    from .training.open_stream import normalizer, stream

__all__ = [
    "Callback",
    "Dataset",
    "Ensemble",
    "FoldstreamError",
    "Listener",
    "Run",
    "adopt",
    "append",
    "convert",
    "convert_csv",
    "convert_images",
    "ensemble",
    "export",
    "load_models",
    "normalizer",
    "open",
    "predict",
    "prune",
    "run_job",
    "search",
    "split_rows",
    "stack",
    "stream",
    "train",
    "verify",
]

_HOMES = {
    "Callback": ("cluster.callbacks.callback", "Callback"),
    "Dataset": ("cluster.api.browse", "BrowsableDataset"),
    "Ensemble": ("cluster.python.ensemble", "Ensemble"),
    "FoldstreamError": ("storage.errors", "FoldstreamError"),
    "Listener": ("cluster.listener", "Listener"),
    "Run": ("cluster.python.run", "Run"),
    "adopt": ("cluster.api.conversion", "adopt"),
    "append": ("cluster.python.append", "append"),
    "convert": ("cluster.python.conversion", "convert"),
    "convert_csv": ("cluster.api.conversion", "convert_csv"),
    "convert_images": ("cluster.api.conversion", "convert_images"),
    "ensemble": ("cluster.python.ensemble", "ensemble"),
    "export": ("training.model.export", "export"),
    "load_models": ("training.model.export", "load_models"),
    "normalizer": ("training.open_stream", "normalizer"),
    "open": ("cluster.api.browse", "open_to_browse"),
    "predict": ("cluster.api.predict", "predict"),
    "prune": ("cluster.api.conversion", "prune"),
    "run_job": ("cluster.api.job", "run_job"),
    "search": ("cluster.python.train", "search"),
    "split_rows": ("cluster.api.split", "split_rows"),
    "stack": ("cluster.python.ensemble", "stack"),
    "stream": ("training.open_stream", "stream"),
    "verify": ("cluster.api.conversion", "verify"),
    "train": ("cluster.python.train", "train"),
}


def __getattr__(name: str) -> Any:
    """Import on first use: a Dask worker that converts CSV needs neither torch nor Ray, which take seconds."""
    if name == "__version__":
        return import_module("importlib.metadata").version(__name__)
    if name not in _HOMES:
        raise AttributeError(f"module 'foldstream' has no attribute '{name}'")
    module, attribute = _HOMES[name]
    found = getattr(import_module(f".{module}", __name__), attribute)
    if not isinstance(found, type):  # messages are written for the command line
        found = import_module(".cluster.wording", __name__).with_python_words(found)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """The public names, for completion."""
    return [*__all__, "__version__", "__doc__"]
