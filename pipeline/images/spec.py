"""The specification of an image dataset, decided before anything is written: which image becomes which row."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...storage.errors import SourceError, UsageError
from ...storage.format.arrays import SideColumn
from ...storage.format.dense import DenseTarget
from ...storage.format.images import ImageForm
from ...storage.format.layout import Layout, choose_layout
from ...storage.format.schema import Schema
from ...storage.places.json_files import as_json
from ...storage.random import shuffled_places
from ..csv.options import CsvOptions
from ..target.beside import DAY, encode_beside, side_columns, widened
from ..target.labels import TextFindings, class_codes
from .columns import FEATURES, describe_features, encode_features, feature_names
from .labels.encode import encode_labels
from .labels.find import (
    FOLDER,
    Labels,
    as_dates,
    label_by_file,
    label_by_folder,
    label_by_pattern,
    label_by_samples,
)
from .listing.archives import CLASS, TEXT
from .listing.list import ImageList
from .listing.splits import SPLIT, empty_classes, read_splits, refuse_splits
from .targets.find import TargetRequest, Targets

KEY, MASK, TARGET = "path", "mask", "target"
FITTING = (0, 0)  # the size of a form that the images are to decide
LATER = {
    **{"split_folders": False, "label_pattern": None, "csv": CsvOptions().to_json(), "after": None},
    **{"masks": None, "mask_ignore": (), "targets": None, "encoded": False},
}
LATER_IN_FORM = {"pixel_range": None, "strict": False}
"""The fields that requests of earlier versions do not have, and their defaults."""


@dataclass(frozen=True)
class ImageRequest:
    """What the user asked for.

    The images decide the size of samples if that of `form` is `FITTING`. `labels` is a table of paths and labels,
    `label` its label columns, and `roles` its other columns by role; those that models get have the role "feature" or
    "category". Without it, the images' folders are their classes, or what the regular expression `label_pattern` finds
    in their names, or files beside them in a WebDataset shard. `shuffle` is the seed of their order, None to sort them
    by path. With `split_folders`, folders such as train are folds. `csv` is the dialect of a CSV file of labels.
    `masks` is where the masks are, and `mask_ignore` their pixel values that do not count; `targets` is where the
    targets are if they are images. If it is `encoded`, the files are stored instead of their pixels. `listing` is the
    digest of the lists of images and their targets. `after` is the layout of the dataset that the images are appended
    to; its schema is `like`, and must be matched exactly.
    """

    sources: tuple[str, ...]
    form: ImageForm
    labels: str | None = None
    label: tuple[str, ...] = ()
    roles: dict[str, tuple[str, ...]] = field(default_factory=dict)
    task: str = "auto"
    labelled: bool = True
    on_error: str = "stop"
    shuffle: int | None = 0
    like: Schema | None = None
    listing: str = ""
    split_folders: bool = False
    label_pattern: str | None = None
    csv: CsvOptions = field(default_factory=CsvOptions)
    after: Layout | None = None
    masks: str | None = None
    mask_ignore: tuple[int, ...] = ()
    targets: str | None = None
    encoded: bool = False

    def __post_init__(self) -> None:
        if self.shuffle is not None and not 0 <= self.shuffle < 2**63:
            raise UsageError(f"--shuffle {self.shuffle}: the seed must be between 0 and 2⁶³ - 1, or none")

    @property
    def finds_labels(self) -> bool:
        """Whether the images have labels that are found by their names, folders or a table: no masks or images."""
        return self.labelled and self.masks is None and self.targets is None

    @property
    def wanted_targets(self) -> TargetRequest:
        """What the files of targets are."""
        dense = self.like.dense if self.like else None
        if dense is None or self.masks is None:
            return TargetRequest(self.masks is not None, self.mask_ignore)
        return TargetRequest(True, tuple(map(int, dense.ignored)), tuple(map(int, dense.classes)))

    @property
    def scored_by(self) -> tuple[str, ...]:
        """The labels in training by which predictions of the images are scored, as far as they are known."""
        return self.like.labels if self.like and not self.labelled else ()

    def to_json(self) -> dict[str, Any]:
        """As JSON, without the fields that earlier versions did not have, unless they are set."""
        value = {
            **asdict(self),
            "like": self.like and as_json(self.like),
            "csv": self.csv.to_json(),
            "after": self.after and self.after.to_json(),
        }
        for form in (value["form"], ((value["like"] or {}).get("image") or {})):
            for name in [name for name, usual in LATER_IN_FORM.items() if name in form and form[name] == usual]:
                del form[name]
        return {name: one for name, one in value.items() if name not in LATER or one != LATER[name]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        return cls(
            **{
                **value,
                "sources": tuple(value["sources"]),
                "label": tuple(value["label"]),
                "mask_ignore": tuple(value.get("mask_ignore", ())),
                "roles": {role: tuple(names) for role, names in value["roles"].items()},
                "form": ImageForm.from_json(value["form"]),
                "csv": CsvOptions.model_validate(value.get("csv", {})),
                "like": value["like"] and Schema.from_json(value["like"]),
                "after": Layout.from_json(value["after"]) if value.get("after") else None,
            }
        )


@dataclass(frozen=True)
class ImageConversionSpec:
    """What the conversion writes: the images at positions `order` of the list, (rows,) int64, with their labels, the
    columns that models get beside them, (images, columns) float64, and the values of their side columns, (images,), by
    the names of their arrays; and the files of their `targets` if these are masks or images.

    `errors` are the skipped images by their index in the list, with the reason.
    """

    layout: Layout
    schema: Schema
    request: dict[str, Any]
    images: ImageList
    y: np.ndarray
    order: np.ndarray
    errors: Mapping[int, str] = field(default_factory=dict)
    beside: Mapping[str, pa.Array] = field(default_factory=dict)
    table: np.ndarray | None = None
    targets: Targets | None = None

    @property
    def skipped(self) -> int:
        """The number of skipped images."""
        return len(self.errors)

    @property
    def skipped_rows(self) -> tuple[int, ...]:
        """None: images have paths, and no numbers."""
        return ()

    @property
    def first_row(self) -> int:
        """The id of the first row: 0 unless the images are appended to a dataset."""
        return int((self.request.get("after") or {}).get("rows", 0))

    @property
    def source_bytes(self) -> int:
        """The encoded size of all images in bytes."""
        return int(pc.sum(self.images.table["length"]).as_py())


def specify_images(request: ImageRequest, images: ImageList, targets: Targets | None = None) -> ImageConversionSpec:
    """Specify the dataset before it is known which images cannot be decoded. Raises SourceError for images without a
    label or a target, unless they are skipped, and if no image remains."""
    labels = _find_labels(request, images)
    if targets:
        labels = replace(labels, errors={**targets.errors, **labels.errors})
    if labels.several and request.on_error == "stop":
        more = f" (and {len(labels.several) - 1:,} more)" if len(labels.several) > 1 else ""
        raise SourceError(
            f"{request.labels}: {labels.several[0]}{more}; write more of the path, or skip such rows with --on-error "
            "skip"
        )
    if labels.unmatched and request.labelled and request.on_error == "stop":
        raise SourceError(
            f"{request.labels} lists {len(labels.unmatched):,} images that do not exist; the first is "
            f"'{labels.unmatched[0]}'; add their folder to the sources, or skip them with --on-error skip"
        )
    if request.like and request.after:
        labels = replace(labels, errors={**_unknown_classes(labels, request.like), **labels.errors})
    if len(invalid := labels.errors | images.errors) == len(images):
        raise _none_valid(images, invalid)
    if invalid and request.on_error == "stop":
        raise _invalid(images, invalid)
    of_labels, y = encode_labels(labels, request.task, request.like)
    if targets:
        of_labels = _with_targets(of_labels, request, targets)
    features, table, errors = _encode_features(request, labels)
    paths = images.table["path"]
    roles = {role: names for role, names in request.roles.items() if role not in FEATURES}
    if request.split_folders:
        roles["fold"] = (SPLIT,)
    beside = {name: as_dates(labels.others[name]) for names in roles.values() for name in names}
    beside |= _labels_to_score_by(request, images, labels)
    columns = _describe_beside(beside)
    schema = replace(
        of_labels,
        sample_shape=request.form.sample_shape,
        x_dtype=request.form.dtype,
        key=KEY,
        key_width=pc.max(pc.binary_length(paths)).as_py(),
        image=request.form,
        encoded=request.encoded,
        table=features,
        roles=roles,
        beside=columns,
    )
    if request.like and request.after:
        schema = matched_schema(request.like, schema, images, labels)
        columns = schema.beside
    count = len(images)
    order = np.arange(count)
    if request.shuffle is not None:
        order = np.argsort(shuffled_places(order, count, request.shuffle))
    layout = request.after and replace(request.after, rows=count, parts=())
    layout = layout or choose_layout(count, schema.row_bytes)
    arrays = {column.array: beside[column.name] for column in columns}
    spec = ImageConversionSpec(
        layout, schema, request.to_json(), images, y, order, beside=arrays, table=table, targets=targets
    )
    errors |= invalid
    return skip_images(spec, errors) if errors else spec


def _unknown_classes(labels: Labels, like: Schema) -> dict[int, str]:
    """The images of classes that the dataset does not have, with the reason."""
    if not like.classes or tuple(labels.columns) != like.labels:
        return {}
    values = labels.columns[like.labels[0]]
    unknown = class_codes(values, pa.array(like.classes)).is_null().to_numpy(zero_copy_only=False)
    reason = "the class '{}' does not occur in the dataset, to which a conversion of all images together would add it"
    return {number: reason.format(values[number].as_py()) for number in np.flatnonzero(unknown).tolist()}


def matched_schema(schema: Schema, found: Schema, images: ImageList, labels: Labels) -> Schema:
    """The schema of a dataset, for images that are appended to it; their paths and texts may be longer. Raises
    SourceError for images that the dataset cannot store."""
    if found.labels != schema.labels:
        raise SourceError(
            f"{images.name(0)}: the images have no '{schema.labels[0]}', unlike the dataset; add the labels"
        )
    values = dict[str, pa.Array]()
    for column in schema.beside:
        if column.name not in labels.others:
            raise SourceError(
                f"{images.name(0)}: the images have no column '{column.name}', unlike the dataset; add it"
            )
        values[column.name] = as_dates(labels.others[column.name])
    texts = {KEY: images.table["path"], **{name: found for name, found in values.items() if found.type == pa.string()}}
    schema = widened(schema, {name: pc.max(pc.binary_length(found)).as_py() or 0 for name, found in texts.items()})
    for column in schema.beside:
        if reason := unfit(column, values[column.name]):
            wrong = (n for n in range(len(images)) if unfit(column, values[column.name][n : n + 1]))
            raise SourceError(
                f"{images.name(next(wrong))}: {reason}, unlike in the dataset; fix it, or convert all images together "
                "into a new dataset"
            )
    return schema


def unfit(column: SideColumn, values: pa.Array) -> str:
    """Why a side column cannot store some values; empty if it can."""
    try:
        encode_beside(column, values)
    except ValueError as reason:
        return str(reason)
    return ""


def _with_targets(schema: Schema, request: ImageRequest, targets: Targets) -> Schema:
    """A schema whose targets are masks or images."""
    form, ignored = request.form, request.wanted_targets.ignored
    if request.masks is None:
        dense = DenseTarget(form.sample_shape)
        return replace(schema, labels=(TARGET,), task="regression", y_dtype=form.dtype, dense=dense)
    dense = DenseTarget(form.size, tuple(map(str, targets.classes)), tuple(map(str, ignored)))
    return replace(schema, labels=(MASK,), task="segmentation", y_dtype="uint8", dense=dense)


def _encode_features(request: ImageRequest, labels: Labels) -> tuple[Schema | None, np.ndarray | None, dict[int, str]]:
    """The schema and the values of the columns that models get, and the images with invalid ones; see
    `encode_features`."""
    names = feature_names(request.roles, request.like)
    columns = {name: labels.others[name] for name in names}
    if not columns:
        return None, None, {}
    valid = np.ones(len(columns[names[0]]), bool)
    valid[list(labels.errors)] = False
    found = {name: texts.filter(pa.array(valid)) for name, texts in columns.items()}
    schema = request.like.table if request.like else describe_features(found, request.roles.get("category", ()))
    assert schema
    return schema, *encode_features(columns, schema, encode_unknown=not request.labelled)


def _describe_beside(beside: Mapping[str, pa.Array]) -> tuple[SideColumn, ...]:
    """How side columns, texts or timestamps, are stored."""
    dates = {name: values for name, values in beside.items() if pa.types.is_timestamp(values.type)}
    whole = {name: not np.any(values.cast(pa.int64()).drop_null().to_numpy() % DAY) for name, values in dates.items()}
    units = {name: "days" if days else "seconds" for name, days in whole.items()}
    texts = {name: TextFindings.of(values) for name, values in beside.items() if name not in dates}
    return side_columns(tuple(beside), units, texts)


def _find_labels(request: ImageRequest, images: ImageList) -> Labels:
    """The labels and the other columns of all images. Images that cannot be read have none."""
    classes = images.table["class"].combine_chunks()
    if not request.split_folders:
        return _labels_of(request, images, classes)
    folds, classes, errors = read_splits(images)
    labels = _labels_of(request, images, classes)
    return replace(labels, others={**labels.others, SPLIT: folds}, errors={**labels.errors, **errors})


def _labels_of(request: ImageRequest, images: ImageList, classes: pa.Array) -> Labels:
    features = feature_names(request.roles, request.like)
    roles = request.roles | ({"feature": features} if features else {})
    if request.labels:
        names = request.label if request.finds_labels else None
        return label_by_file(images, request.labels, names, roles, request.csv, optional=request.scored_by)
    named, found = request.label if request.finds_labels else (), Labels()
    if named or roles:
        if images.table["beside"].null_count == len(images):
            raise _no_columns(request, features)
        found = label_by_samples(images, named, roles)
    if named or not request.finds_labels:
        return found
    own = _label_by_names(request, images, classes)
    return replace(own, others=found.others, errors={**found.errors, **own.errors})


def _labels_to_score_by(request: ImageRequest, images: ImageList, labels: Labels) -> dict[str, pa.Array]:
    """The labels of images that are to be predicted, as far as they are known: in a table that has columns with the
    names of the labels in training, or from folders if they were the classes."""
    known = request.scored_by
    if request.labels:
        found = {name: labels.others[name] for name in known if name in labels.others}
        if known and not found and not labels.others:
            raise UsageError(
                f"--table {request.labels}: the run's models take no columns beside images, and it has no column "
                f"'{known[0]}' to score by; remove the option"
            )
        return found
    classes = images.table["class"].combine_chunks()
    return {known[0]: classes} if known in ((FOLDER,), (CLASS,)) and classes.null_count < len(classes) else {}


def _label_by_names(request: ImageRequest, images: ImageList, classes: pa.Array) -> Labels:
    """The labels of images without a table: by a pattern, by the files beside them in a shard, or by their folders."""
    if request.label_pattern is not None:
        return label_by_pattern(images, request.label_pattern)
    if classes.null_count == len(images) and pc.any(pc.match_substring(images.table["beside"], f'"{TEXT}": ')).as_py():
        return label_by_samples(images, (TEXT,), {})
    if not request.split_folders:
        refuse_splits(images)
    return label_by_folder(classes, empty_classes(images, request.split_folders))


def _no_columns(request: ImageRequest, features: Sequence[str]) -> UsageError:
    """The error for options that name columns of images which have none."""
    if features and request.like:
        return UsageError(
            f"--like: its images have columns beside them ({', '.join(features)}); name the CSV file that has those of "
            "these images with --labels"
        )
    option = "label" if request.label and request.labelled else next(iter(request.roles))
    return UsageError(f"--{option} selects columns of the CSV file given with --labels; set --labels too")


def _none_valid(images: ImageList, errors: Mapping[int, str]) -> SourceError:
    first = min(errors)
    return SourceError(
        f"none of the {len(images):,} images is valid; the first error is {images.name(first)}: {errors[first]}; fix "
        "the images or their labels"
    )


def _invalid(images: ImageList, errors: Mapping[int, str]) -> SourceError:
    first = min(errors)
    more = f" (and {len(errors) - 1:,} more)" if len(errors) > 1 else ""
    return SourceError(
        f"{images.name(first)}: {errors[first]}{more}; fix or remove it, or skip such images with --on-error skip"
    )


def skip_images(spec: ImageConversionSpec, errors: Mapping[int, str]) -> ImageConversionSpec:
    """The spec without the images in `errors`, which maps their index in the list to the reason.

    The last images of the order take their positions, so that all other rows keep theirs. Raises SourceError if
    images must not be skipped, or if none would remain.
    """
    if spec.request["on_error"] == "stop":
        raise _invalid(spec.images, errors)
    rows = spec.layout.rows - len(errors)
    if not rows:
        raise _none_valid(spec.images, errors)
    bad = np.isin(spec.order, list(errors))
    order = spec.order[:rows].copy()
    order[bad[:rows]] = spec.order[rows:][~bad[rows:]]
    layout = replace(spec.layout, rows=rows)
    return replace(spec, layout=layout, order=order, errors={**spec.errors, **errors})
