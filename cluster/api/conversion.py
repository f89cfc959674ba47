"""Conversion and verification, in this process or on a Dask cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from ...pipeline.csv.options import CsvOptions
from ...pipeline.images.columns import FEATURES
from ...pipeline.images.convert import convert_images as write_images
from ...pipeline.images.spec import FITTING, ImageRequest
from ...pipeline.tables.convert import convert
from ...pipeline.tables.sources import find_sources
from ...pipeline.tables.spec import ConvertRequest
from ...pipeline.target.beside import roles_of
from ...pipeline.target.claim import is_converted
from ...pipeline.verify import Damage, find_damage, repair_shards
from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import UsageError, disk_in_words
from ...storage.format import ImageForm
from ...storage.options import as_texts, flag_of
from ...storage.places.locate import Location, locate
from ...storage.places.place import Place
from ..bars import showing_progress
from ..dask.executor import job_executor
from ..listener import Listener
from ..requests import ConversionRequest, ConvertImagesRequest, ConvertTablesRequest, Keywords, Session
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


def convert_sources(request: ConvertTablesRequest | ConvertImagesRequest, session: Session) -> Dataset:
    """Convert the sources of a request of either kind."""
    if isinstance(request, ConvertTablesRequest):
        return convert_tables(request, session)
    return convert_image_files(request, session)


def convert_tables(request: ConvertTablesRequest, session: Session) -> Dataset:
    """Convert the sources of a request; see `convert_csv`."""
    like = None if request.like is None else open_dataset(str(request.like)).schema
    conversion = ConvertRequest.of(find_sources(request.places, like.features if like else ()), request, like)
    root = locate(str(request.out))
    return convert_request(conversion, root, request.overwrite, session, request.dask, report_file(request))


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
    )


def absolute(place: str | Path) -> str:
    """An absolute path; a URL is returned unchanged."""
    return str(place) if "://" in str(place) else str(Path(place).absolute())


def convert_request(
    request: ConvertRequest,
    root: Place,
    overwrite: bool,
    session: Session,
    address: str | None = None,
    report: Path | None = None,
) -> Dataset:
    """Convert tables, unless this has already been done."""
    if is_converted(root, request.to_json(), overwrite):
        return open_dataset(root)
    with disk_in_words(root), job_executor(session.listener, session.client, address, report) as executor:
        return convert(request, root, executor, session.listener.progress, overwrite)


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
