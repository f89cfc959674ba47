"""Parts of predictions: for each fold and each shard of the dataset one small file, written whole by one worker."""

import numpy as np
import safetensors
import safetensors.numpy

from .errors import DamagedError
from .files import write_atomic
from .object_path import AnyPath


def part_path(folder: AnyPath, shard: int) -> AnyPath:
    """Where the part of a shard lies in a fold's folder of parts."""
    return folder / f"{shard:08d}.safetensors"


def write_part(folder: AnyPath, shard: int, ids: np.ndarray, predictions: np.ndarray) -> None:
    """Store predictions (rows, outputs) float32 of the rows `ids` (rows,) int64, all of one shard."""
    write_atomic(part_path(folder, shard), safetensors.numpy.save({"id": ids, "prediction": predictions}))


def read_part(folder: AnyPath, shard: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Ids and predictions of a part; None where the fold has no rows in the shard. Raises DamagedError."""
    path = part_path(folder, shard)
    if not path.exists():
        return None
    try:
        arrays = safetensors.numpy.load(path.read_bytes())
        return arrays["id"], arrays["prediction"]
    except (safetensors.SafetensorError, KeyError) as error:
        raise DamagedError(
            f"{path} is not a whole part ({error}); remove the fold's folder and train it again"
        ) from None
