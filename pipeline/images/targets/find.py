"""Which mask or other target belongs to which image: the file of the same relative path, whatever its suffix."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....storage.errors import SourceError
from ....storage.tasks import Executor, Progress
from ..files import TARGET, files_in
from ..labels.match import normalized
from ..listing.list import ImageList, list_images
from .classes import find_classes

ABSENT = "it has no {} of the same path"
SEVERAL = "it has several {}s: {}"


@dataclass(frozen=True)
class TargetRequest:
    """What targets are: `masks`, of which the pixel values in `ignored` do not count, and those of the classes may be
    `known`; or images."""

    masks: bool
    ignored: tuple[int, ...] = ()
    known: tuple[int, ...] = ()

    @property
    def what(self) -> str:
        """What a target is called in messages."""
        return "mask" if self.masks else "target"


@dataclass(frozen=True)
class Targets:
    """The targets of images: their `list`, the number of each image's target, (images,) int64, -1 without one, the
    pixel values of the classes of masks in ascending order, and the images without a valid target, by index, with the
    reason."""

    list: ImageList
    of_image: np.ndarray
    classes: tuple[int, ...]
    errors: dict[int, str] = field(default_factory=dict)

    def table(self, numbers: np.ndarray) -> dict[str, pa.Array]:
        """Where the targets of images are, given by their numbers, (n,) int64: columns for `files_in`."""
        return {f"{TARGET}{name}": column for name, column in self.list.files(self.of_image[numbers]).items()}


def list_targets(source: str, folder: Path) -> ImageList:
    """List the targets in a source to a file in `folder`; see `list_images`."""
    inner = folder / "targets"
    inner.mkdir()
    return list_images((source,), inner)


def match_targets(images: ImageList, targets: ImageList, what: str) -> tuple[np.ndarray, dict[int, str]]:
    """The target of each image, (images,) int64, -1 without one; and the images without exactly one, with the reason,
    in which it is called `what`.

    Raises SourceError if no image has a target.
    """
    stems, own = (_stems(one) for one in (images, targets))
    counts = pc.value_counts(own)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    several = pc.is_in(stems, twice).to_numpy(zero_copy_only=False)
    examples, absent = _paths_of(targets, own, twice), ABSENT.format(what)
    found = pc.index_in(stems, own).fill_null(-1).to_numpy().astype(np.int64)
    found[several] = -1
    missing = np.flatnonzero(found < 0).tolist()
    errors = {
        number: SEVERAL.format(what, " and ".join(examples[stems[number].as_py()][:2])) if several[number] else absent
        for number in missing
    }
    for number in np.flatnonzero(np.isin(found, list(targets.errors))).tolist():
        errors[number] = f"its {what}: {targets.errors[int(found[number])]}"
    if len(errors) == len(images):
        number = next((number for number in sorted(errors) if errors[number] != absent), 0)
        image, first = images.table["path"][number].as_py(), targets.table["path"][0].as_py()
        reason = f"e.g. {image}: {errors[number]}"
        if errors[number] == absent:  # as all others are
            reason = f"the first image is called '{image}', the first {what} '{first}'"
        raise SourceError(
            f"none of the {len(images):,} images has a valid {what}: {reason}; each image needs one {what}, with the "
            "path of the image and any suffix"
        )
    return found, errors


def _paths_of(targets: ImageList, own: pa.Array, stems: pa.Array) -> dict[str, list[str]]:
    """The paths of the targets that have these paths without suffixes."""
    found: dict[str, list[str]] = {}
    chosen = pc.is_in(own, stems)
    for stem, path in zip(
        own.filter(chosen).to_pylist(), targets.table["path"].filter(chosen).to_pylist(), strict=True
    ):
        found.setdefault(stem, []).append(path)
    return found


def _stems(images: ImageList) -> pa.Array:
    """The paths without suffixes."""
    return pc.replace_substring_regex(normalized(images.table["path"].combine_chunks()), r"\.[^./]*$", "")


def find_targets(
    images: ImageList,
    targets: ImageList,
    wanted: TargetRequest,
    executor: Executor,
    progress: Progress,
) -> Targets:
    """Match targets with images, and find the classes of masks unless they are known. Raises SourceError and
    UsageError."""
    found, errors = match_targets(images, targets, wanted.what)
    if not wanted.masks or wanted.known:
        return Targets(targets, found, wanted.known, errors)
    used = np.unique(np.delete(found, list(errors)))
    files = files_in(targets.files(used))
    classes, unreadable = find_classes(files, wanted.ignored, executor, progress)
    reasons = {int(used[place]): reason for place, reason in unreadable.items()}
    for number in np.flatnonzero(np.isin(found, list(reasons))).tolist():
        errors.setdefault(number, reasons[int(found[number])])
    return Targets(targets, found, classes, errors)
