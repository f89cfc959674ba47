"""Which mask belongs to which image: the one of the same relative path, whatever its suffix."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....storage.errors import SourceError
from ....storage.tasks import Executor, Progress
from ..files import MASK, files_in
from ..labels.match import normalized
from ..listing.list import ImageList, list_images
from .classes import find_classes

ABSENT = "it has no mask of the same path"
SEVERAL = "it has several masks of the same path"


@dataclass(frozen=True)
class Masks:
    """The masks of images: their `list`, the number of each image's mask, (images,) int64, -1 without one, the pixel
    values of the classes in ascending order, and the images without a valid mask, by index, with the reason."""

    list: ImageList
    of_image: np.ndarray
    classes: tuple[int, ...]
    errors: dict[int, str] = field(default_factory=dict)

    def table(self, numbers: np.ndarray) -> dict[str, pa.Array]:
        """Where the masks of images are, given by their numbers, (n,) int64: the columns of `mask_files`."""
        return {f"{MASK}{name}": column for name, column in self.list.files(self.of_image[numbers]).items()}


def list_masks(source: str, folder: Path) -> ImageList:
    """List the masks of a source to a file in `folder`; see `list_images`."""
    inner = folder / "masks"
    inner.mkdir()
    return list_images((source,), inner)


def match_masks(images: ImageList, masks: ImageList) -> tuple[np.ndarray, dict[int, str]]:
    """The mask of each image, (images,) int64, -1 without one; and the images without exactly one, with the reason.

    Raises SourceError if no image has a mask.
    """
    stems, own = (_stems(one) for one in (images, masks))
    counts = pc.value_counts(own)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    several = pc.is_in(stems, twice).to_numpy(zero_copy_only=False)
    found = pc.index_in(stems, own).fill_null(-1).to_numpy().astype(np.int64)
    found[several] = -1
    errors = {number: SEVERAL if several[number] else ABSENT for number in np.flatnonzero(found < 0).tolist()}
    for number in np.flatnonzero(np.isin(found, list(masks.errors))).tolist():
        errors[number] = f"its mask: {masks.errors[int(found[number])]}"
    if len(errors) == len(images):
        raise SourceError(
            f"none of the {len(images):,} images has a valid mask: the first image is called "
            f"'{images.table['path'][0].as_py()}', the first mask '{masks.table['path'][0].as_py()}'; a mask has the "
            "path of its image, with any suffix"
        )
    return found, errors


def _stems(images: ImageList) -> pa.Array:
    """The paths without suffixes."""
    return pc.replace_substring_regex(normalized(images.table["path"].combine_chunks()), r"\.[^./]*$", "")


def find_masks(
    images: ImageList,
    masks: ImageList,
    ignored: tuple[int, ...],
    known: tuple[int, ...],
    executor: Executor,
    progress: Progress,
) -> Masks:
    """Match masks with images, and find their classes unless they are `known`. Raises SourceError and UsageError."""
    found, errors = match_masks(images, masks)
    valid = np.flatnonzero(~np.isin(np.arange(len(images)), list(errors)))
    if known:
        return Masks(masks, found, known, errors)
    used = np.unique(found[valid])
    classes, unreadable = find_classes(files_in(masks.files(used)), ignored, executor, progress)
    reasons = {int(used[place]): reason for place, reason in unreadable.items()}
    errors |= {int(number): reasons[int(found[number])] for number in valid if int(found[number]) in reasons}
    return Masks(masks, found, classes, errors)
