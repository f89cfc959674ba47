"""The classes of masks: the pixel values that occur in them, found in one pass over all files before anything is
written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ....storage.errors import FoldstreamError, SourceError, UsageError
from ....storage.format.dense import IGNORED
from ....storage.pictures.decode import ImageError
from ....storage.tasks import Executor, Progress
from ..files import ImageFile, read_image
from .pixels import REMEDY, read_mask

MOST_CLASSES = IGNORED  # codes from 0 on; the last one of a byte is that of pixels that do not count
FILES = 256  # of a task


@dataclass(frozen=True)
class MaskTask:
    """Find the pixel values of some masks."""

    files: tuple[ImageFile, ...]


@dataclass(frozen=True)
class MaskValues:
    """The different pixel values of some masks, at most one more than there may be; and those that cannot be read, by
    their places, with the reason."""

    values: frozenset[int]
    errors: Mapping[int, str] = field(default_factory=dict)


def find_values(task: MaskTask) -> MaskValues:
    """Run a task."""
    found, errors = set[int](), dict[int, str]()
    for place, file in enumerate(task.files):
        try:
            values = set(np.unique(read_mask(read_image(file))).tolist())
        except ImageError as error:
            errors[place] = str(error)
        except (OSError, FoldstreamError) as error:
            errors[place] = f"its mask cannot be read ({getattr(error, 'strerror', None) or error})"
        else:
            if len(values) > MOST_CLASSES + 1:
                errors[place] = f"its mask has {len(values):,} pixel values, so it is a photo; {REMEDY}"
            else:
                found |= values
    return MaskValues(frozenset(found), errors)


def find_classes(
    files: Sequence[ImageFile], ignored: Sequence[int], executor: Executor, progress: Progress
) -> tuple[tuple[int, ...], dict[int, str]]:
    """The pixel values of masks in ascending order, except those that are `ignored`; and the masks that cannot be read,
    by their places, with the reason. Raises SourceError for too many values, UsageError for a single one."""
    tasks = [MaskTask(tuple(files[first : first + FILES])) for first in range(0, len(files), FILES)]
    values, errors, done = set[int](), dict[int, str](), 0
    for position, found in executor.map(find_values, tasks):
        values |= found.values
        errors |= {position * FILES + place: reason for place, reason in found.errors.items()}
        done += len(tasks[position].files)
        progress("masks", done, len(files), "masks")
    classes = tuple(sorted(values - {*ignored}))
    if len(classes) > MOST_CLASSES:
        shown = ", ".join(map(str, classes[:5]))
        raise SourceError(
            f"the masks have {len(classes):,} different pixel values ({shown}, …), but at most {MOST_CLASSES} classes "
            f"are possible; {REMEDY.replace('it as a PNG', 'them as PNGs')}"
        )
    if len(classes) < 2 and len(errors) < len(files):
        only = f"all pixels of the masks have the value {classes[0]}" if classes else "no pixel of the masks counts"
        raise UsageError(f"{only}, but a model needs two classes; check --masks and --mask-ignore")
    return classes, errors
