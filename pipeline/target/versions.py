"""Versions of a dataset as a target: the manifest of the next one, its commit, and the removal of the newest ones."""

from dataclasses import asdict, replace
from math import prod
from typing import Any

import numpy as np

from ...storage.blocks.shards import PARTS, part_folder
from ...storage.dataset import Dataset, open_dataset
from ...storage.errors import ConflictError, SourceError, UsageError
from ...storage.format.layout import Layout
from ...storage.format.manifest import MANIFEST, WORK, Manifest
from ...storage.format.schema import Schema
from ...storage.format.statistics import Statistics
from ...storage.moments.moments import Moments
from ...storage.places.json_files import content_hash, create_json, read_json, to_json
from ...storage.places.place import Place
from ...storage.versions import VERSIONS, VersionPart, manifest_of, newest_version
from .beside import widened
from .claim import SPEC


def next_folder(dataset: Dataset) -> str:
    """The folder of the part that the next version of a dataset adds, relative to the dataset."""
    return part_folder(len(dataset.layout.parts) or 1).rstrip("/")


def grown(dataset: Dataset, part: Dataset) -> Manifest:
    """The manifest of a dataset's next version, which also has the rows of `part`.

    Raises SourceError unless these have the same arrays and blocks.
    """
    one, other = dataset.manifest, part.manifest
    before, added = one.layout, other.layout
    widths = {column.name: column.width for column in part.schema.named if column.kind == "text"}
    shapes = [
        (layout.block_rows, layout.shard_blocks, manifest.behind, widened(schema, widths))
        for layout, manifest, schema in ((before, one, dataset.schema), (added, other, part.schema))
    ]
    if shapes[0] != shapes[1]:
        raise SourceError(f"{part.place} was not converted to be appended to {dataset.place}; remove it")
    rows, skipped = before.rows + added.rows, dataset.left_out
    own = VersionPart(
        next_folder(dataset),
        added.rows,
        added.shards,
        part.left_out,
        other.index,
        part.identity,
        part.versions[0].sources,
        part.schema.widths,
    )
    there = dataset.versions
    if len(there) == 1:
        there = (replace(there[0], widths=dataset.schema.widths),)
    versions = (*there, own)
    left_out_rows = [before.rows + skipped + row for row in other.details.get("left_out_rows", ())]
    left_out_rows = [*one.details.get("left_out_rows", ()), *left_out_rows]
    sources = [*dataset.request["sources"], *part.request["sources"]]
    counts = np.add(one.details["class_counts"], other.details["class_counts"])
    details = {
        **{name: value for name, value in one.details.items() if name != "left_out_rows"},
        "schema": other.details["schema"],  # which may have longer texts
        "statistics": merge_statistics(dataset, part),
        "request": {**dataset.request, "sources": sources},
        "class_counts": counts.astype(int).tolist(),
        "left_out": skipped + part.left_out,
        **({"left_out_rows": left_out_rows} if left_out_rows else {}),
        "versions": [asdict(version) for version in versions],
        "earlier": [*dataset.earlier, dataset.identity],
    }
    layout = Layout(rows, before.block_rows, before.shard_blocks, (*(before.parts or (before.rows,)), added.rows))
    index = content_hash(to_json([version.index for version in versions]))
    return Manifest("dataset", layout, other.arrays, (*one.shards, *other.shards), details, index, one.behind)


def merge_statistics(one: Dataset, other: Dataset) -> Statistics:
    """The statistics of the rows of both. Counts and ranges are exact; means and standard deviations are merged from
    those that are stored, so their last digits may differ from a conversion of all rows at once."""
    rows = len(one), len(other)
    found = one.statistics, other.statistics
    schema: Schema = one.schema
    columns = prod(schema.sample_shape[1:])
    # A missing category has a code, which counts like all others.
    numbers = np.array([columns > 1 or name not in schema.categories for name in schema.features] or [True])
    features = [_features(statistics, count * columns, numbers) for statistics, count in zip(found, rows, strict=True)]
    missing = [first + second for first, second in zip(found[0].missing, found[1].missing, strict=True)]
    targets = table = None
    if found[0].y_mean:
        labels = [_moments(s.y_mean, s.y_std, np.float64(n)) for s, n in zip(found, rows, strict=True)]
        targets = labels[0].merged(labels[1])
    if found[0].table and found[1].table:
        beside = [_features(found[0].table, rows[0]), _features(found[1].table, rows[1])]
        table = Statistics.of(beside[0].merged(beside[1]), None)
    return Statistics.of(features[0].merged(features[1]), targets, missing, table=table)


def _features(statistics: Statistics, values: int, numbers: np.ndarray | bool = True) -> Moments:
    """The moments of channels with so many values each, missing ones included; these are NaN in `numbers`."""
    missing = np.array(statistics.missing, np.float64) * numbers
    moments = _moments(statistics.mean, statistics.std, values - missing)
    some = moments.count > 0
    low, high = (np.array(ends, np.float64) for ends in (statistics.minimum, statistics.maximum))
    return replace(moments, minimum=np.where(some, low, np.inf), maximum=np.where(some, high, -np.inf), missing=missing)


def _moments(mean: tuple[float, ...], std: tuple[float, ...], count: Any) -> Moments:
    means, counts = np.array(mean, np.float64), np.broadcast_to(count, len(mean)).astype(np.float64)
    nothing = np.zeros(len(mean))
    squares = np.square(np.array(std, np.float64)) * counts
    return Moments(counts, means, nothing, squares, nothing + np.inf, nothing - np.inf, nothing)


def commit_version(dataset: Dataset, part: Dataset) -> Dataset:
    """Commit the next version of a dataset, with the rows of a part that is complete.

    Raises ConflictError if another process has committed another one in the meantime.
    """
    manifest, target = grown(dataset, part), manifest_of(dataset.place, dataset.version + 1)
    part.place.sync_folders()
    if not create_json(target, manifest) and target.read_bytes() != to_json(manifest):
        raise ConflictError(
            f"{dataset.place} has got version {dataset.version + 1} from another process in the meantime; run the "
            "command again"
        )
    return open_dataset(target)


def unfinished_request(place: Place) -> dict[str, Any] | None:
    """The request of an append that was interrupted, whose part is at `place`; None if there is none."""
    for path in (place / MANIFEST, place / WORK / SPEC):
        try:
            value = read_json(path)
        except FileNotFoundError:
            continue
        found: dict[str, Any] = value["details"]["request"] if path.name == MANIFEST else value["request"]
        return found
    return None


def remove_versions(root: Place, keep: int | None = None) -> list[int]:
    """Remove the versions after `keep`, the newest first, and what an interrupted append has left. By default only the
    latter. Returns the numbers of the versions that were removed.

    Raises UsageError if there is no version `keep`, and ConflictError if a process appends to the dataset.
    """
    newest = newest_version(root)
    keep = newest if keep is None else keep
    if not 1 <= keep <= newest:
        raise UsageError(f"--keep {keep}: {root} has {_numbers(newest)}; choose one of them")
    left = root / next_folder(open_dataset(manifest_of(root, newest)))
    remove_part(left, root)
    removed = list(range(newest, keep, -1))
    for version in removed:
        path = manifest_of(root, version)
        folder = root / open_dataset(path).versions[-1].folder
        path.remove()  # first: what an interrupted removal leaves is not part of any version
        remove_part(folder, root)
    (root / PARTS).remove_if_empty()
    (root / VERSIONS).clean_temporaries()
    (root / VERSIONS).remove_if_empty()
    return removed


def _numbers(newest: int) -> str:
    return f"versions 1 to {newest}" if newest > 1 else "only version 1"


def remove_part(folder: Place, root: Place) -> None:
    """Remove the folder of a part, unless a process writes to it."""
    if not folder.is_dir():
        return
    with (folder / WORK).lock(f"{root} is being appended to by another process; wait for it to finish"):
        folder.remove_contents(keep=WORK)
    folder.remove_tree()
