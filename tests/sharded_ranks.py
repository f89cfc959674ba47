"""What ranks do with the checkpoints of a sharded model: a program that imports torch once and then forks them.

python tests/sharded_ranks.py FOLDER RUNS writes to FOLDER/seen.json what each of them has seen. RUNS is a folder with
prepared runs.
"""

import errno
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch._dynamo  # it takes half a second, and the optimizers import it
from foldstream.storage.errors import DamagedError
from foldstream.storage.places.json_files import content_hash
from foldstream.storage.places.local import LocalPlace
from foldstream.storage.places.locate import locate
from foldstream.training.config import Execution, Recipe
from foldstream.training.engine.checkpoint import Checkpoints
from foldstream.training.engine.learner import Network
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process, local_group
from foldstream.training.engine.sharded import ShardedModel, gathered
from foldstream.training.engine.sharded_checkpoint import save_shards
from foldstream.training.model.optimizer import make_optimizer
from foldstream.training.model.states import SHARDS, pack
from foldstream.training.run import RunFolder, folds_of, load_job
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

OPTIMIZERS = "Adam", "SGD", "Adagrad", "NAdam"


class Trained:
    """A model with a layer smaller than the number of ranks, batch norm, weights in channels last and frozen ones."""

    def __init__(self, process: Process, optimizer: str = "Adam") -> None:
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(20, 64), nn.Linear(64, 1))
        model = layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model[1].bias.requires_grad_(False)
        recipe = Recipe(strategy="fsdp", optimizer=optimizer, lr=0.01, momentum=0.9 * (optimizer == "SGD"))
        self.process, sharded = process, ShardedModel(model, process) if process.world_size > 1 else None
        self.network = Network(model, sharded, process, recipe)
        self.optimizer = make_optimizer(self.network.module, recipe)
        self.steps = 0

    def train(self, steps: int) -> None:
        """Train on the same rows on all ranks."""
        for _ in range(steps):
            self.steps += 1
            x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(self.steps))
            self.optimizer.zero_grad()
            self.network.module(x).square().mean().backward()
            self.optimizer.step()

    def files(self, folder: Path, keep: int = 1) -> Checkpoints:
        return Checkpoints(locate(folder), keep, self.network.sharded)

    def save(self, folder: Path, keep: int = 1) -> None:
        state = {"step": self.steps, **self.network.state(self.optimizer)}
        self.files(folder, keep).save(1, self.steps, state)

    def load(self, folder: Path) -> str:
        """Load the newest checkpoint. Returns what it came to."""
        state = self.files(folder).load()
        assert state is not None
        self.steps = state["step"]
        self.network.set_state(state, self.optimizer)
        for parameter, values in self.optimizer.state.items():
            moments = [value for value in values.values() if value.shape == parameter.shape]
            assert all(moment.stride() == parameter.stride() for moment in moments)
        whole = self.whole()
        assert all(torch.equal(tensor, whole[name]) for name, tensor in self.network.model.state_dict().items())
        return self.digest()

    def digest(self) -> str:
        """Weights and optimizer state as a hash, which is the same at any world size, and the steps."""
        whole, groups = self.whole(), self.optimizer.state_dict()["param_groups"]
        return f"{self.steps} {content_hash(pack({**whole, 'groups': groups}))}"

    def whole(self) -> dict[str, Tensor]:
        """Weights, buffers and moments as a whole."""
        state = self.network.state(self.optimizer)
        moments = {f"{n}.{name}": value for n, of in state["optimizer"]["state"].items() for name, value in of.items()}
        tensors = {name: one for name, one in {**state["model"], **moments}.items() if isinstance(one, Tensor)}
        names = sorted(tensors)
        return {name: tensor.contiguous() for name, tensor in zip(names, gathered(tensors, names), strict=True)}


class Gathered(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that a rank gets from collective operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if "all_gather" in str(func) and isinstance(result, Tensor):
            self.bytes += result.nbytes
        return result


Job = tuple[Callable[..., Any], *tuple[Any, ...]]
"""A function and its arguments after the process."""


def in_ranks(folder: Path, world_size: int, jobs: dict[str, Job]) -> dict[str, list[Any]]:
    """Run jobs one after another in a group of ranks. Returns what each rank has returned for each of them, or its exit
    status if it has not come to the end."""
    folder.mkdir(parents=True)
    ranks: dict[int, int] = {}
    for rank in range(world_size):
        pid = os.fork()
        if pid == 0:
            _be_rank(folder, rank, world_size, jobs)
        ranks[pid] = rank
    seen, statuses = [dict[str, Any]()] * world_size, [0] * world_size
    while ranks:
        pid, status = os.wait()
        rank = ranks.pop(pid)
        statuses[rank], file = status, folder / f"{rank}.json"
        if file.exists():
            seen[rank] = json.loads(file.read_text())
        else:
            for other in ranks:  # as Ray does: they would wait for this one
                os.kill(other, signal.SIGKILL)
    return {name: [one.get(name, status) for one, status in zip(seen, statuses, strict=True)] for name in jobs}


def _be_rank(folder: Path, rank: int, world_size: int, jobs: dict[str, Job]) -> None:
    group = local_group(rank, world_size, str(folder / "meet")) if world_size > 1 else nullcontext(Process())
    seen = {}
    try:
        with group as process:
            for name, (work, *args) in jobs.items():
                seen[name] = work(process, *args)
                process.barrier()
        (folder / f"{rank}.json").write_text(json.dumps(seen))
    except BaseException:  # noqa: BLE001 - this process ends here, and must not go on as its parent
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


# What ranks do


def shares(process: Process, folder: Path) -> dict[str, Any]:
    """Save and load, and count what this rank has got, written and read."""
    own = Trained(process)
    own.train(1)
    with Gathered() as got:
        own.save(folder)
    written = [file.stat().st_size for file in (folder / SHARDS).glob(f"*-rank-{process.rank}-*")]
    process.barrier()
    with counted_reads() as read:
        own.load(folder)
    state = own.network.state(own.optimizer)
    moments = [value for of in state["optimizer"]["state"].values() for value in of.values()]
    whole = sum(tensor.nbytes for tensor in [*state["model"].values(), *moments])
    return {"gathered": got.bytes, "written": sum(written), "read": sum(read), "whole": whole}


@contextmanager
def counted_reads() -> Iterator[list[int]]:
    """Note the bytes of each piece of a tensor that is read."""
    read, read_into = list[int](), LocalPlace.read_into

    def counted(place: LocalPlace, start: int, out: np.ndarray) -> int:
        read.append(read_into(place, start, out))
        return read[-1]

    with patch.object(LocalPlace, "read_into", counted):
        yield read


def resume(process: Process, folder: Path, optimizer: str) -> list[str]:
    """What a model came to that was trained without a break, and one that went on from a checkpoint."""
    quiet = Trained(process, optimizer)
    quiet.train(2)
    quiet.save(folder)
    quiet.train(2)
    resumed = Trained(process, optimizer)
    resumed.load(folder)
    resumed.train(2)
    return [quiet.digest(), resumed.digest()]


def start(process: Process, folder: Path) -> str:
    own = Trained(process)
    own.train(2)
    own.save(folder)
    return own.digest()


def take_over(process: Process, folder: Path) -> list[str]:
    """Load what another number of ranks has saved, and save it for the next one."""
    own = Trained(process)
    digest = own.load(folder)
    own.save(folder)
    return [digest, *sorted(file.name for file in folder.rglob("*.safetensors"))]


def save_as_before(process: Process, folder: Path) -> str:
    """Save a checkpoint as the first versions did: all of it, by the parameters' names."""
    own, options = Trained(process), StateDictOptions(full_state_dict=True, cpu_offload=True)
    own.train(2)
    module = own.network.module
    model = get_model_state_dict(module, options=options)
    state = {"model": model, "optimizer": get_optimizer_state_dict(module, own.optimizer, options=options)}
    if process.is_main:
        Checkpoints(locate(folder), 1).save(1, 2, {"step": 2, **state})
    return own.digest()


def load(process: Process, folder: Path) -> str:
    try:
        return Trained(process).load(folder)
    except DamagedError as error:
        return str(error)


@contextmanager
def watched_files(moment: Callable[[], None]) -> Iterator[None]:
    """Call `moment` before and after each change of a file's name."""

    def watch(change: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **options: Any) -> None:
            moment()
            change(*args, **options)
            moment()

        return watched

    with patch("os.replace", watch(os.replace)), patch("os.unlink", watch(os.unlink)):
        yield


def copy_unless_gone(source: str, target: str) -> None:
    """Copy a file, unless the other rank has just renamed it."""
    with suppress(FileNotFoundError):
        shutil.copy(source, target)


def save_twice(process: Process, folder: Path, copies: Path) -> list[str]:
    """Save two checkpoints, and copy the folder at each moment of the second. Returns what both came to."""
    own, taken = Trained(process), 0
    copies.mkdir(exist_ok=True)

    def copy() -> None:
        nonlocal taken
        shutil.copytree(folder, copies / f"{process.rank}-{taken:02}", copy_function=copy_unless_gone)
        taken += 1

    own.train(1)
    own.save(folder)
    digests = [own.digest()]
    own.train(1)
    with watched_files(copy):
        own.save(folder)
    return [*digests, own.digest()]


def load_each(process: Process, copies: Path) -> list[str]:
    """What each copy comes to."""
    own = Trained(process)
    return [own.load(copy) for copy in sorted(copies.iterdir())]


def be_killed(process: Process, folder: Path) -> None:
    """Save a checkpoint, with the last rank killed before its file is in place."""
    own = Trained(process)
    own.load(folder)
    own.train(1)
    if process.rank == 1:
        with watched_files(lambda: os.kill(os.getpid(), signal.SIGKILL)):
            own.save(folder)
    own.save(folder)


def full_disk(process: Process, folder: Path) -> list[str]:
    """Save a checkpoint while the disk of one rank is full. Returns the error, and what is left."""
    own = Trained(process)
    own.load(folder)
    before = own.digest()
    own.train(1)
    full = OSError(errno.ENOSPC, "No space left on device")
    try:
        if process.rank == 1:
            with patch.object(LocalPlace, "whole_file", side_effect=full):
                own.save(folder)
        own.save(folder)
    except OSError as error:
        return [str(error), before, own.load(folder)]
    return []


def shares_of_epoch(process: Process, folder: Path) -> Any:
    """Save the state of this rank's share of an epoch, and load what it needs."""
    own = Trained(process)
    assert own.network.sharded
    buffers, losses = [[None, torch.full((2,), process.rank)]], torch.tensor([float(process.rank)])
    within = {"buffers": buffers, "losses": losses, "seconds": 1.5}
    name = "epoch-00001-step-000000003.safetensors"
    save_shards(locate(folder), name, {"within": within}, own.network.sharded)
    return within_of(process, folder)


def within_of(process: Process, folder: Path) -> Any:
    state = Trained(process).files(folder).load()
    assert state is not None
    within = state["within"]
    buffers = [one and [buffer if buffer is None else buffer.tolist() for buffer in one] for one in within["buffers"]]
    return {**within, "buffers": buffers, "losses": within["losses"].tolist()}


def damage(process: Process, folder: Path, pattern: str) -> None:
    """Change the last byte of a file."""
    if process.is_main:
        (file,) = folder.rglob(pattern)
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)


def remove(process: Process, folder: Path, pattern: str) -> None:
    if process.is_main:
        (file,) = folder.rglob(pattern)
        file.unlink()


def save_two(process: Process, folder: Path) -> list[str]:
    """Save two checkpoints and keep both. Returns what they came to."""
    own, digests = Trained(process), []
    for _ in range(2):
        own.train(1)
        own.save(folder, keep=2)
        digests.append(own.digest())
    return digests


def train(process: Process, root: Path, every: str, beats: int) -> list[list[int]]:
    """Train all folds of a run, until they are done or the rank is killed after some heartbeats. Returns for each fold
    how many parameters the rank has, and how many the whole model."""
    run, left = RunFolder(locate(root)), beats

    def heartbeat(working: bool) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    trainer = FoldTrainer(
        folds_of(load_job(run), run, [0, 1, 2]), process, Execution(checkpoint_every=every), heartbeat
    )
    held = []
    for network in (fold.network for fold in trainer.folds):
        own = [p.to_local() if isinstance(p, DTensor) else p for p in network.module.parameters()]
        held.append([sum(p.numel() for p in parts) for parts in (own, network.model.parameters())])
    trainer.train()
    return held


FOREVER = 1 << 60
EPOCH = 60  # heartbeats of an epoch of the digits at least


def main(root: Path, runs: Path) -> dict[str, list[Any]]:
    """Returns what the ranks have seen in each job."""
    seen: dict[str, list[Any]] = {}
    groups = count()

    def ranks(world_size: int, **jobs: Job) -> None:
        seen.update(in_ranks(root / f"group-{next(groups)}", world_size, jobs))

    resumes: dict[str, Job] = {f"resume_{name}": (resume, root / f"resume-{name}", name) for name in OPTIMIZERS}
    full = {name: (train, runs / name, "1 epoch", FOREVER) for name in ("ddp-adam", "ddp-sgd", "fsdp-adam", "fsdp-sgd")}
    ranks(
        2,
        shares=(shares, root / "shares"),
        **resumes,
        saved_by_2=(start, root / "elastic"),
        saved_as_before=(save_as_before, root / "before"),
        before_loaded_by_2=(load, root / "before"),
        within=(shares_of_epoch, root / "within"),
        saved_twice=(save_twice, root / "twice", root / "copies"),
        copies=(load_each, root / "copies"),
        full_disk=(full_disk, root / "twice"),
        two_kept=(save_two, root / "damaged"),
        damage=(damage, root / "damaged", "*-step-000000002-rank-1-*"),
        one_damaged=(load, root / "damaged"),
        remove=(remove, root / "damaged", "*-step-000000001-rank-0-*"),
        all_damaged=(load, root / "damaged"),
        before_kill=(start, root / "killed"),
        **full,
        quiet=(train, runs / "quiet", "1 epoch", FOREVER),
    )
    ranks(
        3,
        taken_over_by_3=(take_over, root / "elastic"),
        before_loaded_by_3=(load, root / "before"),
        within_loaded_by_3=(within_of, root / "within"),
    )
    ranks(
        1,
        taken_over_by_1=(take_over, root / "elastic"),
        before_loaded_by_1=(load, root / "before"),
        within_loaded_by_1=(within_of, root / "within"),
    )
    ranks(2, kill=(be_killed, root / "killed"))
    ranks(2, after_kill=(take_over, root / "killed"), taken_over_by_2=(take_over, root / "elastic"))
    for number, beats in enumerate((EPOCH + 5, FOREVER)):
        ranks(2, **{f"cut_by_epochs_{number}": (train, runs / "cut-by-epochs", "1 epoch", beats)})
    for number, beats in enumerate((EPOCH + 5, EPOCH - 9, FOREVER)):
        ranks(2, **{f"cut_by_steps_{number}": (train, runs / "cut-by-steps", "5 steps", beats)})
    for number, (world_size, beats) in enumerate(((2, 20), (4, 40), (1, 40), (2, FOREVER))):
        ranks(world_size, **{f"moved_{number}": (train, runs / "moved", "3 steps", beats)})
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, prepared = map(Path, sys.argv[1:])
    (folder / "seen.json").write_text(json.dumps(main(folder, prepared)))
