"""Which fold each row belongs to: one byte a row, a pure function of its position (and class) and the seed.

Rows are taken in groups of k in their order (for `stratified`: in each class by itself), and each group's k folds are
a random permutation of 0..k-1 keyed by (seed, class, group). So folds differ by at most one row in size, classes by
at most one row a fold, any block can be computed by itself, and appending rows changes nothing before the last group.
"""

from pathlib import Path

import numpy as np

from ..storage.dataset import Dataset, StoredArrays, open_arrays
from ..storage.format import MANIFEST, ArraySpec, Manifest
from ..storage.reader import BlockReader
from ..storage.writer import commit, create_arrays, write_block_table, write_shard
from .seeding import hash64

FOLD = ArraySpec("fold", "uint8")


def assign(ranks: np.ndarray, classes: np.ndarray | int, folds: int, seed: int) -> np.ndarray:
    """Folds of rows that are number `ranks` (from 0) of their class, (rows,) uint8."""
    groups, inside = np.divmod(ranks, folds)
    keys = hash64(seed, np.asarray(classes)[..., None], groups[:, None], np.arange(folds)[None, :])
    order = np.argsort(keys, axis=1, kind="stable")
    return order[np.arange(len(ranks)), inside].astype(np.uint8)


def assign_rest(ranks: np.ndarray, classes: np.ndarray, totals: np.ndarray, folds: int) -> np.ndarray:
    """Folds of rows in the last, short group of their class, (rows,) uint8.

    The short groups of all classes together are dealt round the folds, so that the folds' sizes differ by one row.
    """
    rest = totals % folds
    offsets = np.cumsum(rest) - rest
    codes: np.ndarray = (offsets[classes] + ranks % folds) % folds
    return codes.astype(np.uint8)


def kfold(start: int, stop: int, folds: int, seed: int) -> np.ndarray:
    """Folds of the rows `start` to `stop` whatever they hold, (stop - start,) uint8."""
    return assign(np.arange(start, stop), 0, folds, seed)


def stratified(y: np.ndarray, before: np.ndarray, totals: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Folds of a run of rows with class codes `y`, (rows,) uint8.

    `before` counts the rows of each class that come before this run, `totals` those of the whole data, (classes,).
    """
    codes = y.astype(np.int64)
    ranks = np.empty(len(codes), np.int64)
    for code in np.unique(codes):
        where = np.flatnonzero(codes == code)
        ranks[where] = before[code] + np.arange(len(where))
    whole = ranks < (totals // folds * folds)[codes]
    return np.where(whole, assign(ranks, codes, folds, seed), assign_rest(ranks, codes, totals, folds))


def write_folds(dataset: Dataset, split: str, folds: int, seed: int, root: Path) -> StoredArrays:
    """Assign every row of a dataset and store the folds at `root` as an array in the dataset's boundaries.

    Beside it stands the table `fold_counts`, (blocks, folds): the rows of each fold in every block. If the folds are
    there already, they are opened.
    """
    if (root / MANIFEST).exists():
        return open_arrays(root, "folds")
    layout = dataset.layout
    create_arrays(root, layout, [FOLD], {"foldstream": {"split": split, "folds": folds, "seed": seed}})
    counts = np.zeros((layout.blocks, folds), np.uint32)
    written = []
    by_class = dataset.class_counts if split == "stratified" else np.zeros((layout.blocks, 0), np.int64)
    before = np.cumsum(by_class, axis=0) - by_class
    reader = BlockReader(dataset, ("y",))
    for shard in range(layout.shards):
        blocks, (start, stop) = layout.blocks_of(shard), layout.shard_range(shard)
        if split == "stratified":
            y = reader.read(blocks)["y"]
            codes = stratified(y, before[blocks.start], by_class.sum(axis=0), folds, seed)
        else:
            codes = kfold(start, stop, folds, seed)
        for position, block in enumerate(blocks):
            of_block = codes[position * layout.block_rows : (position + 1) * layout.block_rows]
            counts[block] = np.bincount(of_block, minlength=folds)
        written.append(write_shard(root, layout, [FOLD], shard, {"fold": codes}))
    write_block_table(root, "fold_counts", counts)
    details = {"split": split, "folds": folds, "seed": seed, "dataset": dataset.identity}
    checksums = [value for shard in written for value in shard.checksums["fold"]]
    entries = tuple(shard.entry for shard in written)
    commit(root, Manifest("folds", layout, (FOLD,), entries, details), {"fold": checksums})
    return open_arrays(root, "folds")
