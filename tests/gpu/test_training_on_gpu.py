"""On a GPU: one pass is the same as separate runs, a resumed run ends with the same bits, and copies cost no time."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from foldstream.cluster.doctor.gpus import examine_gpus
from foldstream.storage.dataset import Dataset
from foldstream.storage.places.json_files import read_json
from foldstream.training.engine.process import Process
from foldstream.training.model.weights import load_weights
from foldstream.training.run import RunFolder, read_result

from ..unit.test_stack import NO_CHANCE, train
from ..unit.test_training import make_job
from .conftest import write_shapes
from .profile import overlap_of_copies, profiled

FOLDS = 3
EXACT = {"deterministic": True}
TOLERANCE = 0.02
"""Relative, of a loss: without deterministic algorithms, sums on a GPU differ from one time to the next."""


@pytest.fixture(autouse=True)
def any_algorithm_afterwards() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def losses(run: RunFolder) -> list[float]:
    return [epoch["loss"] for fold in range(FOLDS) for epoch in read_result(run.fold(fold))["history"]]


def weights(run: RunFolder) -> list[bytes]:
    return [run.fold(fold).weights.read_bytes() for fold in range(FOLDS)]


@pytest.mark.parametrize("settings", [{}, EXACT], ids=["default", "deterministic"])
def test_one_pass_gives_what_separate_runs_give(
    settings: dict[str, Any], shapes: Dataset, device: torch.device, tmp_path: Path
) -> None:
    process = Process(device=device)
    if settings:
        process.use_deterministic_algorithms()
    job, runs = make_job(shapes, tmp_path / "runs", settings)
    for fold in range(FOLDS):
        train(job, runs, [fold], process)
    job, fused = make_job(shapes, tmp_path / "fused", settings)
    train(job, fused, [0, 1, 2], process)
    assert losses(fused) == pytest.approx(losses(runs), rel=TOLERANCE)
    if settings:
        assert weights(fused) == weights(runs)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_run_resumes_to_the_same_bits_in_any_precision(
    precision: str, shapes: Dataset, device: torch.device, tmp_path: Path
) -> None:
    """With float16 the scale of the gradients is part of the state."""
    process = Process(device=device)
    process.use_deterministic_algorithms()
    settings = EXACT | {"precision": precision}
    job, quiet = make_job(shapes, tmp_path / "quiet", settings, model="mlp")
    train(job, quiet, [0, 1, 2], process)
    job, cut = make_job(shapes, tmp_path / "cut", settings, model="mlp")
    train(job, cut, [0, 1, 2], process, stop_at=FOLDS)  # after the first epoch
    train(job, cut, [0, 1, 2], process)
    assert weights(cut) == weights(quiet)
    assert read_result(cut.fold(0))["metrics"]["accuracy"] > 0.8


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of torch about its own
def test_a_compiled_model_learns_the_same(shapes: Dataset, device: torch.device, tmp_path: Path) -> None:
    runs = []
    for compiled in (False, True):
        job, run = make_job(shapes, tmp_path / str(compiled), {"compile": compiled, "dropout": 0.0}, model="mlp")
        train(job, run, [0, 1, 2], Process(device=device))
        runs.append(run)
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=TOLERANCE)


def test_a_stack_gives_what_each_fold_gives_alone(shapes: Dataset, device: torch.device, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(NO_CHANCE)
    runs = []
    for stack in (False, True):
        settings = {"stack": stack, "optimizer": "SGD"}
        model = f"{tmp_path}/own.py:make"
        job, run = make_job(shapes, tmp_path / str(stack), settings, model=model, drop_last=True)
        train(job, run, [0, 1, 2], Process(device=device))
        runs.append(run)
    for fold in range(FOLDS):
        one, other = (load_weights(run.fold(fold).weights) for run in runs)
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-2, atol=1e-3)


def test_batches_go_to_the_device(shapes: Dataset, device: torch.device) -> None:
    import foldstream as fs

    here = [(x.clone(), y, ids) for x, y, ids in fs.stream(shapes, batch_size=64)]
    there = list(fs.stream(shapes, batch_size=64, device=device))
    assert {tensor.device.type for batch in there for tensor in batch} == {device.type}
    for one, other in zip(here, there, strict=True):
        assert all(torch.equal(a, b.cpu()) for a, b in zip(one, other, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a verdict on a GPU")
def test_the_doctor_says_that_the_gpu_is_used() -> None:
    found = examine_gpus()
    assert all(finding.ok for finding in found), found
    print(*(f"{finding.name}: {finding.value}" for finding in found), sep="\n")


def test_the_record_has_the_memory_of_the_gpu(
    shapes: Dataset, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("foldstream.training.engine.fold_reports.PROGRESS_SECONDS", 0.0)
    job, run = make_job(shapes, tmp_path)
    train(job, run, [0], Process(device=device))
    used = read_json(run.fold(0).steps)["used"]
    assert ("gpu" in used) == (device.type == "cuda")
    if "gpu" in used:
        assert 0 < used["gpu"]["memory"] < used["gpu"]["total"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="copies to a GPU")
def test_copies_overlap_with_computing_and_no_step_waits(device: torch.device, tmp_path: Path) -> None:
    job, run = make_job(write_shapes(tmp_path / "many.zarr", 20_000), tmp_path / "run", epochs=2, batch_size=256)
    with profiled() as events:
        train(job, run, [0, 1, 2], Process(device=device))
    assert overlap_of_copies(events) > 0.5
    waits = [event for event in events if event.name in ("cudaStreamSynchronize", "cudaDeviceSynchronize")]
    steps = FOLDS * 2 * 52
    assert len(waits) < steps / 2, "a wait at each step"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the memory of a GPU")
def test_ten_times_the_rows_need_the_same_memory(device: torch.device, tmp_path: Path) -> None:
    peaks = []
    for rows in (4_000, 40_000):
        job, run = make_job(write_shapes(tmp_path / f"{rows}.zarr", rows), tmp_path / str(rows), epochs=1)
        torch.cuda.reset_peak_memory_stats()
        train(job, run, [0, 1, 2], Process(device=device))
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < 1.05 * peaks[0]


RANK = """
import sys
import torch
from foldstream.storage.places.locate import locate
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import local_group
from foldstream.training.run import RunFolder, folds_of, load_job

rank, root, rendezvous, device = int(sys.argv[1]), RunFolder(locate(sys.argv[2])), sys.argv[3], sys.argv[4]
with local_group(rank, 2, rendezvous, torch.device(device)) as process:
    FoldTrainer(folds_of(load_job(root), root, [0, 1, 2]), process).train()
"""


def test_two_ranks_share_a_device(shapes: Dataset, device: torch.device, tmp_path: Path) -> None:
    """NCCL refuses two ranks on one GPU, so they exchange by gloo."""
    job, alone = make_job(shapes, tmp_path / "alone", shares=2)
    train(job, alone, [0, 1, 2], Process(device=device))
    _, run = make_job(shapes, tmp_path / "run", shares=2)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", RANK]
    arguments = str(run.root), str(tmp_path / "meet"), str(device)
    ranks = [subprocess.Popen([*command, str(rank), *arguments], env=environment) for rank in range(2)]
    assert [process.wait(timeout=100) for process in ranks] == [0, 0]
    assert losses(run) == pytest.approx(losses(alone), rel=TOLERANCE)
