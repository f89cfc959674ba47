"""Write a dataset: the arrays' metadata, whole shards, and finally the manifest, which commits it.

A dataset is a Zarr v3 group. Metadata is written first, then each shard by a single task, and the manifest last.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np
import zarr
from zarr.abc.buffer import Buffer
from zarr.buffer import cpu
from zarr.codecs import BloscCodec, Crc32cCodec, VLenBytesCodec
from zarr.errors import UnstableSpecificationWarning, ZarrUserWarning
from zarr.storage import MemoryStore

from ..errors import ConflictError
from ..format.arrays import ArraySpec
from ..format.layout import Layout
from ..format.manifest import FORMAT, MANIFEST, Manifest, ShardEntry
from ..places.json_files import content_hash, create_json
from ..places.place import Place
from .index import INDEX, BlockIndex
from .shards import LEVEL, PARTS, Rows, encode_shard, part_folder, shard_path

BLOCKS = "blocks"


@dataclass(frozen=True)
class WrittenShard:
    """What a task reports about the shard that it wrote: its entry, and for each array the length as stored and the
    CRC-32C of every block, one block after the other."""

    entry: ShardEntry
    blocks: dict[str, list[int]]


def blocks_of(written: Iterable[WrittenShard], specs: Sequence[ArraySpec]) -> dict[str, list[int]]:
    """The blocks of consecutive shards, as `commit` takes them."""
    found: dict[str, list[int]] = {spec.name: [] for spec in specs}
    for shard in written:
        for name, blocks in shard.blocks.items():
            found[name] += blocks
    return found


def create_arrays(root: Place, layout: Layout, specs: Sequence[ArraySpec], attributes: Mapping[str, Any]) -> None:
    """Write the metadata of the group and of its arrays, unless it is there: an interrupted removal may have left that
    of other arrays. Existing chunks are not touched. Each part of the layout after the first is a group of its own."""
    files: dict[str, Buffer] = {}
    store = MemoryStore(files)  # zarr does not wait until its files are durable, so we write them
    zarr.create_group(store, attributes=dict(attributes))
    for path in (PARTS, *map(part_folder, range(1, len(layout.parts)))) if len(layout.parts) > 1 else ():
        zarr.create_group(store, path=path.rstrip("/"))
    for part in range(len(layout.parts) or 1):
        _add_arrays(store, part_folder(part), layout.of_part(part), specs)
    wanted = {name: data.to_bytes() for name, data in files.items()}
    root.write_files({name: data for name, data in wanted.items() if not has_content(root / name, data)})


def _add_arrays(store: MemoryStore, folder: str, layout: Layout, specs: Sequence[ArraySpec]) -> None:
    for spec in specs:
        itemsize = np.dtype(spec.dtype).itemsize
        shuffle: Literal["noshuffle", "shuffle"] = "noshuffle" if itemsize == 1 else "shuffle"
        compressor = BloscCodec(typesize=itemsize, cname="lz4", clevel=LEVEL, shuffle=shuffle)
        files: dict[str, Any] = {"dtype": "variable_length_bytes", "serializer": VLenBytesCodec()}
        with _beyond_the_specification():
            zarr.create_array(
                store,
                name=folder + spec.name,
                shape=(layout.rows, *spec.stored_shape),
                shards=(layout.shard_rows, *spec.stored_shape),
                chunks=(layout.block_rows, *spec.stored_shape),
                compressors=[Crc32cCodec()] if spec.encoded else [compressor, Crc32cCodec()],
                dimension_names=dimension_names(spec),
                **(files if spec.encoded else {"dtype": spec.dtype}),
            )


@contextmanager
def _beyond_the_specification() -> Iterator[None]:
    """Ignore warnings that consolidated metadata and the dtype of files are not in Zarr's specification yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        warnings.simplefilter("ignore", UnstableSpecificationWarning)
        yield


def has_content(place: Place, data: bytes) -> bool:
    """Whether a file exists with these bytes."""
    try:
        return place.read_bytes() == data
    except FileNotFoundError:
        return False


def dimension_names(spec: ArraySpec) -> list[str]:
    """Names of the axes for xarray; for images channel, height and width."""
    names = {1: ["column"], 3: ["channel", "height", "width"]}
    axes = len(spec.stored_shape)
    rest = names.get(axes, [f"axis_{i}" for i in range(1, axes + 1)])
    return ["row", *(f"{spec.name}_{name}" if spec.name != "x" else name for name in rest)]


def write_shard(
    root: Place,
    layout: Layout,
    specs: Sequence[ArraySpec],
    shard: int,
    arrays: Mapping[str, Rows],
    behind: Sequence[str] = (),
) -> WrittenShard:
    """Write one shard of every array, each atomically.

    `arrays` maps each array's name to all of the shard's rows, (rows, *row_shape), or image files. The blocks of the
    arrays `behind` are also stored after those of `x`.
    """
    start, stop = layout.shard_range(shard)
    lengths, hashes = {}, {}
    blocks: dict[str, list[int]] = {spec.name: [] for spec in specs}
    stored: dict[str, list[bytes]] = {}
    for spec in sorted(specs, key=lambda spec: spec.name == "x"):  # x after what follows its blocks
        rows = arrays[spec.name]
        if not _fits(rows, stop - start, spec):
            raise ValueError(f"shard {shard} of {spec.name}: {describe(rows)} do not fit {spec} in {layout}")
        after = [b"".join(one) for one in zip(*map(stored.get, behind), strict=True)] if spec.name == "x" else ()
        parts: Iterable[bytes | memoryview] = encode_shard(spec, layout, rows, blocks[spec.name], after)
        if spec.name in behind:
            whole = b"".join(parts)
            stored[spec.name], parts = cut(whole, blocks[spec.name][::2]), [whole]
        lengths[spec.name], hashes[spec.name] = (root / shard_path(layout, spec, shard)).write_parts(parts)
    entry = ShardEntry(stop - start, {spec.name: lengths[spec.name] for spec in specs}, hashes)
    return WrittenShard(entry, blocks)


def _fits(rows: Rows, count: int, spec: ArraySpec) -> bool:
    """Whether these are `count` rows of an array."""
    if not isinstance(rows, np.ndarray):
        return spec.encoded and len(rows) == count
    return not spec.encoded and rows.shape == (count, *spec.row_shape) and rows.dtype == np.dtype(spec.dtype)


def describe(rows: Rows) -> str:
    """Rows in words."""
    return f"{rows.dtype} {rows.shape}" if isinstance(rows, np.ndarray) else f"{len(rows)} image files"


def cut(data: bytes, lengths: Iterable[int]) -> list[bytes]:
    """The parts of `data` with these lengths."""
    ends = [0, *accumulate(lengths)]
    return [data[start:stop] for start, stop in pairwise(ends)]


def write_block_table(root: Place, name: str, table: np.ndarray) -> None:
    """Write a small array with one row per block (class counts, checksums) into the group `blocks`."""
    root.write_files(block_table(name, table))


def block_table(name: str, table: np.ndarray) -> dict[str, bytes]:
    """The files of a small array in the group `blocks`, and of that group."""
    files: dict[str, Buffer] = {}
    group = zarr.open_group(MemoryStore(files), path=BLOCKS, mode="a")
    array = group.create_array(
        name,
        shape=table.shape,
        chunks=tuple(max(1, n) for n in table.shape),
        dtype=table.dtype,
        compressors=[BloscCodec(typesize=table.dtype.itemsize, cname="zstd", clevel=3), Crc32cCodec()],
        config={"write_empty_chunks": True},
    )
    array[...] = table
    return {name: data.to_bytes() for name, data in files.items() if name.startswith(f"{BLOCKS}/")}


def commit(root: Place, manifest: Manifest, blocks: Mapping[str, Sequence[int]]) -> None:
    """Commit a set of arrays: the index of the blocks, consolidated metadata (for xarray and object stores), the
    manifest.

    Everything else is durable before the manifest is written. `blocks` has for each array the length as stored and the
    CRC-32C of every block in order. Raises ConflictError if another process has committed in the meantime.
    """
    root.clean_temporaries()  # of workers that were killed while others continued
    tables = {name: np.asarray(of_array, np.uint32).reshape(-1, 2) for name, of_array in blocks.items()}
    index = BlockIndex(manifest.layout, tables).to_bytes()
    manifest = replace(manifest, index=content_hash(index), format=FORMAT)
    root.write_files({INDEX: index})
    consolidate(root, manifest.layout, tables)
    root.sync_folders()
    if not create_json(root / MANIFEST, manifest):
        raise ConflictError(f"{root} was completed by another process in the meantime; nothing is left to do")


def consolidate(root: Place, layout: Layout, names: Iterable[str]) -> None:
    """Copy the metadata of all arrays into that of the group."""
    folders = [part_folder(part) for part in range(len(layout.parts) or 1)]
    groups = [PARTS + "/", *folders[1:]] if folders[1:] else []
    arrays = [f"{folder}{name}/" for folder in folders for name in names]
    of_blocks = sorted(f"{BLOCKS}/{file.name}" for file in (root / BLOCKS).walk() if file.name.endswith("zarr.json"))
    metadata = ["zarr.json", *(f"{name}zarr.json" for name in (*groups, *arrays)), *of_blocks]
    files: dict[str, Buffer] = {name: cpu.Buffer.from_bytes((root / name).read_bytes()) for name in metadata}
    with _beyond_the_specification():
        zarr.consolidate_metadata(MemoryStore(files))
    root.write_files({"zarr.json": files["zarr.json"].to_bytes()})


def remove_arrays(root: Place) -> None:
    """Remove committed arrays, their manifest first: what an interrupted removal leaves cannot be read."""
    (root / MANIFEST).remove()
    root.remove_tree()
