"""Checkpoints: the complete state of a fold's training in a safetensors file. The tensors of a sharded model are in
files beside it, one of each rank."""

import logging
from collections.abc import Collection, Mapping
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from ...storage.errors import DamagedError
from ...storage.places.place import Place
from ..model.states import SHARDS, pack, read_head, unpack

if TYPE_CHECKING:
    from .sharded import ShardedModel

log = logging.getLogger(__name__)

NAMES = "epoch-*-step-*.safetensors"


class Checkpoints:
    """The checkpoints in a fold's folder, named by epoch and step; the last `keep` are kept. All ranks must save and
    load the checkpoints of a `sharded` model together."""

    def __init__(self, folder: Place, keep: int, sharded: "ShardedModel | None" = None) -> None:
        self.folder, self.keep, self.sharded = folder, keep, sharded

    def stored(self) -> list[str]:
        """The names of all checkpoints, newest last."""
        return [name for name in self.folder.names() if fnmatch(name, NAMES)]

    def save(self, epoch: int, step: int, state: Mapping[str, Any]) -> None:
        """Save the state after `epoch` epochs and `step` steps of the next one, and remove old checkpoints.

        Later checkpoints, which are left over from before a damaged one, are also removed. Raises the errors of `pack`.
        """
        own, files = f"epoch-{epoch:05}-step-{step:09}.safetensors", set[str]()
        if self.sharded is None:
            (self.folder / own).write(pack(state))
        else:
            from .sharded_checkpoint import save_shards  # only here: it takes a second to load

            files = save_shards(self.folder, own, state, self.sharded)
            if not self.sharded.process.is_main:
                return
        self._prune(own, files)

    def _prune(self, own: str, files: Collection[str]) -> None:
        """Remove all but the last checkpoints up to `own`, and the files of ranks that belong to none of them; those of
        `own` are `files`."""
        names = self.folder.names()
        stored = [name for name in names if fnmatch(name, NAMES)]
        kept = [name for name in stored if name <= own][-self.keep :]
        for name in stored:
            if name not in kept:
                (self.folder / name).remove()
        for name in (self.folder / SHARDS).names() if SHARDS in names else ():
            checkpoint = name.partition("-rank-")[0] + ".safetensors"
            if name not in files and (checkpoint == own or checkpoint not in kept):
                (self.folder / SHARDS / name).remove()

    def load(self) -> dict[str, Any] | None:
        """The newest intact state, or None if no checkpoint exists. Raises DamagedError if all are damaged."""
        self.folder.clean_temporaries()
        stored = self.stored()
        for name in reversed(stored):
            try:
                return self._read(name)
            except DamagedError as error:
                log.warning("%s; trying the previous checkpoint", error)
        if stored:
            raise DamagedError(
                f"all checkpoints in {self.folder} are damaged; restore one, or remove the folder to train the fold "
                "from scratch (--keep 2 also keeps the previous checkpoint)"
            )
        return None

    def _read(self, name: str) -> dict[str, Any]:
        data, where = (self.folder / name).read_bytes(), str(self.folder / name)
        head = read_head(data, where)
        if SHARDS not in head:
            return unpack(data, where)
        from .sharded_checkpoint import load_shards

        return load_shards(self.folder, head, where, self.sharded)
