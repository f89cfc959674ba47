"""What a group of workers is to train together."""

from dataclasses import dataclass

from ..config import Execution

START_SECONDS = 600.0  # for which a worker may be silent that starts, or writes


@dataclass(frozen=True)
class GroupRequest:
    """Train `folds`, each given by its run's folder and its number, in one Ray Train run called `name`, as the user's
    request says."""

    name: str
    folds: tuple[tuple[str, int], ...]
    use_gpu: bool
    request: Execution
