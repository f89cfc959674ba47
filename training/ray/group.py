"""What a group of workers trains together."""

from dataclasses import dataclass

from ..engine.saving import EACH_EPOCH, Saving

START_SECONDS = 600.0  # for which a worker that starts, or writes, may be silent


@dataclass(frozen=True)
class GroupRequest:
    """Train `folds`, each given by the folder of its run and its number, with `workers` workers, as a Ray Train run
    called `name`."""

    name: str
    folds: tuple[tuple[str, int], ...]
    workers: int
    use_gpu: bool
    memory: int | None = None
    """Bytes that the stream of each worker may hold."""
    cache: int | None = None
    """Bytes of local disk that each worker may use to cache blocks of an object store."""
    saving: Saving = EACH_EPOCH
