"""Partial predictions: one small file per fold and shard of the dataset, written as a whole by one worker."""

import numpy as np
import safetensors
import safetensors.numpy

from .errors import DamagedError
from .places.place import Place


def part_path(folder: Place, shard: int) -> Place:
    """The file of a shard's part in a fold's folder of parts."""
    return folder / f"{shard:08d}.safetensors"


def write_part(folder: Place, shard: int, ids: np.ndarray, predictions: np.ndarray) -> None:
    """Store predictions (rows, outputs) for the rows `ids` (rows,) int64, all from one shard."""
    part_path(folder, shard).write(safetensors.numpy.save({"id": ids, "prediction": predictions}))


def read_part(folder: Place, shard: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Read the ids and predictions of a part; None if the fold has no rows in the shard. Raises DamagedError."""
    path = part_path(folder, shard)
    if not path.exists():
        return None
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
        return arrays["id"], arrays["prediction"]
    except (safetensors.SafetensorError, KeyError) as error:
        raise DamagedError(
            f"{path} is incomplete or damaged ({error}); remove the fold's folder and train the fold again"
        ) from None
