"""What a group of workers is to train together."""

from dataclasses import dataclass

from ..engine.checkpoint_policy import EACH_EPOCH, CheckpointPolicy

START_SECONDS = 600.0  # for which a worker may be silent that starts, or writes


@dataclass(frozen=True)
class GroupRequest:
    """Train `folds`, each given by its run's folder and its number, together with `workers` workers, by a `name`."""

    name: str
    folds: tuple[tuple[str, int], ...]
    workers: int
    use_gpu: bool
    memory: int | None = None
    """Bytes that each worker's stream may hold."""
    cache: int | None = None
    """Bytes of local disk that each may use for blocks of an object store."""
    checkpoints: CheckpointPolicy = EACH_EPOCH
