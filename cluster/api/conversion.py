"""Conversion, appended rows, versions and verification, in this process or on a Dask cluster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ...pipeline.adopt.adopt import adopt as write_adopted
from ...pipeline.adopt.columns import ColumnRequest
from ...pipeline.adopt.spec import AdoptionRequest
from ...pipeline.append import append_request, append_rows, appended_version
from ...pipeline.csv.options import CsvOptions
from ...pipeline.images.columns import FEATURES
from ...pipeline.images.convert import convert_images as write_images
from ...pipeline.images.spec import FITTING, ImageRequest
from ...pipeline.tables.convert import convert
from ...pipeline.tables.sources import find_sources
from ...pipeline.tables.spec.request import NO_CODE, ConvertRequest
from ...pipeline.target.beside import roles_of
from ...pipeline.target.claim import is_converted
from ...pipeline.target.versions import remove_versions
from ...pipeline.verify import Damage, find_damage, repair_shards
from ...pipeline.windows.convert import convert_windows
from ...pipeline.windows.spec import WindowRequest
from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import UsageError, disk_in_words
from ...storage.format.images import ImageForm
from ...storage.options import as_texts, flag_of
from ...storage.places.locate import Location, locate
from ...storage.places.place import Place
from ...storage.programs.loading import load_entry, prepare_code
from ...storage.programs.own_code import Code
from ..bars import showing_progress
from ..dask.executor import job_executor
from ..listener import Listener
from ..requests import (
    AdoptRequest,
    AppendRequest,
    ConversionRequest,
    ConvertImagesRequest,
    ConvertTablesRequest,
    Keywords,
    PruneRequest,
    Session,
)
from .browse import BrowsableDataset, browsable
from .entry import entry

if TYPE_CHECKING:
    from distributed import Client


class ConvertTablesCall(ConvertTablesRequest, Keywords):
    """The keywords of `foldstream.convert_csv`."""


@entry(ConvertTablesCall, ConvertTablesRequest)
def convert_csv(request: ConvertTablesRequest, session: Session) -> BrowsableDataset:
    """Convert CSV, Parquet, Arrow, Feather and JSON lines into a dataset; CSV and JSON may be compressed (.gz, .bz2,
    .xz, .zst), and all may be in .zip and .tar archives.

    Text columns become category codes, and dates become a number of days or seconds. The same call resumes an
    interrupted conversion, and produces the same bytes.

    Args:
        sources: Files, folders, patterns or URLs.
        out: Where to write the dataset.
        label: Label column, or several target columns.
        id: Column that identifies the rows; it is stored as `key`.
        shape: Shape of a sample; by default a vector of all other columns except those in `ignore`.
        missing: "keep" stores missing values, which training fills from each fold's own training rows; "error" stops
            at the first one.
        group: Group column, whose rows stay in the same fold. Like the columns in `time`, `fold`, `weight` and `keep`,
            it is stored, but is a feature only if `feature` also names it.
        tokens: Column of lists of token ids, or of texts with a `tokenizer`: samples are sequences of these.
        tokenizer: Function that takes a list of texts and returns a list of token ids for each, or its name as
            `"path/to/file.py:function"`. The dataset keeps a copy of your code, also of the files in `asset`.
        length: Number of token ids to which sequences are truncated; by default the longest is kept.
        like: Dataset whose columns and categories are reused, e.g. for a test set.
        on_error: "stop" at the first invalid row, or "skip" invalid rows; the dataset's `left_out.csv` lists them.
        csv: `CsvOptions`, or a mapping of them, to override what is detected.
        client: Dask client; by default this process converts, with Dask threads if there is enough work.
        **options: All other options of `foldstream convert csv`; see its `--help`.

    Returns:
        The dataset.

    Raises:
        SourceError: A file or a row is invalid.
        UsageError: An option does not match the data.
        ConflictError: `out` already contains something else.

    Example:
        >>> dataset = fs.convert_csv("flowers.csv", "flowers.zarr", label="species")
        >>> dataset.schema.classes
        ('setosa', 'versicolor', 'virginica')
    """
    return browsable(convert_tables(request, session))


def convert_sources(request: ConvertTablesRequest | ConvertImagesRequest | AdoptRequest, session: Session) -> Dataset:
    """Make the dataset of a request of any kind."""
    if isinstance(request, AdoptRequest):
        return adopt_arrays(request, session)
    if isinstance(request, ConvertTablesRequest):
        return convert_tables(request, session)
    return convert_image_files(request, session)


def convert_tables(request: ConvertTablesRequest, session: Session) -> Dataset:
    """Convert the sources of a request; see `convert_csv`."""
    dataset = None if request.like is None else open_dataset(str(request.like))
    like, code = dataset.schema if dataset else None, tokenizer_code(request, dataset)
    conversion = ConvertRequest.of(find_sources(request.places, like.features if like else ()), request, like, code)
    root, report, windows = locate(str(request.out)), report_file(request), WindowRequest.of(conversion, request)
    return convert_request(windows or conversion, root, request.overwrite, session, request.dask, report, code)


def tokenizer_code(request: ConvertTablesRequest, like: Dataset | None) -> Code:
    """The files of a request's tokenizer, or of that of the dataset to match. Raises UsageError if it cannot be
    imported."""
    if like and like.schema.tokens:
        return like.schema.tokens.code_in(like.place)
    if request.tokenizer is None:
        if request.asset:
            raise UsageError(f"--asset {as_texts(request.asset)[0]}: no tokenizer reads it; remove the option")
        return Code()
    code = prepare_code([request.tokenizer], cast(tuple[str, ...], request.asset))
    load_entry("--tokenizer", request.tokenizer)
    return code


def report_file(request: ConversionRequest) -> Path | None:
    """The absolute path of Dask's report, since workers may run in another folder."""
    return None if request.report is None else Path(request.report).absolute()


class ConvertImagesCall(ConvertImagesRequest, Keywords):
    """The keywords of `foldstream.convert_images`."""


@entry(ConvertImagesCall, ConvertImagesRequest)
def convert_images(request: ConvertImagesRequest, session: Session) -> BrowsableDataset:
    """Convert images in folders, patterns and .tar or .zip archives into a dataset.

    Samples are (channels, height, width).

    The class of an image is the folder that contains it. Alternatively, `labels` is a table (CSV, Parquet, JSON lines)
    with a column that names the images; its next column, or the columns in `label`, are the labels, and those in
    `feature` and `category` are columns that models get beside the image. The paths are stored as `key`.

    Args:
        sources: Folders, patterns, archives or URLs.
        out: Where to write the dataset.
        size: Height and width of a sample, or one number for both; by default that of small images which all have one
            size, otherwise at most 64.
        csv: `CsvOptions`, or a mapping of them, to override what is detected in a CSV file of labels.
        fit: How to fit images of another aspect ratio: "pad" (with the `background`), "crop" to the center, or
            "stretch".
        shuffle: Seed for shuffling the images; None keeps them sorted by path.
        like: Dataset whose image form and classes are reused, e.g. for a test set.
        on_error: "stop" at the first image that cannot be decoded, or "skip" such images; `left_out.csv` lists them.
        client: Dask client; by default this process converts, with Dask threads if there is enough work.
        **options: All other options of `foldstream convert images`; see its `--help`.

    Returns:
        The dataset.

    Raises:
        SourceError: An image cannot be decoded, or no image was found.
        UsageError: An option does not match the data.
        ConflictError: `out` already contains something else.

    Example:
        >>> photos = fs.convert_images("photos/", "photos.zarr", size=16, fit="crop")
        >>> photos.schema.classes
        ('cat', 'dog')
    """
    return browsable(convert_image_files(request, session))


def convert_image_files(request: ConvertImagesRequest, session: Session) -> Dataset:
    """Convert the sources of a request; see `convert_images`."""
    conversion, root = image_conversion(request), locate(str(request.out))
    with (
        disk_in_words(root),
        job_executor(session.listener, session.client, request.dask, report_file(request)) as executor,
    ):
        listener = session.listener
        return write_images(conversion, root, executor, listener.progress, request.overwrite, listener.announce)


TARGETS = "masks", "targets", "label", "label_pattern"
"""Options that say what the labels or targets of images are."""


def image_conversion(request: ConvertImagesRequest) -> ImageRequest:
    """The conversion that a request asks for. Raises UsageError."""
    like = None if request.like is None else open_dataset(str(request.like)).schema
    if like and not like.image:
        raise UsageError(f"--like {request.like}: the dataset was not converted from images; choose one that was")
    if request.size and like:
        raise UsageError("--size, --like: samples have the size of those of --like; remove --size")
    if like and like.image:
        form = like.image
    else:
        form = ImageForm(
            cast(tuple[int, int], request.size or FITTING),
            request.color,
            request.fit,
            request.background,
            request.dtype,
            cast(tuple[float, float] | None, request.pixel_range),
            request.strict,
        )
    dialect = CsvOptions.model_validate(request.csv)
    if not request.labels and (given := next(iter(dialect.changed()), None)):
        raise UsageError(f"{flag_of(CsvOptions, given)} describes a CSV file given with --labels; set --labels too")
    given_targets = [name for name in TARGETS if getattr(request, name)]
    if len(given_targets) > 1 and {*given_targets} & {"masks", "targets"}:
        flags = ", ".join(flag_of(ConvertImagesRequest, name) for name in given_targets)
        raise UsageError(f"{flags}: both say what the targets are; use only one of them")
    if request.mask_ignore and (like or not request.masks):
        what = "--like already says which pixel values do not count" if like else "there are no --masks"
        raise UsageError(f"--mask-ignore: {what}; remove the option")
    for name in ("masks", "targets"):
        if like and getattr(request, name) and like.target_name != {"targets": "images"}.get(name, name):
            raise UsageError(f"--{name}, --like {request.like}: the dataset has no {name}; choose one that has some")
    if request.split_folders and request.fold:
        raise UsageError(f"--split-folders, --fold {request.fold}: both give the folds; use only one of them")
    if request.label_pattern and (given := "labels" if request.labels else "label" if request.label else ""):
        raise UsageError(f"--label-pattern, --{given}: both say what the labels are; use only one of them")
    return ImageRequest(
        tuple(map(absolute, request.places)),
        form,
        labels=None if request.labels is None else absolute(str(request.labels)),
        label=cast(tuple[str, ...], request.label),
        roles=roles_of(request)
        | {role: as_texts(getattr(request, role)) for role in FEATURES if getattr(request, role)},
        task=request.task,
        on_error=request.on_error,
        shuffle=request.shuffle,
        like=like,
        split_folders=request.split_folders,
        label_pattern=request.label_pattern,
        csv=dialect,
        masks=None if request.masks is None else absolute(str(request.masks)),
        targets=None if request.targets is None else absolute(str(request.targets)),
        mask_ignore=cast(tuple[int, ...], request.mask_ignore or ()),
        encoded=request.encoded,
    )


def absolute(place: str | Path) -> str:
    """An absolute path; a URL is returned unchanged."""
    return str(place) if "://" in str(place) else str(Path(place).absolute())


class AdoptCall(AdoptRequest, Keywords):
    """The keywords of `foldstream.adopt`."""


@entry(AdoptCall, AdoptRequest)
def adopt(request: AdoptRequest, session: Session) -> BrowsableDataset:
    """Make a dataset of arrays that stay where they are: in Zarr, HDF5 (also h5ad and NetCDF4), NPY, NPZ, Arrow,
    Parquet or Lance files.

    Labels and other columns are stored in the dataset; of the features, it only holds where their chunks are. Folds,
    training, resume and prediction are the same as for a copy, to the last bit. The files must not change: one that
    has is an error when it is read.

    Args:
        place: File or folder with the arrays.
        out: Where to write the dataset.
        x: Path of the array of features; for tables, a column of lists, or several columns of numbers.
        y: Path of the labels in `place`, another file, or `FILE:PATH`; several for several targets.
        sample_dim: Name or number of the dimension of the samples, by default the first one.
        shape: Shape of a sample, if it is not the stored one.
        copy: Copy the features too, e.g. where their chunks make reading slow.
        hash: Store the SHA-256 of every file, which `verify` compares.
        client: Dask client; by default this process does the work, with Dask threads if there is enough of it.
        **options: All other options of `foldstream adopt`; see its `--help`.

    Returns:
        The dataset.

    Raises:
        UsageError: An array does not exist, or cannot be read in place.
        SourceError: A file is damaged, or a label is missing.
        ConflictError: `out` already contains something else.

    Example:
        >>> digits = fs.adopt("digits.npz", "digits.zarr", x="images", y="labels")
        >>> digits.schema.task
        'classification'
    """
    return browsable(adopt_arrays(request, session))


def adopt_arrays(request: AdoptRequest, session: Session) -> Dataset:
    """Adopt the arrays of a request; see `adopt`."""
    root, listener = locate(str(request.out)), session.listener
    columns = ColumnRequest(as_texts(request.y), request.id, roles_of(request), request.task)
    shape = None if request.shape is None else tuple(request.shape)
    wanted = AdoptionRequest(
        absolute(str(request.place)),
        as_texts(request.x),
        request.sample_dim,
        shape,
        columns,
        request.copy,
        request.hash,
    )
    with disk_in_words(root), job_executor(listener, session.client, request.dask) as executor:
        return write_adopted(wanted, root, executor, listener.progress, request.overwrite)


def convert_request(
    request: ConvertRequest | WindowRequest,
    root: Place,
    overwrite: bool,
    session: Session,
    address: str | None = None,
    report: Path | None = None,
    code: Code = NO_CODE,
) -> Dataset:
    """Convert tables, unless this has already been done. `code` are the files of the tokenizer."""
    if is_converted(root, request.to_json(), overwrite):
        return open_dataset(root)
    with disk_in_words(root), job_executor(session.listener, session.client, address, report) as executor:
        if isinstance(request, WindowRequest):
            return convert_windows(request, root, executor, session.listener.progress, overwrite)
        return convert(request, root, executor, session.listener.progress, overwrite, code)


def append_sources(request: AppendRequest, session: Session, timed: bool = True) -> Dataset:
    """Append the sources of a request; see `foldstream.append`. The time of a source does not matter unless it is
    `timed`."""
    dataset, tell = open_dataset(str(request.dataset)), session.listener.announce
    if dataset.pinned:
        raise UsageError(f"{dataset.location}: rows are appended to the newest version; leave out '@{dataset.version}'")
    labels, masks, targets = (
        None if place is None else absolute(str(place)) for place in (request.labels, request.masks, request.targets)
    )
    if labels and not dataset.schema.image:
        raise UsageError(f"--labels {request.labels}: {dataset.place} has no images; remove the option")
    places = tuple(map(absolute, request.places)) if dataset.schema.image else request.places
    asked = append_request(dataset, places, request.on_error, labels, masks, targets)
    if isinstance(asked, ConvertRequest) and not timed:
        asked = replace(asked, sources=tuple(replace(source, mtime_ns=0) for source in asked.sources))
    if version := appended_version(dataset, asked, tell):
        tell("complete", f"these sources are version {version} of {dataset.place} already")
        return dataset
    address, file = request.dask, None if request.report is None else Path(request.report).absolute()
    with (
        disk_in_words(dataset.place),
        job_executor(session.listener, session.client, address, file) as executor,
    ):
        return append_rows(dataset, asked, executor, session.listener.progress, tell)


class PruneCall(PruneRequest, Keywords):
    """The keywords of `foldstream.prune`."""


@entry(PruneCall, PruneRequest)
def prune(request: PruneRequest, session: Session) -> list[int]:
    """Take back appends: remove the newest versions of a dataset, or only what an interrupted append has left.

    A version contains the rows of all earlier ones, so only the newest can be removed.

    Args:
        dataset: Dataset to prune.
        keep: Last version to keep. By default all are kept.

    Returns:
        The numbers of the versions that were removed.

    Raises:
        UsageError: There is no such version.
        ConflictError: Another process appends to the dataset.

    Example:
        >>> fs.append("garden.zarr", "more_flowers.csv").version
        2
        >>> fs.prune("garden.zarr", keep=1)
        [2]
    """
    dataset = open_dataset(str(request.dataset))
    if dataset.pinned:
        raise UsageError(
            f"{dataset.location}: name the dataset without a version, and the last one to keep with --keep "
            f"{dataset.version}"
        )
    removed = remove_versions(dataset.place, request.keep)
    for version in removed:
        session.listener.announce("removed", f"version {version} of {dataset.place}")
    return removed


def verify(
    dataset: Location,
    *,
    repair: bool = False,
    listener: Listener | None = None,
    progress: bool = True,
    client: Client | None = None,
) -> list[Damage]:
    """Read a whole dataset and find every damaged or missing file.

    Args:
        dataset: Dataset to check.
        repair: Convert the damaged shards again from the sources, which must be unchanged.
        listener: Notified of progress and of the dashboard's address, instead of the progress bars.
        progress: Show progress bars in a terminal or notebook.
        client: Dask client; by default this process reads, with Dask threads if there is enough work.

    Returns:
        The damaged files; with `repair`, they have been repaired.

    Raises:
        SourceError: The sources have changed, or an earlier version wrote the dataset, so it cannot be repaired.
        DatasetError: There is no dataset.

    Example:
        >>> fs.verify("flowers.zarr")
        []
    """
    opened = open_dataset(dataset)
    with showing_progress(listener, progress) as heard, job_executor(heard, client) as executor:
        damages = find_damage(opened, executor, heard.progress)
        if damages and repair:
            repair_shards(opened, damages, executor, heard.progress)
    return damages
