"""What a group of workers is to train together."""

from dataclasses import dataclass
from pathlib import Path

from .saving import EACH_EPOCH, Saving

START_SECONDS = 600.0  # for which a worker may be silent that starts, or writes


@dataclass(frozen=True)
class GroupRequest:
    """Train `folds`, each given by its run's folder and its number, together with `workers` workers. Ray keeps files of
    its own at `root` by the `name`."""

    root: Path
    name: str
    folds: tuple[tuple[Path, int], ...]
    workers: int
    use_gpu: bool
    memory: int | None = None
    """Bytes that each worker's stream may hold."""
    cache: int | None = None
    """Bytes of local disk that each may use for blocks of an object store."""
    saving: Saving = EACH_EPOCH
