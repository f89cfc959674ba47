"""The labels of images: their folders, their names, the files beside them in a shard, or the rows of a table."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ....storage.errors import SourceError, UsageError, suggest
from ...csv.options import CsvOptions
from ..listing.archives import CLASS
from ..listing.list import ImageList
from .match import BY_NAME, BY_STEM, NONE, SEVERAL, ImageNames, last_part
from .table import LabelTable, read_label_table, text_of

SAMPLE_ROWS = 1000
Roles = Mapping[str, Sequence[str]]
FOLDER = "class"  # the label's name if folders are the classes


@dataclass(frozen=True)
class Labels:
    """The labels of all listed images: text columns, (images,); the columns with a role, text, null where it is empty;
    the images without a valid label, by index, with the reason; the paths in the table that match no image, and those
    that match `several`.

    Labels that are `names`, those of folders, are classes whatever they look like; `empty` are further classes, which
    have no images.
    """

    columns: dict[str, pa.Array] = field(default_factory=dict)
    others: dict[str, pa.Array] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()
    several: tuple[str, ...] = ()
    names: bool = False
    empty: tuple[str, ...] = ()


def label_by_folder(names: pa.Array, empty: Sequence[str] = ()) -> Labels:
    """Labels from the first folders of the images' paths; no labels if no image is in a folder."""
    if names.null_count == len(names):
        return Labels()
    errors = dict.fromkeys(where(names.is_null()), "the image is not in a class folder, but other images are")
    return Labels({FOLDER: names}, errors=errors, names=True, empty=tuple(empty))


def label_by_pattern(images: ImageList, pattern: str) -> Labels:
    """Labels from the names of the images' files: the named groups of a regular expression, or its first group."""
    expression = re.compile(pattern)
    groups: tuple[str | int, ...] = tuple(expression.groupindex) or (1,)
    names = last_part(images.table["path"].combine_chunks()).to_pylist()
    found = [expression.search(name) for name in names]
    columns = {
        FOLDER if group == 1 else str(group): pa.array([match and match[group] for match in found], pa.string())
        for group in groups
    }
    missing = sorted({number for column in columns.values() for number in where(column.is_null())})
    errors = dict.fromkeys(missing, f"its name does not match --label-pattern {pattern}")
    return Labels(columns, errors=errors, names=len(groups) == 1)


def label_by_samples(images: ImageList, names: Sequence[str], roles: Roles) -> Labels:
    """Labels and other columns from the fields of the `.json` of each sample of WebDataset shards, or its `.cls` and
    `.txt`. Raises UsageError for fields that no sample has."""
    classes = images.table["class"].combine_chunks().to_pylist()
    samples = [
        {CLASS: name} | (json.loads(text) if text else {})
        for name, text in zip(classes, images.table["beside"].to_pylist(), strict=True)
    ]
    known = list(dict.fromkeys(field for sample in samples for field in sample))
    check_columns({"label": names, **roles}, "a .json beside the images", known)
    columns, errors = dict[str, pa.Array](), dict[int, str]()
    for name in dict.fromkeys((*names, *(name for of_role in roles.values() for name in of_role))):
        values = [sample.get(name) for sample in samples]
        for number in (number for number, value in enumerate(values) if isinstance(value, dict | list)):
            errors.setdefault(number, f"its '{name}' in the archive is not a text or a number")
        columns[name] = pa.array([text_of(value) or None for value in values], pa.string())
        for number in where(columns[name].is_null()) if name in names else ():
            errors.setdefault(number, f"its archive has no label '{name}' for it")
    others = {name: columns[name] for of_role in roles.values() for name in of_role}
    return Labels({name: columns[name] for name in names}, others, errors)


def label_by_file(
    images: ImageList,
    file: str,
    names: Sequence[str] | None,
    roles: Roles,
    options: CsvOptions,
    optional: Sequence[str] = (),
) -> Labels:
    """Labels from a table with a column that names the images; see `ImageNames`.

    `names` are the label columns, by default the first other column, or None for images without labels, and `roles` the
    other columns to read, by role, as well as those of the `optional` ones that the table has; `options` are those of a
    CSV file. Raises SourceError and UsageError.
    """
    known = ImageNames(images)
    table = read_label_table(file, partial(is_data, known), options)
    if len(table.columns) < 2:
        raise SourceError(f"--labels {file} has only one column; it needs one for image paths and one for labels")
    if not len(table):
        raise SourceError(f"--labels {file} has no rows; there is nothing to label the images with")
    key = _find_key(known, table)
    others = [name for name in table.columns if name != key]
    check_columns({"label": names or (), **roles}, file, others)
    wanted = *roles.values(), [name for name in optional if name in others]
    aside = list(dict.fromkeys(name for some in wanted for name in some))
    if both := [name for name in names or () if name in aside]:
        raise UsageError(f"--label: the column '{both[0]}' of {file} already has another role; give it only one")
    usual = [name for name in others if name not in aside and name not in table.index][:1]
    labels = [] if names is None else list(names) or usual
    rows, left, several = _match_rows(images, known, table.columns[key], file)
    errors = dict[int, str]()
    if names is not None or roles:
        errors = dict.fromkeys(where(rows.is_null()), f"{file} has no {'row' if names is None else 'label'} for it")
    columns = {name: table.columns[name].take(rows) for name in labels}
    for name, values in columns.items():
        for number in where(pc.or_(values.is_null(), pc.equal(values, "")).fill_null(True)):
            errors.setdefault(number, f"its label '{name}' in {file} is empty")
    taken = {name: table.columns[name].take(rows) for name in aside}
    with_gaps = {name: pc.if_else(pc.equal(one, ""), pa.scalar(None, pa.string()), one) for name, one in taken.items()}
    return Labels(columns, with_gaps, errors, left, several=several)


def check_columns(wanted: Mapping[str, Sequence[str]], place: str, known: Sequence[str]) -> None:
    """Raise UsageError if a column that an option names does not exist."""
    for option, columns in wanted.items():
        for name in columns:
            if name not in known:
                raise UsageError(f"--{option}: {place} has no column '{name}'{suggest(name, known)}")


def is_data(known: ImageNames, rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row of a table is no header: it names an image, in the same way as the rows below it."""
    (first, *below), width = rows, len(rows[0])
    matches = known.find(pa.array(first, pa.string()))
    for place in np.flatnonzero(matches.images != NONE).tolist():
        fields = pa.array([row[place] for row in below if len(row) == width], pa.string())
        as_well = np.mean(known.find(fields).ways == matches.ways[place]) > 0.5 if len(fields) else True
        if as_well and (matches.ways[place] == BY_NAME or any(letter.isdigit() for letter in first[place])):
            return True
    return False


def _find_key(known: ImageNames, table: LabelTable) -> str:
    """The column that names the images: the one with the most different values that do. A whole name weighs more than
    one without its suffix, which may be any number, and the index of pandas less than other columns."""
    rows = pa.array(np.unique(np.linspace(0, len(table) - 1, SAMPLE_ROWS).astype(np.int64)))
    scores = {}
    for name, texts in table.columns.items():
        ways = known.find(pc.unique(texts.take(rows))).ways
        scores[name] = (4 * (ways == BY_NAME).sum() + (ways == BY_STEM).sum()) / (2 if name in table.index else 1)
    return max(scores, key=lambda name: scores[name])


def _match_rows(
    images: ImageList, known: ImageNames, keys: pa.Array, file: str
) -> tuple[pa.Array, tuple[str, ...], tuple[str, ...]]:
    """The row of each image, null if it has none; the keys that name no image; and what is said of those that fit
    several. Raises SourceError for an image with two rows, and if no key names an image."""
    found = known.find(keys).images
    numbers = np.flatnonzero(found >= 0)
    if not len(numbers) and not (found == SEVERAL).any():
        example, path = keys[0].as_py(), images.table["path"][0].as_py()
        raise SourceError(
            f"--labels {file}: none of its {len(keys):,} rows names an image; it has '{example}', but the images are "
            f"called '{path}'; check the sources, or write the paths of the images in the first column"
        )
    rows = np.full(len(images), -1)
    rows[found[numbers[::-1]]] = numbers[::-1]  # so that the first row of several stays
    if len(again := numbers[rows[found[numbers]] != numbers]):
        first, second = keys[int(rows[found[again[0]]])].as_py(), keys[int(again[0])].as_py()
        both = f"'{first}' is" if first == second else f"'{first}' and '{second}' are the same image, which is"
        raise SourceError(f"{file}: {both} listed more than once; keep only one of its rows")
    several = [keys[number].as_py() for number in np.flatnonzero(found == SEVERAL).tolist()]
    shown = tuple(f"'{key}' fits {' and '.join(known.fitting(key))}" for key in several[:1]) + tuple(several[1:])
    left = tuple(keys.filter(pa.array(found == NONE)).fill_null("").to_pylist())
    return pa.array(rows, pa.int64(), mask=rows < 0), left, shown


def as_dates(texts: pa.Array) -> pa.Array:
    """ISO 8601 dates as timestamps in seconds, null where one is missing; other texts unchanged."""
    try:
        return texts if texts.null_count == len(texts) else texts.cast(pa.timestamp("s"))
    except pa.ArrowInvalid:
        return texts


def where(mask: pa.Array) -> list[int]:
    """The indices at which a mask is true."""
    found: list[int] = np.flatnonzero(mask.to_numpy(zero_copy_only=False)).tolist()
    return found
