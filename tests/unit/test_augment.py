"""Augmentation: what a loop by hand gives, to the bit, and the same bits however a run is carried out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pytest
import torch
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import ConflictError, UsageError
from foldstream.storage.format.schema import Schema
from foldstream.storage.places.locate import locate
from foldstream.training.config import Execution, TrainingOptions
from foldstream.training.engine.learner import AUGMENTATION
from foldstream.training.model.augmentation import check_augmentation, make_augmentation
from foldstream.training.model.weights import load_weights
from foldstream.training.run import RunFolder, load_job
from foldstream.training.seeding import seed_of
from torch import Tensor
from torch.nn import functional

from .test_mid_epoch import train_alone
from .test_optimizers import MODEL
from .test_training import fold_bytes, make_job

IMAGES = Schema((), (3, 6, 5), "uint8", ("kind",), "classification", "uint8", ("a", "b", "c"))
NUMBERS = Schema(("a", "b"), (2,), "int64", ("price",), "regression", "float64")
OWN = """
import torch

def noise(x, y, generator):
    return x + torch.randn(x.shape, generator=generator), y
"""


def images() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(1)
    x = torch.randint(256, (7, 3, 6, 5), generator=draws, dtype=torch.uint8)
    return x, torch.tensor([0, 1, 2, 0, 1, 2, 0], dtype=torch.uint8)


def augment(text: str, x: Tensor, y: Tensor, schema: Schema = IMAGES, seed: int = 5) -> tuple[Tensor, Tensor]:
    return make_augmentation((text,), schema)(x, y, seed)


def test_each_image_is_flipped_by_itself() -> None:
    x, y = images()
    for text, axis in (("horizontal-flip", 2), ("vertical-flip=0.5", 1)):
        found, labels = augment(text, x, y)
        chosen = torch.rand(7, generator=torch.Generator().manual_seed(5)) < 0.5
        assert 0 < chosen.sum() < 7
        for one, flipped, image in zip(x, chosen, found, strict=True):
            np.testing.assert_array_equal(image, np.flip(one.numpy(), axis) if flipped else one)
        assert found.dtype == torch.uint8
        assert torch.equal(labels, y)


def test_each_image_is_cropped_from_a_place_of_its_own() -> None:
    x, y = images()
    found, _ = augment("crop=2", x, y)
    tops, lefts = torch.randint(5, (2, 7), generator=torch.Generator().manual_seed(5))
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    for number, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        np.testing.assert_array_equal(found[number], padded[number, :, top : top + 6, left : left + 5])
    assert len(set(tops.tolist())) > 1


def test_mixup_mixes_rows_and_targets() -> None:
    x, y = images()
    found, targets = augment("mixup=0.4", x, y)
    (share,) = (targets.gather(1, y.long()[:, None])[:, 0][targets.max(dim=1).values < 1]).unique()[:1]  # type: ignore[no-untyped-call]
    others = [next(o for o in range(7) if torch.equal(found[n], share * x[n] + (1 - share) * x[o])) for n in range(7)]
    assert sorted(others) == list(range(7))
    expected = share * functional.one_hot(y.long(), 3) + (1 - share) * functional.one_hot(y.long(), 3)[others]
    assert torch.equal(targets, expected)
    x, y = torch.tensor([[1, 2], [5, 7], [2_000_000_001, 0]]), torch.tensor([1.5, 2.5, 4.0], dtype=torch.float64)
    found, targets = augment("mixup", x, y, NUMBERS)
    assert (found.dtype, targets.dtype) == (torch.float64, torch.float64)
    assert targets.sum().item() == pytest.approx(8.0)


def test_cutmix_mixes_targets_by_the_area() -> None:
    x, y = torch.arange(7, dtype=torch.uint8)[:, None, None, None].expand(7, 3, 6, 5), torch.arange(7) % 3
    sizes = set()
    for seed in range(20):
        found, targets = augment("cutmix", x, y, seed=seed)
        for number in range(7):
            values, counts = found[number, 0].unique(return_counts=True)  # type: ignore[no-untyped-call]
            shares = functional.one_hot(y[values.long()], 3).T.float() @ (counts / 30)
            torch.testing.assert_close(targets[number], shares)
            assert torch.equal(found[number, 0], found[number, 2])
        sizes.add(float(counts.max()))
    assert len(sizes) > 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("horizontal_flip", "no such augmentation; did you mean .horizontal-flip"),
        ("crop=1.5", r"crop=1\.5.*: takes pixels, e\.g\. crop=4"),
        ("horizontal-flip=2", "takes a probability"),
        ("mixup=0", "takes a number above 0"),
        ("mixup=much", "must be one of"),
    ],
)
def test_what_is_no_augmentation_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TrainingOptions.parse({"augment": text})


@pytest.mark.parametrize(
    ("text", "schema", "message"),
    [
        ("horizontal-flip", NUMBERS, r"requires images, but samples of this dataset have shape \(2,\)"),
        (
            "cutmix",
            Schema((), (3, 6, 5), "uint8", ("price",), "regression", "float32"),
            "the dataset has none; use mixup",
        ),
        ("mixup", Schema(("a",), (1,), "int16", ("p",), "regression", "float32", categories={"a": ("x",)}), "category"),
        ("mixup", replace(NUMBERS, roles={"weight": ("w",)}), r"but the rows have sample weights \('w'\)"),
        ("RandomRotation=15", IMAGES, "torchvision is not installed; install it"),
        ("{own}:missing", IMAGES, "does not define a function 'missing'"),
        ("{own}:shrinks", IMAGES, r"returns x of shape \(2, 3, 6\) .*; return the same shapes"),
        ("{own}:fails", IMAGES, r"own.py, line \d+: ValueError: no"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_data_is_refused(text: str, schema: Schema, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "def shrinks(x, y, generator):\n    return x[..., 0], y\n"
        "def fails(x, y, generator):\n    raise ValueError('no')\n"
    )
    x = torch.zeros(2, *schema.sample_shape, dtype=getattr(torch, schema.x_dtype))
    with pytest.raises(UsageError, match=message):
        check_augmentation((text.format(own=tmp_path / "own.py"),), schema, x, torch.zeros(2))


def test_a_loop_by_hand_gives_the_weights_of_train(digits: Dataset, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(MODEL + OWN)
    run, code = tmp_path / "run", str(tmp_path / "own.py")
    options: dict[str, Any] = {"folds": 3, "epochs": 2, "batch_size": 64, "workers": 0, "shares": 1}
    settings = {"optimizer": "SGD", "lr": 0.1, "weight_decay": 0.0, "scheduler": "ConstantLR"}
    texts = ("crop=2", "mixup", f"{code}:noise")
    fs.train(digits.place, run, model=f"{code}:make", augment=texts, settings=settings, **options)
    namespace: dict[str, Any] = {}
    exec(MODEL, namespace)
    network, change = namespace["make"]((1, 28, 28), 10), make_augmentation(texts, digits.schema)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    normalize = fs.normalizer(digits, fold=1, folds=run)
    stream = fs.stream(digits, fold=1, folds=run, batch_size=64)
    number = 0
    for _ in range(2):
        for x, y, _ in stream:
            x, y = change(x, y, seed_of(AUGMENTATION, 0, 1, number, 0))
            optimizer.zero_grad()
            functional.cross_entropy(network(normalize(x)), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            number += 1
    for name, weights in load_weights(locate(run / "folds/1/model.safetensors")).items():
        assert torch.equal(network.state_dict()[name], weights), name


def test_the_users_function_travels_with_the_run(digits: Dataset, tmp_path: Path) -> None:
    own, model = tmp_path / "own.py", tmp_path / "model" / "own.py"
    own.write_text(OWN)
    options: dict[str, Any] = {"folds": 2, "epochs": 1, "settings": {"hidden": 8, "scheduler": "ConstantLR"}}
    options |= {"augment": [f"{own}:noise", "mixup"], "model": "mlp"}
    fs.train(digits.place, tmp_path / "run", **options)
    assert (tmp_path / "run/code/own.py").read_text() == OWN
    assert load_job(RunFolder(locate(tmp_path / "run"))).config.augment == (
        f"{tmp_path}/run/code/./own.py:noise",
        "mixup",
    )
    own.write_text(OWN.replace("x +", "x -"))
    with pytest.raises(ConflictError, match=r"the file own\.py of the code has changed"):
        fs.train(digits.place, tmp_path / "run", **options)
    model.parent.mkdir()
    model.write_text(MODEL)
    with pytest.raises(UsageError, match=r"would both be own\.py in the run.s folder; rename one of them"):
        fs.train(digits.place, tmp_path / "other", **options | {"model": f"{model}:make", "settings": {}})
    own.unlink()
    with pytest.raises(UsageError, match=r"own\.py: the file does not exist; check the path"):
        fs.train(digits.place, tmp_path / "other", **options)
    fs.train(digits.place, tmp_path / "run", **options)  # it has a copy
    (tmp_path / "run/code/own.py").write_text(OWN + "# changed")
    with pytest.raises(ConflictError, match=r"code/own\.py is missing or has changed since the run was started"):
        load_job(RunFolder(locate(tmp_path / "run")))


def test_the_bits_are_the_same_in_runs_fused_and_after_a_kill(digits: Dataset, tmp_path: Path) -> None:
    """test_mid_epoch.py has two ranks."""
    options: dict[str, Any] = {"augment": ("crop=3", "cutmix"), "epochs": 2, "shares": 2, "model": "mlp"}
    settings = {"hidden": 8}
    job, quiet = make_job(digits, tmp_path / "quiet", settings, **options)
    train_alone(job, quiet, Execution(), "runs", [])
    job, cut = make_job(digits, tmp_path / "cut", settings, **options)
    assert train_alone(job, cut, Execution(checkpoint_every="3 steps"), "fused", [25])[0]
    assert fold_bytes(cut) == fold_bytes(quiet)
    job, plain = make_job(digits, tmp_path / "plain", settings, **options | {"augment": ()})
    train_alone(job, plain, Execution(), "fused", [])
    assert fold_bytes(plain) != fold_bytes(quiet)


def test_a_stack_augments_each_fold_as_it_is_alone(digits: Dataset, tmp_path: Path) -> None:
    found = []
    for stack in (False, True):
        settings = {"stack": stack, "optimizer": "SGD", "layers": 0}
        options: dict[str, Any] = {"model": "mlp", "epochs": 1, "batch_size": 56, "augment": ("crop=3", "mixup")}
        options["drop_last"] = True
        job, run = make_job(digits, tmp_path / str(stack), settings, **options)
        train_alone(job, run, Execution(), "fused", [])
        found.append([load_weights(run.fold(fold).weights) for fold in range(3)])
    for alone, stacked in zip(*found, strict=True):
        for name in alone:
            torch.testing.assert_close(alone[name], stacked[name], rtol=1e-3, atol=1e-4)
