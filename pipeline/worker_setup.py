"""Preload module of Dask workers: it loads compiled code and its runtime while the other workers start."""

import logging

import numpy as np
import pyarrow as pa

from ..storage.machine import keep_freed_memory
from .csv.kernels import count_lines
from .images import convert  # noqa: F401 - loaded here, so that the first task does not wait for it
from .tables import fill  # noqa: F401 - loaded here, so that the first task does not wait for it


def dask_setup(worker: object) -> None:
    """Called by Dask in the new worker."""
    keep_freed_memory()
    # A task's error is raised where its result is awaited, and reported there once.
    logging.getLogger("distributed.worker").addFilter(lambda record: "Compute Failed" not in str(record.msg))
    count_lines(np.zeros(1, np.uint8))  # the first call starts the compiler's runtime
    pa.array([0])  # this searches for pandas
