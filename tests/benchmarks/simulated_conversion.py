"""The conversion of a simulated terabyte, a part of `make bench-terabyte`.

The sources have no text, and the shards no data: they are files of the right length. The receipts are real.
"""

import hashlib
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from foldstream.pipeline.csv.cut import PIECE_BYTES, CsvTable
from foldstream.pipeline.csv.dialect import Dialect
from foldstream.pipeline.csv.row_batch import Columns, Piece
from foldstream.pipeline.tables.fill import ShardPlan
from foldstream.pipeline.tables.findings import Findings
from foldstream.pipeline.tables.shuffle import FAN, READS, Partition
from foldstream.pipeline.tables.spec.conversion import ConversionSpec, specify_conversion
from foldstream.pipeline.tables.spec.request import ConvertRequest
from foldstream.pipeline.target.finished import finished_shards
from foldstream.pipeline.target.labels import TextFindings
from foldstream.pipeline.target.receipts import receipt_path, summarize
from foldstream.storage.blocks.shards import shard_key
from foldstream.storage.dataset import Dataset
from foldstream.storage.format.manifest import Manifest, ShardEntry, Source
from foldstream.storage.format.schema import Schema
from foldstream.storage.places.json_files import content_hash, to_json, write_json
from foldstream.storage.places.locate import locate
from foldstream.storage.places.place import Place
from foldstream.storage.tasks import SerialExecutor, silent

from .record import Figures, timed

COLUMNS, ROW_BYTES = 1 << 13, 1 << 15  # numbers of 4 bytes: 64 rows of them are a block of 2 MiB
BLOCK_ROWS, SHARD_BLOCKS = 64, 50
MEMORY = Path("/dev/shm")
TEXT_ROW_BYTES, SOURCES = 80_000, 1_000  # bytes of a row as text; files


def convert_shards(shards: int) -> tuple[Figures, Dataset]:
    """Plan a conversion, also with a shuffle and after a kill, and commit it."""
    figures: Figures = {"shards": shards}
    with timed(figures, "planner"):
        plan = specify_shards(shards)
    figures |= {"blocks": plan.layout.blocks, "rows": plan.layout.rows, "bytes": plan.layout.rows * ROW_BYTES}
    with timed(figures, "shuffle"):
        figures |= plan_shuffle(plan.layout.shards)
    with timed(figures, "resume"):
        figures |= resume_conversion(plan)
    with timed(figures, "manifest"):
        dataset, figures["manifest_bytes"] = commit_in_memory(plan)
    return figures, dataset


def specify_shards(shards: int) -> ConversionSpec:
    """What feeds each shard, as the planner decides it; the shards larger than it would make them, to be so many."""
    rows = shards * SHARD_BLOCKS * BLOCK_ROWS - BLOCK_ROWS // 2
    sources = tuple(Source(f"/data/{number:04d}.csv", 0, 0) for number in range(SOURCES))
    request = ConvertRequest(sources, ("label",))
    features = tuple(f"c{number}" for number in range(COLUMNS))
    columns = Columns(features, ("label",), (), ("label",))
    header = ("label", *features)
    tables = [CsvTable(source.path, source.path, False, Dialect(), header, 0, 2, 0) for source in sources]
    piece_rows, first, pieces = PIECE_BYTES // TEXT_ROW_BYTES, 0, list[tuple[int, Piece]]()
    while first < rows:
        count = min(piece_rows, rows - first)
        start, stop = first * TEXT_ROW_BYTES, (first + count) * TEXT_ROW_BYTES
        pieces.append((first * SOURCES // rows, Piece(start, stop, 2, count)))
        first += count
    zeros = np.zeros(COLUMNS)
    labels = {"label": TextFindings(frozenset(map(str, range(10))), "integer", 1)}
    some = np.ones(COLUMNS, bool)
    total = Findings(rows, zeros, zeros + 255, zeros.astype(np.int64), some, ~some, texts=labels)
    spec = specify_conversion(request, columns, tables, pieces, None, total)
    assert (spec.layout.rows, spec.layout.block_rows) == (rows, BLOCK_ROWS)
    assert spec.layout.shards >= shards
    spec = replace(spec, layout=replace(spec.layout, shard_blocks=SHARD_BLOCKS))
    assert spec.layout.shards == shards
    plan = ShardPlan.of(spec, locate("nowhere"))  # its tasks are not run
    for shard in range(shards):
        start, stop = spec.layout.shard_range(shard)
        of_shard = plan.pieces_of(shard)
        ends = [piece.first_row + piece.rows for piece in of_shard]
        assert of_shard[0].first_row <= start < ends[0]
        assert [piece.first_row for piece in of_shard[1:]] == ends[:-1]
        assert ends[-1] >= stop > of_shard[-1].first_row
    return spec


def plan_shuffle(shards: int) -> Figures:
    """Count the reads of all passes of a shuffle, and of a resume from the middle of the last pass."""
    partition = Partition.of(shards, FAN)
    everything = partition.missing(range(shards), [()] * partition.levels)
    assert [len(files) for files in everything] == [partition.files(level) for level in range(partition.levels + 1)]
    reads = most = 0
    for level, files in enumerate(everything[1:], 1):
        reads += READS * partition.reads(level, files)
        most = max(most, *(READS * partition.reads(level, [file]) for file in files[:: max(1, len(files) // 100)]))
    assert most <= READS * FAN
    # Killed in the middle of the last pass: the first half of its groups is complete, and their files were removed.
    complete = shards // 2 // partition.fan * partition.fan
    last = partition.levels - 1
    held = {
        file for group in partition.groups(last, range(complete, shards)) for file in partition.group_files(last, group)
    }
    stored: list[Any] = [set[int]() for _ in range(last)] + [held]
    left = partition.missing(range(complete, shards), stored)
    assert not any(left[:-1]), "files are made again"
    resumed = READS * partition.reads(partition.levels, left[-1])
    return {"passes": partition.levels + 1, "shuffle_reads": reads, "most_reads": most, "resume_reads": resumed}


def resume_conversion(spec: ConversionSpec) -> dict[str, Any]:
    """Find the finished shards of a conversion that was killed as it wrote the last ones. One of the others has lost
    its last byte, and must be written again."""
    specs, last, damaged = spec.schema.arrays(), spec.layout.shards - 1, spec.layout.shards // 2
    with tempfile.TemporaryDirectory(prefix="foldstream-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        root = locate(Path(folder))
        receipt = write_finished(spec, root, last)
        shorter = Path(root / shard_key(specs[0], damaged))
        length = shorter.stat().st_size - 1
        shorter.unlink()
        with shorter.open("wb") as file:
            file.truncate(length)
        started = perf_counter()
        finished = finished_shards(root, specs, SerialExecutor(), silent)
        seconds = perf_counter() - started
    assert [*finished] == [shard for shard in range(last) if shard != damaged]
    return {"finished": last, "finished_seconds": seconds, "receipt_bytes": receipt}


def write_finished(spec: ConversionSpec, root: Place, shards: int) -> int:
    """The files that `shards` finished shards leave, all the same. Returns the size of a receipt in bytes."""
    specs, rows = spec.schema.arrays(), spec.layout.shard_rows
    lengths = {array.name: rows * array.row_bytes for array in specs}
    entry = ShardEntry(rows, lengths, {array.name: content_hash(array.name.encode()) for array in specs})
    arrays = {array.name: np.zeros((spec.layout.block_rows, *array.row_shape), array.dtype) for array in specs}
    of_block = summarize(ShardPlan.of(spec, root), arrays, np.zeros(len(spec.schema.features), np.int64))
    of_blocks = {"class_counts": of_block["class_counts"] * spec.layout.shard_blocks}
    blocks = {array.name: [2**21, 2**32 - 1] * spec.layout.shard_blocks for array in specs}
    first = receipt_path(root, 0)
    write_json(first, {"entry": entry, "blocks": blocks, **of_block, **of_blocks})
    for shard in range(1, shards):
        os.link(first, receipt_path(root, shard))
    for array in specs:
        paths = [Path(root / shard_key(array, shard)) for shard in range(shards)]
        for folder in {path.parent for path in paths}:
            folder.mkdir(parents=True)
        with paths[0].open("wb") as file:
            file.truncate(lengths[array.name])  # without data
        for path in paths[1:]:
            os.link(paths[0], path)
    return first.describe().size


def commit_in_memory(spec: ConversionSpec) -> tuple[Dataset, int]:
    """The dataset whose manifest conversion would write; and the bytes of that, read back."""
    layout, specs = spec.layout, spec.schema.arrays()
    names = [spec.name for spec in specs]
    entries = []
    for shard in range(layout.shards):
        start, stop = layout.shard_range(shard)
        digest = hashlib.sha256(str(shard).encode()).hexdigest()
        lengths = {spec.name: (stop - start) * spec.row_bytes for spec in specs}
        entries.append(ShardEntry(stop - start, lengths, dict.fromkeys(names, digest)))
    details = {"schema": spec.schema}
    data = to_json(Manifest("dataset", layout, specs, tuple(entries), details))
    manifest = Manifest.from_json(json.loads(data), "here")
    assert manifest.layout == layout
    assert len(manifest.shards) == layout.shards
    assert Schema.from_json(manifest.details["schema"]) == spec.schema
    return Dataset(locate("/data.zarr"), manifest, hashlib.sha256(data).hexdigest()), len(data)
