"""Foldstream: train PyTorch models, with k-fold cross validation, on data larger than memory.

    import foldstream as fs

    fs.convert_csv("train.csv", "digits.zarr", label="label", shape=(1, 28, 28))
    summary = fs.train("digits.zarr", "runs/digits", model="digits-cnn", folds=5)
    fs.predict("runs/digits", "test.csv", "submission.csv")

The keywords are the command line's flags.
"""

from .cluster.jobs import Listener, convert_csv, predict, run_job, train
from .storage.dataset import Dataset
from .storage.dataset import open_dataset as open
from .storage.errors import FoldstreamError

__all__ = ["Dataset", "FoldstreamError", "Listener", "convert_csv", "open", "predict", "run_job", "train"]
