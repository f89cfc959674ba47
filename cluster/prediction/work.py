"""The work folder of a prediction, beside what it writes: the source as a dataset, parts and receipts."""

from collections.abc import Iterator
from contextlib import contextmanager

from ...pipeline.predictions.receipts import RECEIPTS
from ...storage.errors import ModelError, SourceError, UsageError
from ...storage.format.manifest import MANIFEST, WORK
from ...storage.places.json_files import read_json, write_json
from ...storage.places.place import Place

REQUEST, SOURCE = "request.json", "source.zarr"
"""In the folder: which prediction it is of, and its source as a dataset."""


def work_of(target: Place) -> Place:
    """The work folder of a target."""
    return target.parent / f".{target.name}{WORK}"


@contextmanager
def claimed(target: Place, wanted: list[str]) -> Iterator[bool]:
    """Claim the work folder of a target, and say whether the same prediction, which is what is `wanted`, was begun
    there earlier. At the end it is removed. It is kept for the same command if this one is killed, or fails for a
    reason that may pass."""
    work = work_of(target)
    with work.lock(f"{target} is being predicted by another process; wait for it to finish"):
        request = work / REQUEST
        resumed = request.exists() and read_json(request) == wanted
        if not resumed:
            work.remove_contents(keep="")
            write_json(request, wanted)
        try:
            yield resumed
        except (SourceError, ModelError):
            work.remove_tree()
            raise
        except UsageError:  # an option such as --workers can be changed, and the prediction resumed
            if not (work / SOURCE / MANIFEST).exists() and not (work / RECEIPTS).names():
                work.remove_tree()
            raise
        work.remove_tree()
