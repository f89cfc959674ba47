"""Folders such as `train`, `val` and `test`, which are no classes: they are refused, or taken as folds."""

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from ....storage.errors import SourceError, UsageError
from ..formats import FOLDS, fold_of
from .list import ImageList

SPLIT = "split"  # the column of the folds
PARTS = r"(?s)^(?P<first>[^/]*)/(?:(?P<second>[^/]*)/)?"


def refuse_splits(images: ImageList) -> None:
    """Raise SourceError if the folders of the images are not classes but parts of a split."""
    tops = {name for name in pc.unique(images.table["class"]).to_pylist() if name}
    tops |= {path.partition("/")[0] for path in images.tour.empty}
    parts = sorted(name for name in tops if fold_of(name) is not None)
    if not parts or (len(parts) == 1 and len(tops) > 1):  # one alone may be a class: a train beside a bus
        return
    row = pc.index_in(pa.array(parts), images.table["class"].combine_chunks()).drop_null()
    place, _ = images.containers[images.table["container"][row[0].as_py() if len(row) else 0].as_py()]
    first = next((name for name in parts if fold_of(name) == -1), parts[0])
    raise SourceError(
        f"{place}: its folders {', '.join(parts)} are parts of a split, not classes; name one of them, e.g. "
        f"{place}/{first}, or several, which become one dataset, or use --split-folders to take them as folds"
    )


def read_splits(images: ImageList) -> tuple[pa.Array, pa.Array, dict[int, str]]:
    """The fold of each image as text, its class, which is the folder below that of the split, null if it has none; and
    the images that are in no part of a split, by index, with the reason.

    A source that is named `train` itself counts as one too. Raises UsageError if there is none.
    """
    parts = pc.extract_regex(images.table["path"].combine_chunks(), PARTS)
    first, second = (pc.if_else(pc.equal(part, ""), None, part) for part in parts.flatten())
    sources = _folds(PurePosixPath(place).name for place, _ in images.containers)
    of_source = sources.take(images.table["container"].combine_chunks())
    names = pc.dictionary_encode(first.fill_null(""))
    of_folder = _folds(names.dictionary.to_pylist()).take(names.indices)
    folds = pc.coalesce(of_folder, of_source)
    if folds.null_count == len(folds):
        raise UsageError(
            f"--split-folders: {images.containers[0][0]} has no folders named {', '.join(FOLDS)}; remove the option"
        )
    missing = "it is in none of the folders of the split, but other images are"
    errors = dict.fromkeys(_where(folds.is_null()), missing)
    return (
        folds.fill_null("-1"),
        pc.if_else(of_folder.is_valid(), second, images.table["class"].combine_chunks()),
        errors,
    )


def empty_classes(images: ImageList, split: bool) -> list[str]:
    """The class folders without images: those below the folders of a `split`, or directly in the sources."""
    parts = [path.split("/") for path in images.tour.empty]
    if not split:
        return [names[0] for names in parts if len(names) == 1]
    return [names[-1] for names in parts if len(names) == 2 or fold_of(names[0]) is None]


def _folds(names: Iterable[str]) -> pa.Array:
    folds = [fold_of(name) for name in names]
    return pa.array([None if fold is None else str(fold) for fold in folds], pa.string())


def _where(mask: pa.Array) -> Sequence[int]:
    indices: list[int] = pc.indices_nonzero(mask).to_pylist()
    return indices
