"""Write a dataset: the arrays' metadata, whole shards, and finally the manifest, which commits it.

A dataset is a Zarr v3 group. Metadata is written first, then each shard by a single task, and the manifest last.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.errors import ZarrUserWarning

from .errors import ConflictError
from .format import MANIFEST, ArraySpec, Layout, Manifest, ShardEntry
from .places.json_files import create_json
from .places.place import Place
from .shards import encode_shard, shard_key

BLOCKS = "blocks"


@dataclass(frozen=True)
class WrittenShard:
    """What a task reports about the shard that it wrote: its entry, and for each array the CRC-32C of every block."""

    entry: ShardEntry
    checksums: dict[str, list[int]]


def create_arrays(root: Place, layout: Layout, specs: Sequence[ArraySpec], attributes: Mapping[str, Any]) -> None:
    """Write the metadata of the group and of its arrays. Existing chunks are not touched."""
    store = root.zarr_store()
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
    """Names of the axes for xarray; for images channel, height and width."""
    names = {1: ["column"], 3: ["channel", "height", "width"]}
    rest = names.get(len(spec.row_shape), [f"axis_{i}" for i in range(1, len(spec.row_shape) + 1)])
    return ["row", *(f"{spec.name}_{name}" if spec.name != "x" else name for name in rest)]


def write_shard(
    root: Place, layout: Layout, specs: Sequence[ArraySpec], shard: int, arrays: Mapping[str, np.ndarray]
) -> WrittenShard:
    """Write one shard of every array, each atomically.

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
        lengths[spec.name], hashes[spec.name] = (root / shard_key(spec, shard)).write_parts(parts)
    return WrittenShard(ShardEntry(stop - start, lengths, hashes), checksums)


def write_block_table(root: Place, name: str, table: np.ndarray) -> None:
    """Write a small array with one row per block (class counts, checksums) into the group `blocks`."""
    group = zarr.open_group(root.zarr_store(), path=BLOCKS, mode="a")
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


def commit(root: Place, manifest: Manifest, checksums: Mapping[str, Sequence[int]]) -> None:
    """Commit a set of arrays: block checksums, consolidated metadata (for xarray and object stores), the manifest.

    `checksums` maps each array's name to the CRC-32C of all of its blocks in order. Raises ConflictError if another
    process has committed in the meantime.
    """
    for spec in manifest.arrays:
        write_block_table(root, f"crc32c_{spec.name}", np.asarray(checksums[spec.name], np.uint32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)  # about the manifest, and consolidated metadata
        zarr.consolidate_metadata(root.zarr_store())
    if not create_json(root / MANIFEST, manifest):
        raise ConflictError(f"{root} was completed by another process in the meantime; nothing is left to do")
