"""Writing a dataset: array metadata, whole shards, and the manifest that makes it exist.

A dataset is a Zarr v3 group. Metadata comes first, then each shard is written once by one task, then the manifest.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.errors import ZarrUserWarning
from zarr.storage import ObjectStore

from .errors import ConflictError
from .files import create_json, write_parts
from .format import MANIFEST, ArraySpec, Layout, Manifest, ShardEntry
from .object_path import AnyPath
from .shards import encode_shard, shard_key

BLOCKS = "blocks"


@dataclass(frozen=True)
class WrittenShard:
    """What a task reports of the shard that it wrote: its entry, and per array the CRC-32C of every block."""

    entry: ShardEntry
    checksums: dict[str, list[int]]


def create_arrays(root: AnyPath, layout: Layout, specs: Sequence[ArraySpec], attributes: Mapping[str, Any]) -> None:
    """Write the metadata of the group and of its arrays. Chunks are left as they are."""
    store = zarr_store(root)
    if not (root / "zarr.json").exists():
        zarr.create_group(store, attributes=dict(attributes))
    for spec in specs:
        if (root / spec.name / "zarr.json").exists():
            continue
        itemsize = np.dtype(spec.dtype).itemsize
        zarr.create_array(
            store,
            name=spec.name,
            shape=(layout.rows, *spec.row_shape),
            shards=(layout.shard_rows, *spec.row_shape),
            chunks=(layout.block_rows, *spec.row_shape),
            dtype=spec.dtype,
            compressors=[
                BloscCodec(
                    typesize=itemsize, cname="lz4", clevel=5, shuffle="noshuffle" if itemsize == 1 else "shuffle"
                ),
                Crc32cCodec(),
            ],
            dimension_names=dimension_names(spec),
        )


def dimension_names(spec: ArraySpec) -> list[str]:
    """Names by which xarray knows the axes: pictures have channel, height and width."""
    names = {1: ["column"], 3: ["channel", "height", "width"]}
    rest = names.get(len(spec.row_shape), [f"axis_{i}" for i in range(1, len(spec.row_shape) + 1)])
    return ["row", *(f"{spec.name}_{name}" if spec.name != "x" else name for name in rest)]


def write_shard(
    root: AnyPath, layout: Layout, specs: Sequence[ArraySpec], shard: int, arrays: Mapping[str, np.ndarray]
) -> WrittenShard:
    """Write one shard of every array, each to a temporary name, fsynced and renamed.

    `arrays` maps each array's name to all of the shard's rows, (rows, *row_shape).
    """
    start, stop = layout.shard_range(shard)
    lengths, hashes = {}, {}
    checksums: dict[str, list[int]] = {}
    for spec in specs:
        rows = arrays[spec.name]
        if rows.shape != (stop - start, *spec.row_shape) or rows.dtype != np.dtype(spec.dtype):
            raise ValueError(f"shard {shard} of {spec.name}: {rows.shape} {rows.dtype} does not fit {spec} in {layout}")
        checksums[spec.name] = []
        parts = encode_shard(spec, layout, rows, checksums[spec.name])
        lengths[spec.name], hashes[spec.name] = write_parts(root / shard_key(spec, shard), parts)
    return WrittenShard(ShardEntry(stop - start, lengths, hashes), checksums)


def write_block_table(root: AnyPath, name: str, table: np.ndarray) -> None:
    """Write a small array with one row a block (class counts, checksums) into the group `blocks`."""
    group = zarr.open_group(zarr_store(root), path=BLOCKS, mode="a")
    array = group.create_array(
        name,
        shape=table.shape,
        chunks=tuple(max(1, n) for n in table.shape),
        dtype=table.dtype,
        compressors=[BloscCodec(typesize=table.dtype.itemsize, cname="zstd", clevel=3), Crc32cCodec()],
        overwrite=True,
        config={"write_empty_chunks": True},
    )
    array[...] = table


def zarr_store(root: AnyPath) -> Path | ObjectStore[Any]:
    """The place as zarr takes it."""
    return root if isinstance(root, Path) else ObjectStore(root.folder)


def commit(root: AnyPath, manifest: Manifest, checksums: Mapping[str, Sequence[int]]) -> None:
    """Make a set of arrays exist: block checksums, consolidated metadata (for xarray and object stores), the manifest.

    `checksums` maps each array's name to the CRC-32C of all of its blocks in order. Raises ConflictError if another
    process has done so meanwhile.
    """
    for spec in manifest.arrays:
        write_block_table(root, f"crc32c_{spec.name}", np.asarray(checksums[spec.name], np.uint32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)  # the manifest is no array; consolidation is no standard yet
        zarr.consolidate_metadata(zarr_store(root))
    if not create_json(root / MANIFEST, manifest.to_json()):
        raise ConflictError(f"{root} was finished by another process meanwhile; there is nothing left to do")
