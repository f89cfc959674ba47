"""What all conversions share: what is there is kept, one process writes at a time, and the commit comes last."""

from collections.abc import Callable
from typing import Any

from ...storage.dataset import Dataset, open_dataset
from ...storage.format.manifest import WORK
from ...storage.places.place import Place
from ...storage.tasks import Executor
from .claim import DatasetSpec, is_converted, load_spec, lock_target, remove_leftovers
from .run import publish_done


def convert_once(
    root: Place,
    request: dict[str, Any],
    write: Callable[[Any], DatasetSpec],
    executor: Executor,
    overwrite: bool = False,
) -> Dataset:
    """Return the dataset of a request that is at `root`, or else let `write` make it.

    `write` gets the stored spec of an interrupted conversion of this request, or None. In that case it checks the
    request, and only then stores a spec, with `store_spec`, and removes what is at `root`, with `clear_target`. In both
    cases it writes what is missing, commits, and returns the spec.

    Raises ConflictError if `root` contains something else and is not to be overwritten.
    """
    if is_converted(root, request, overwrite):
        remove_leftovers(root)
        return open_dataset(root)
    with lock_target(root):
        spec = write(load_spec(root, request, overwrite))
        (root / WORK).remove_tree()
    dataset = open_dataset(root)
    publish_done(spec, dataset, executor)
    return dataset
