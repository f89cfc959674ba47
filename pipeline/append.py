"""Append the rows of new sources to a dataset, as its next version.

The new rows are converted like those of the dataset, into a part of their own, by the same code that converts a whole
dataset; so this resumes after a kill like any conversion. When the part is complete, the manifest of the next version
is created, which commits it. Nothing of the earlier versions is touched.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..storage.dataset import Dataset
from ..storage.errors import ConflictError, RowError, SourceError, UsageError
from ..storage.format.layout import Layout, choose_layout
from ..storage.places.json_files import same_json
from ..storage.places.place import Place
from ..storage.tasks import Executor, Progress
from .images.convert import Tell, convert_images
from .images.spec import ImageRequest
from .tables.convert import convert
from .tables.sources import find_sources
from .tables.spec.request import NO_CODE, ConvertRequest
from .target.options import OnError
from .target.versions import commit_version, next_folder, remove_part, unfinished_request

SMALL = 8  # times smaller than usual are blocks that make reading slow


def append_request(
    dataset: Dataset,
    sources: Sequence[str],
    on_error: OnError | None = None,
    labels: str | None = None,
    masks: str | None = None,
    targets: str | None = None,
) -> ConvertRequest | ImageRequest:
    """The request to convert sources like a dataset, for rows that follow its own.

    `on_error` and `labels`, the table of the labels of images, are those of the dataset unless given; `masks` or
    `targets` are where those of the new images are. Raises SourceError if a dataset of an earlier format cannot be
    continued, UsageError for masks or targets that are missing, or that the dataset does not have.
    """
    for option, given, kind in (("masks", masks, "masks"), ("targets", targets, "images")):
        if given and dataset.schema.target_name != kind:
            raise UsageError(f"--{option} {given}: {dataset.place} has no {option}; remove the option")
        if not given and dataset.schema.target_name == kind:
            raise UsageError(f"{dataset.place} has {option}; name those of the new images with --{option}")
    if dataset.manifest.index is None:
        raise SourceError(
            f"{dataset.place} was written by an earlier version, to whose format nothing can be appended; convert its "
            "sources again"
        )
    if "sources" not in dataset.request or "like" not in dataset.request:
        raise SourceError(f"{dataset.place} was not converted from tables or images, so nothing can be appended to it")
    if dataset.windows:
        raise SourceError(
            f"{dataset.place} has windows over time series, to which new rows would add windows over earlier rows; "
            "convert all sources again"
        )
    schema, layout = dataset.schema, dataset.layout
    after = Layout(layout.rows, layout.block_rows, layout.shard_blocks)
    if schema.image:
        images = ImageRequest.from_json(dataset.request)
        return replace(
            images,
            sources=tuple(sources),
            labels=labels or images.labels,
            masks=masks,
            targets=targets,
            on_error=on_error or images.on_error,
            like=schema,
            listing="",
            after=after,
        )
    tables = ConvertRequest.from_json(dataset.request)
    known = {*schema.features, *schema.labels, *(column.name for column in schema.named)}
    return replace(
        tables,
        sources=find_sources(sources, known),
        ignore=(),  # other columns than those of the dataset are ignored in any case
        on_error=on_error or tables.on_error,
        like=schema,
        after=after,
        tokens=None,  # the column, the tokenizer and the length are those of `like`
        tokenizer=None,
        length=None,
        code={},
    )


def appended_version(dataset: Dataset, request: ConvertRequest | ImageRequest, tell: Tell) -> int | None:
    """The version that consists of exactly these sources; None if they are new.

    Raises ConflictError if some of them are part of the dataset already. A table that was replaced by another one of
    the same name is new.
    """
    there, given = list(dataset.request["sources"]), _sources_of(request)
    first, changed = 0, list[str]()
    for number, part in enumerate(dataset.versions, 1):
        own = there[first : first + len(part.sources)]
        first += len(part.sources)
        if number > 1 and same_json(own, given):
            return number
        for source in given:
            if any(same_json(source, one) for one in own):
                raise ConflictError(
                    f"{_path(source)} is already part of {dataset.place}, since version {number}; name only new sources"
                )
        changed += [_path(source) for source in given if _path(source) in part.sources]
    for path in dict.fromkeys(changed):
        tell("warning", f"{path} has changed since its rows became part of {dataset.place}; all of its rows are added")
    return None


def _sources_of(request: ConvertRequest | ImageRequest) -> list[Any]:
    if isinstance(request, ImageRequest):
        return list(request.sources)
    return [source.to_json() for source in request.sources]


def _path(source: Mapping[str, Any] | str) -> str:
    return source if isinstance(source, str) else str(source["path"])


def append_rows(
    dataset: Dataset, request: ConvertRequest | ImageRequest, executor: Executor, progress: Progress, tell: Tell
) -> Dataset:
    """Convert the rows of a request and commit them as the next version of a dataset, or resume an interrupted append
    of the same sources.

    Raises SourceError for rows that do not fit the dataset, and ConflictError if an append of other sources is
    unfinished; nothing is committed then.
    """
    place = dataset.place / next_folder(dataset)
    _check_unfinished(dataset, place, request)
    try:
        if isinstance(request, ImageRequest):
            part = convert_images(request, place, executor, progress, tell=tell)
        else:
            tokens = dataset.schema.tokens
            code = tokens.code_in(dataset.place) if tokens else NO_CODE
            part = convert(request, place, executor, progress, code=code)
    except SourceError as error:  # the sources have to change, so what was written is of no use
        remove_part(place, dataset.place)
        raise (_with_remedy(error) if isinstance(error, RowError) else error) from None
    except ConflictError as error:
        discard = f"repeat that command, or discard it with 'foldstream prune {dataset.place}'"
        raise (ConflictError(error.problem, discard) if error.remedy else error) from None
    finally:
        place.parent.remove_if_empty()
    grown = commit_version(dataset, part)
    usual = choose_layout(len(grown), grown.schema.row_bytes, padded=grown.schema.tokens is not None).block_rows
    if usual >= SMALL * grown.layout.block_rows:
        tell(
            "warning",
            f"{dataset.place} has blocks of {grown.layout.block_rows:,} rows, which suited its first version; "
            f"{len(grown):,} rows would have blocks of {usual:,}, which are read several times as fast; to get them, "
            "convert all sources together into a new dataset",
        )
    return grown


def _check_unfinished(dataset: Dataset, place: Place, request: ConvertRequest | ImageRequest) -> None:
    """Raise ConflictError if an append of other sources was interrupted."""
    there, own = unfinished_request(place), request.to_json()
    if there is not None and not same_json({**there, "listing": ""}, {**own, "listing": ""}):
        paths = [_path(source) for source in there["sources"]]
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        raise ConflictError(
            f"{dataset.place} has an unfinished append of {paths[0]}{more}; repeat that command to complete it, or "
            f"discard it with 'foldstream prune {dataset.place}'"
        )


def _with_remedy(error: RowError) -> RowError:
    """The error of a row with remedies that an append has."""
    remedy = "fix the row, skip such rows with --on-error skip, or convert all sources together into a new dataset"
    place = error.source, error.line, error.columns, error.reason, remedy, error.unit
    others = [RowError(one.source, one.line, one.columns, one.reason, "", one.unit) for one in error.others]
    return RowError(*place, others)
