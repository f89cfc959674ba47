"""Predictions of trained models: for held-out rows, written as parts to be merged, and for new rows, by an ensemble of
all folds."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ...storage.dataset import Dataset
from ...storage.fold_plan import open_plan
from ...storage.format.arrays import IMAGE, TABLE, x_of
from ...storage.format.schema import Schema
from ...storage.format.statistics import Statistics
from ...storage.machine import this_machine
from ...storage.parts import write_part
from ...storage.places.place import Place
from ..run import RunFolder, RunJob, read_result
from ..settings import scoring_of
from ..stream.batch import Batch, rows_in
from ..stream.device import to_device
from ..stream.rows import evaluation_batch, shard_rows
from ..stream.sequences.padding import trim_batches
from ..zoo.model_errors import errors_of_model
from .ensemble import as_stored, combine, ensemble_weights
from .objective import Normalizer, Objective, autocast, make_inputs, make_model, make_objective
from .weights import load_weights


@dataclass(frozen=True)
class Predictor:
    """A trained model with the normalization of its inputs and the conversion of its outputs."""

    model: nn.Module
    prepare: Normalizer
    objective: Objective
    device: torch.device

    @torch.inference_mode()
    def __call__(self, x: Any) -> Tensor:
        """Predict stored rows: probabilities (rows, outputs) float32, or values (rows, labels) float64, on the CPU; of
        masks, probabilities of the classes of each pixel, (rows, classes, height, width)."""
        self.model.eval()
        with errors_of_model("forward pass"), autocast(self.device, self.objective.recipe.precision):
            outputs = self.model(self.prepare(to_device(x, self.device)))
        return self.objective.predict(outputs).cpu()


def load_predictor(job: RunJob, run: RunFolder, fold: int, device: torch.device) -> Predictor:
    """Load the model of a fully trained fold. Raises DamagedError if its weights cannot be read."""
    fitted = read_result(run.fold(fold)).get("statistics")  # earlier versions standardized by all rows of the dataset
    statistics = Statistics.from_json(fitted) if fitted else job.open_data().statistics
    inputs = make_inputs(job.schema, job.config, statistics)
    model, prepare = make_model(job, fold, inputs), Normalizer(inputs).to(device)
    model.load_state_dict(load_weights(run.fold(fold).weights))
    return Predictor(model.to(device), prepare, make_objective(job, statistics).to(device), device)


def predict_folds(
    predictors: Mapping[int, Predictor],
    rows: Iterable[tuple[int, int, np.ndarray, Batch]],
    folders: Mapping[int, Place],
) -> None:
    """Predict a rank's share of the folds' rows, as yielded by `chosen_rows`.

    For each fold and each shard of the dataset, one rank writes one part into the fold's folder.
    """
    for shard, group in groupby(rows, key=lambda item: item[1]):
        parts: dict[int, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
        for fold, _, at, batch in group:
            predictor = predictors[fold]
            parts[fold].append((at, as_stored(predictor(batch.x), predictor.objective.schema).numpy()))
        for fold, pieces in parts.items():
            rows_of, values = zip(*pieces, strict=True)
            write_part(folders[fold], shard, np.concatenate(rows_of), np.concatenate(values))


@dataclass(frozen=True)
class RunEnsemble:
    """The trained models of a run, and how their predictions are combined."""

    predictors: tuple[Predictor, ...]
    kind: str
    weights: tuple[float, ...]
    schema: Schema

    def __call__(self, x: Any) -> np.ndarray:
        """Predict stored rows: (rows, outputs), probabilities in float32 or values in float64; or masks, codes of
        classes (rows, height, width) uint8."""
        count, step = len(next(iter(x.values())) if isinstance(x, dict) else x), evaluation_batch(self.schema)
        parts = (rows_in(x, first, first + step) for first in range(0, count, step))
        if self.schema.tokens:
            parts = (trim_batches([(part,)])[0][0] for part in parts)
        every = (torch.stack([predictor(part) for predictor in self.predictors]) for part in parts)
        with _threads_on_cores():
            return torch.cat([combine(one, self.kind, self.weights, self.schema) for one in every]).numpy()


@dataclass(frozen=True)
class WeightedRuns:
    """The models of several runs, and the weights of their predictions."""

    runs: tuple[RunEnsemble, ...]
    weights: tuple[float, ...]
    schema: Schema

    def __call__(self, x: Any) -> np.ndarray:
        """Predict stored rows, (rows, outputs): the weighted sum of what the runs predict."""
        every = np.stack([run(x) for run in self.runs])
        mixed: np.ndarray = np.einsum("m,mro->ro", np.array(self.weights), every.astype(np.float64))
        return mixed.astype(every.dtype)


@dataclass(frozen=True)
class StackedRuns:
    """The models of runs, and those of a run that takes their predictions as its last features. `schema` is that of
    the upper run's rows."""

    below: "tuple[Models, ...]"
    run: RunEnsemble | WeightedRuns
    schema: Schema

    def __call__(self, x: Any) -> np.ndarray:
        """Predict stored rows of the lower runs, as the upper one does: (rows, outputs)."""
        assert self.schema.stacked
        added = np.concatenate([self.schema.stacked.features_of(models(x)) for models in self.below], axis=1)
        return self.run(with_predictions(x, torch.from_numpy(added), self.schema))


def x_rows(x: Any) -> Tensor:
    """The samples of stored rows, without columns beside them."""
    samples: Tensor = x[IMAGE] if isinstance(x, dict) else x
    return samples


def with_predictions(x: Any, added: Tensor, schema: Schema) -> Any:
    """Stored rows with predictions as further features, as rows of a dataset with this schema are stored."""
    if schema.table:
        beside = [x[TABLE]] if isinstance(x, dict) else []
        table = torch.cat([*beside, added.to(torch.float64)], dim=1)
        return {IMAGE: x_rows(x), TABLE: table}
    dtype = torch.from_numpy(np.empty(0, schema.x_dtype)).dtype
    own = [] if schema.stacked and schema.stacked.only else [x_rows(x).to(dtype)]
    return torch.cat([*own, added.to(dtype)], dim=1)


Models: TypeAlias = RunEnsemble | WeightedRuns | StackedRuns


def load_ensemble(job: RunJob, run: RunFolder, kind: str = "mean") -> RunEnsemble:
    """Load the models of all folds of a run, or with the kind "refit" the one that was trained on all rows."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = len(open_plan(run.folds).models)
    folds = [count] if kind == "refit" else range(count)
    predictors = tuple(load_predictor(job, run, fold, device) for fold in folds)
    monitored = job.config.monitored
    scores = [read_result(run.fold(fold))["metrics"].get(monitored, np.nan) for fold in folds]
    weights = ensemble_weights(scores, scoring_of(job.schema, job.config).higher_is_better(monitored))
    return RunEnsemble(predictors, kind, tuple(weights), job.schema)


def predict_shards(
    models: Models, dataset: Dataset, shards: Iterable[int]
) -> Iterator[tuple[int, dict[str, np.ndarray], np.ndarray]]:
    """Predict every row of some shards, in order, with the models of all folds in one pass over the data.

    Yields batches of rows as their shard, a dictionary of their arrays, and their predictions, see `RunEnsemble`.
    """
    names = tuple(spec.name for spec in dataset.manifest.arrays)
    for shard, arrays in shard_rows(dataset, names, shards):
        yield (
            shard,
            arrays,
            models(x_of({name: torch.from_numpy(arrays[name]) for name in ("x", TABLE) if name in arrays})),
        )


@contextmanager
def _threads_on_cores() -> Iterator[None]:
    """Limit torch to the cores of this process's control group, which it does not know, as long as rows are
    predicted."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, this_machine().cores))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
