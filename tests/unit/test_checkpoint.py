"""Checkpoints: any state comes back to the bit, any damage is found, the last ones stay, the weights are plain."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from foldstream.storage.errors import DamagedError, UsageError
from foldstream.storage.places.locate import locate
from foldstream.training.config import CheckpointPolicy, Execution
from foldstream.training.engine.checkpoint import Checkpoints
from foldstream.training.engine.fold_checkpoints import CheckpointSchedule
from foldstream.training.model.states import pack, unpack
from foldstream.training.model.weights import load_weights, save_weights
from torch import nn

TIED = torch.arange(6.0).reshape(2, 3)
STATE: dict[str, Any] = {
    "model": {"0.weight": TIED, "1.weight": TIED, "part": TIED[:, 1], "turned": TIED.t()},
    "optimizer": {
        "state": {
            0: {"step": torch.tensor(3.0), "moment": torch.rand(2, 3, 2, 2).to(memory_format=torch.channels_last)}
        },
        "param_groups": [{"betas": (0.9, 0.999), "lr": 0.1 + 0.2, "foreach": None, "fused": True, "params": [0]}],
    },
    "numbers": [math.inf, -math.inf, -0.0, 5e-324, 1 << 80, True, "Straße\n"],
    "tensors": [torch.tensor([True]), torch.empty(0, 2), torch.ones(2, dtype=torch.bfloat16), torch.tensor(7)],
    "a": {"b": torch.tensor(1)},
    "a.b": torch.tensor(2),
    "odd keys": [{"$tensor": "x"}, {1: "one", "1": "text"}],
    "empty": [{}, [], (), ""],
}


def assert_same(one: Any, other: Any) -> None:
    """Equal in value, type and, of tensors, memory."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for item, same in zip(one, other, strict=True):
            assert_same(item, same)
    else:
        assert repr(one) == repr(other)


def test_a_state_comes_back_to_the_bit() -> None:
    back = unpack(pack(STATE), "here")
    assert_same(back, STATE)
    moments = (state["optimizer"]["state"][0]["moment"] for state in (back, STATE))
    assert len({moment.stride() for moment in moments}) == 1
    assert pack(back) == pack(STATE)
    assert math.isnan(unpack(pack({"loss": math.nan}), "here")["loss"])


def test_any_reader_of_safetensors_finds_the_weights(tmp_path: Path) -> None:
    Checkpoints(locate(tmp_path), keep=1).save(1, 0, STATE)
    with safetensors.safe_open(next(tmp_path.iterdir()), "pt") as file:
        assert torch.equal(file.get_tensor("model.1.weight"), TIED)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1, 2}, "the set at 'model.0'"),
        (torch.eye(2).to_sparse(), "sparse.* at 'model.0'"),
        (torch.zeros(1, dtype=torch.complex128), "complex128"),
        ({(1, 2): 3}, "the dict at 'model.0'"),
    ],
    ids=["set", "sparse", "complex128", "key"],
)
def test_what_cannot_be_held_is_refused(value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pack({"model": [value]})


def test_every_changed_byte_is_found() -> None:
    data = pack({"model": {"weight": torch.arange(4.0)}, "epoch": 3})
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1
        with pytest.raises(DamagedError, match="the checkpoint here is damaged"):
            unpack(bytes(damaged), "here")
    for length in range(len(data)):
        with pytest.raises(DamagedError):
            unpack(data[:length], "here")


def names(folder: Path) -> list[str]:
    return sorted(path.name.removesuffix(".safetensors") for path in folder.iterdir())


def test_the_last_checkpoints_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(locate(tmp_path / "1"), keep=2)
    assert checkpoints.load() is None
    for epoch, step in ((0, 7), (0, 12), (1, 0), (9, 2), (10, 1)):
        checkpoints.save(epoch, step, {"at": [epoch, step]})
    assert names(tmp_path / "1") == ["epoch-00009-step-000000002", "epoch-00010-step-000000001"]
    assert checkpoints.load() == {"at": [10, 1]}


def test_of_a_damaged_checkpoint_the_one_before_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(locate(tmp_path), keep=2)
    for step in (1, 5):
        checkpoints.save(0, step, {"at": step})
    newest = tmp_path / "epoch-00000-step-000000005.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    (tmp_path / ".left.tmp").touch()
    with caplog.at_level(logging.WARNING):
        assert checkpoints.load() == {"at": 1}
    assert f"the checkpoint {newest} is damaged" in caplog.text
    checkpoints.save(0, 3, {"at": 3})
    assert names(tmp_path) == ["epoch-00000-step-000000001", "epoch-00000-step-000000003"], "the damaged one stays"
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DamagedError, match="--keep 2"):
        checkpoints.load()


def test_tied_weights_are_stored(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    save_weights(locate(tmp_path / "weights"), model.state_dict())
    assert_same(load_weights(locate(tmp_path / "weights")), dict(model.state_dict()))


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("1 epoch", CheckpointPolicy()),
        (" 2 epochs", CheckpointPolicy(2, "epoch")),
        ("500 steps", CheckpointPolicy(500, "step")),
        ("1step", CheckpointPolicy(1, "step")),
        ("0.5 minutes", CheckpointPolicy(0.5, "minute")),
    ],
)
def test_how_often_is_given_in_epochs_steps_or_minutes(text: str, policy: CheckpointPolicy) -> None:
    assert Execution.parse({"checkpoint_every": text}).checkpoints == policy


@pytest.mark.parametrize("text", ["", "5", "often", "0 epochs", "1.5 steps", "-1 minutes", "5 hours", "0 minutes"])
def test_other_measures_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="'500 steps'"):
        Execution.parse({"checkpoint_every": text})
    with pytest.raises(UsageError, match="at least 1"):
        Execution.parse({"keep": 0})


def test_steps_are_counted_over_epochs_and_from_update_to_update() -> None:
    schedule = CheckpointSchedule(CheckpointPolicy(5, "step"))
    updates = [4, 8, 12, 14, 18, 22]  # of four steps; an epoch has 14
    due = [now for before, now in zip([0, *updates], updates, strict=False) if schedule.is_due(now, now - before)]
    assert due == [8, 12, 18, 22]


def test_the_clock_is_looked_at_seldom_and_in_time() -> None:
    now = 0.0
    schedule, step, looks = CheckpointSchedule(CheckpointPolicy(10, "minute"), lambda: now), 0, 0
    written: list[float] = []
    while len(written) < 3:
        step, now = step + 1, now + (3.0 if step < 20 else 0.25)  # the first steps are slow
        if step >= schedule.check_at:
            due, steps = schedule.check_clock(step)
            looks, schedule.check_at = looks + 1, step + steps
            if due:
                written.append(now)
                schedule.note_saved(step)
    assert written == pytest.approx([600, 1200, 1800], abs=1)
    assert looks < 50
