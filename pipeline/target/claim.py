"""The claim on a target: who may write to it, what it already contains, and what has to be removed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from ...storage.dataset import open_dataset
from ...storage.errors import ConflictError
from ...storage.format.layout import Layout
from ...storage.format.manifest import MANIFEST, WORK
from ...storage.format.schema import Schema
from ...storage.places.json_files import create_json, read_json, same_json
from ...storage.places.place import Place
from ...storage.versions import manifest_of, newest_version
from .differences import differences
from .receipts import RECEIPTS

SPEC = "plan.json"  # the name that earlier versions gave it
SPILLED = "shuffle"  # folder of the rows between the passes of a shuffle
SKIPPED = "faults"  # folder of the lists of skipped rows or files


class DatasetSpec(Protocol):
    """What a conversion writes to a target. `skipped` is the number of invalid rows or files that it skips,
    `skipped_rows` the positions of such rows among all rows, and `source_bytes` the total size of the sources."""

    @property
    def layout(self) -> Layout: ...
    @property
    def schema(self) -> Schema: ...
    @property
    def request(self) -> dict[str, Any]: ...
    @property
    def skipped(self) -> int: ...
    @property
    def skipped_rows(self) -> Sequence[int]: ...
    @property
    def source_bytes(self) -> int: ...


def is_converted(root: Place, fingerprint: dict[str, Any], overwrite: bool = False) -> bool:
    """Whether `root` contains the committed result of this request; with `overwrite`, whether the result is new: the
    same command was interrupted after it had committed.

    Raises ConflictError if it contains the result of another request (unless `overwrite`) or something else.
    """
    if (root / MANIFEST).exists():
        if overwrite and not (root / WORK / RECEIPTS).names():  # an earlier dataset is removed before the first one
            return False
        stored = open_dataset(root / MANIFEST).request  # as it was converted first
        if same_json(stored, fingerprint):
            return True
        if overwrite:
            return False
        raise ConflictError(
            f"{root} already contains another dataset: {differences(stored, fingerprint)}",
            "choose another name, or use --overwrite",
        )
    names = root.names()
    if root.is_file() or (names and WORK not in names):
        raise ConflictError(f"{root} already contains something that is not a dataset; choose another name")
    return False


@contextmanager
def lock_target(root: Place) -> Iterator[None]:
    """Let one process at a time convert to `root`. The operating system releases the lock when its holder dies.

    An object store has no such lock: several conversions of the same request do the same work, and exactly one of
    them creates the spec and the manifest. If there is no spec at the end, nothing was written: the new folders are
    removed, and existing data is kept.
    """
    made = not root.exists()
    with (root / WORK).lock(_busy(root)):
        (root / WORK).sync_folders()  # without it, what follows would not be an interrupted conversion
        try:
            yield
        finally:
            if not (root / WORK / SPEC).exists():
                (root / WORK).remove_tree()
                if made:
                    root.remove_if_empty()


def remove_leftovers(root: Place) -> None:
    """Remove the work of an interrupted command beside a dataset, unless another process is at work there."""
    if (root / WORK).is_dir():
        with suppress(ConflictError), (root / WORK).lock(_busy(root)):
            if (root / MANIFEST).exists():
                (root / WORK).remove_tree()


def load_spec(root: Place, fingerprint: dict[str, Any], overwrite: bool) -> Any:
    """The spec, as JSON, of an interrupted conversion of this request; None if there is none or it will be replaced.

    Raises ConflictError if the interrupted conversion was for another request.
    """
    path = root / WORK / SPEC
    spec = read_json(path) if path.exists() else None
    if spec and same_json(spec["request"], fingerprint):
        return spec
    if spec and not overwrite:
        raise ConflictError(
            f"{root} contains an unfinished conversion with other options or sources "
            f"({differences(spec['request'], fingerprint)})",
            "repeat that command, choose another name, or start over with --overwrite",
        )
    for folder in (root / WORK).subfolders():  # also without a spec: a kill may have left them beside a dataset
        (root / WORK / folder).remove_tree()
    path.remove()  # last: without it, receipts that are left would be taken for those of the next spec
    return None


def store_spec(root: Place, spec: dict[str, Any]) -> None:
    """Claim the target for a conversion. Raises ConflictError if another process was faster, in an object store."""
    if not create_json(root / WORK / SPEC, spec):
        raise ConflictError(_busy(root))


def _busy(root: Place) -> str:
    return f"{root} is being converted by another process; wait for it to finish"


def clear_target(root: Place) -> None:
    """Remove an earlier dataset, its manifest first, so that an interrupted removal leaves no readable dataset
    behind."""
    for version in range(newest_version(root), 1, -1):  # the newest first, so that each moment leaves a whole one
        manifest_of(root, version).remove()
    (root / MANIFEST).remove()
    root.remove_contents(keep=WORK)
