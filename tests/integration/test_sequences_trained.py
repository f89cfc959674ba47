"""Models of sequences: the same bytes from one pass, from a run for each fold, after a kill, and on two ranks; and
predictions of raw texts by the tokenizer that the run keeps."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import foldstream as fs
import numpy as np
import pyarrow as pa
import pytest
from foldstream.cluster.serve.bodies import parse_body
from foldstream.cluster.serve.service import Service
from foldstream.storage.dataset import Dataset
from foldstream.storage.errors import UsageError
from foldstream.training.engine.checkpoint import Checkpoints
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.run import RunFolder, folds_of, read_result
from pyarrow import csv, parquet

from ..unit.test_training import fold_bytes, make_job, train_on_two_ranks

ROWS = 2000

KILLED = """
import os
import signal
import sys
from foldstream.storage.places.locate import locate
from foldstream.training.config import Execution
from foldstream.training.engine.loop import FoldTrainer
from foldstream.training.engine.process import Process
from foldstream.training.run import RunFolder, folds_of, load_job

root, left = RunFolder(locate(sys.argv[1])), int(sys.argv[2])


def heartbeat(working):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)


request, folds = Execution(checkpoint_every="5 steps"), folds_of(load_job(root), root, range(3))
FoldTrainer(folds, Process(), request, heartbeat).train()
"""


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Log-normal lengths; the classes have different ids, of 16 bits."""
    folder = tmp_path_factory.mktemp("sequences")
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, ROWS)
    lengths = np.clip(np.round(generator.lognormal(3, 0.6, ROWS)), 0, 200).astype(np.int64)
    rows = [generator.integers(1 + 300 * y, 700 + 300 * y, n) for y, n in zip(labels, lengths, strict=True)]
    table = pa.table({"tokens": pa.array(rows, pa.list_(pa.int64())), "label": np.array(["no", "yes"])[labels]})
    parquet.write_table(table, folder / "data.parquet")
    return fs.convert_csv(folder / "data.parquet", folder / "data.zarr", tokens="tokens", label="label")


@pytest.fixture(scope="module")
def one_by_one(sequences: Dataset, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose folds were trained alone, with two shares of each batch."""
    job, run = make_job(sequences, tmp_path_factory.mktemp("alone"), model="deep-averaging", shares=2)
    for fold in range(3):
        FoldTrainer(folds_of(job, run, [fold]), Process()).train()
    return run


def test_a_model_learns_from_sequences(one_by_one: RunFolder, sequences: Dataset) -> None:
    assert sequences.schema.x_dtype == "uint16"
    assert all(read_result(one_by_one.fold(fold))["metrics"]["accuracy"] > 0.85 for fold in range(3))


def test_one_pass_gives_the_bytes_of_a_run_for_each_fold(
    one_by_one: RunFolder, sequences: Dataset, tmp_path: Path
) -> None:
    job, fused = make_job(sequences, tmp_path / "fused", model="deep-averaging", shares=2)
    FoldTrainer(folds_of(job, fused, range(3)), Process()).train()
    assert fold_bytes(fused) == fold_bytes(one_by_one)


def test_killed_in_the_midst_of_an_epoch_training_resumes_to_the_same_bytes(
    one_by_one: RunFolder, sequences: Dataset, tmp_path: Path
) -> None:
    job, run = make_job(sequences, tmp_path / "killed", model="deep-averaging", shares=2)
    process = subprocess.run([sys.executable, "-c", KILLED, str(run.root), "50"], timeout=200, check=False)
    assert process.returncode == -signal.SIGKILL
    saved = [Checkpoints(run.fold(fold).checkpoints, 1).load() for fold in range(3)]
    assert any(state and state["step"] for state in saved), "no checkpoint in the midst of an epoch"
    FoldTrainer(folds_of(job, run, range(3)), Process()).train()
    assert fold_bytes(run) == fold_bytes(one_by_one)


@pytest.mark.long
@pytest.mark.parametrize("groups", ["0 1 2", "0,1,2"], ids=["runs", "fused"])
def test_two_ranks_train_the_models_of_one(
    groups: str, one_by_one: RunFolder, sequences: Dataset, tmp_path: Path
) -> None:
    _, run = make_job(sequences, tmp_path / "ranks", model="deep-averaging", shares=2)
    train_on_two_ranks(run, groups, tmp_path / "meet")
    assert fold_bytes(run) == fold_bytes(one_by_one)


WORDS = ["film", "good", "bad", "great", "awful", "plot", "actor", "scene", "music", "end"]
TOKENIZER = f"""
WORDS = {WORDS!r}


def tokenize(texts):
    return [[2 + WORDS.index(word) if word in WORDS else 1 for word in text.split()] for text in texts]
"""


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on texts. The dataset and the tokenizer's file are gone."""
    folder = tmp_path_factory.mktemp("reviews")
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 400)
    texts = [
        " ".join([*generator.choice(WORDS, size), "good great" if label else "bad awful"])
        for label, size in zip(labels, generator.integers(1, 12, 400), strict=True)
    ]
    csv.write_csv(pa.table({"text": texts, "label": np.array(["no", "yes"])[labels]}), folder / "reviews.csv")
    (folder / "tok.py").write_text(TOKENIZER)
    tokenizer = f"{folder}/tok.py:tokenize"
    fs.convert_csv(folder / "reviews.csv", folder / "reviews.zarr", tokens="text", tokenizer=tokenizer, label="label")
    fs.train(folder / "reviews.zarr", folder / "run", folds=2, epochs=3, settings={"lr": 0.01}, workers=0)
    shutil.rmtree(folder / "reviews.zarr")
    (folder / "tok.py").unlink()
    return folder


def test_a_run_predicts_and_serves_raw_texts_by_its_own_copy_of_the_tokenizer(reviews: Path, tmp_path: Path) -> None:
    texts = ["a great film", "the plot was bad awful", "", "great great great " * 40]
    csv.write_csv(pa.table({"text": texts}), tmp_path / "new.csv")
    fs.predict(reviews / "run", tmp_path / "new.csv", tmp_path / "out.csv", proba=True)
    predicted = csv.read_csv(tmp_path / "out.csv").to_pydict()
    assert predicted["label"][:2] == ["yes", "no"]
    service = Service(reviews / "run")
    (answer,) = service.answer([[*parse_body(service.schema, "application/json", as_json(texts))]])
    served = [one["probabilities"]["yes"] for one in answer.predictions]
    assert served == pytest.approx(predicted["probability_yes"], abs=1e-6)


def as_json(texts: list[str]) -> bytes:
    return str([{"text": text} for text in texts]).replace("'", '"').encode()


def test_what_does_not_fit_sequences_is_refused_before_training(sequences: Dataset, tmp_path: Path) -> None:
    options: dict[str, dict[str, Any]] = {
        "deep-averaging": {"model": "mlp"},
        "normalize": {"normalize": ["minmax"]},
        "mixup": {"augment": ["mixup"]},
        "stack": {"settings": {"stack": True}},
    }
    for message, option in options.items():
        with pytest.raises(UsageError, match=message):
            fs.train(sequences, tmp_path / "run", **option)
    assert not (tmp_path / "run").exists()
