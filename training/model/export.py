"""Export trained models for use without Foldstream, as plain torch modules or as files in standard formats."""

import io
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from ...storage.errors import UsageError, check_choice, disk_in_words
from ...storage.fold_plan import open_plan
from ...storage.places.json_files import write_json
from ...storage.places.locate import Location, locate
from ...storage.places.place import Place
from ...storage.programs.user_code import describe_error
from ..run import RunFolder, RunJob, best_folder, is_done, load_job
from .onnx_file import Stored, ensemble_to_onnx, example_rows, to_onnx
from .prediction import Predictor, load_predictor
from .weights import contiguous_copy

ENSEMBLE_FILE = "ensemble.onnx"


class UnscaleTargets(nn.Module):
    """Converts outputs for standardized regression targets to the targets' own units, (rows, labels) float64."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, outputs: Tensor) -> Tensor:
        return outputs.double() * self.std + self.mean


def load_models(run: Location) -> list[nn.Module]:
    """Load the models of all folds of a run as plain torch modules.

    Each module is a Sequential of `prepare`, which standardizes each channel; `model`, which the factory created; and,
    for regression, `units`, which converts predictions back to the units of the targets.

    Args:
        run: The folder of the run. For a grid search, the models of the best candidate are loaded.

    Returns:
        One module per fold, in order, on the CPU and in evaluation mode. Each takes rows as stored in the dataset, the
        `x` of a batch: (rows, *sample_shape), or a dict of `image` and `table`. For classification it returns logits,
        (rows, classes) float32, whose softmax `predict` averages over the folds; for multi-label data logits, (rows,
        labels), whose sigmoid it averages; for regression values in the units of the targets, (rows, labels) float64.

    Raises:
        UsageError: Some folds are not fully trained.
        ForeignError: The folder is not a run.
        ConflictError: The run's model file has changed since the run was started.
        DamagedError: The weights of a fold are missing or damaged.

    Example:
        >>> models = fs.load_models("runs/flowers")
        >>> batch = next(iter(fs.stream("flowers.zarr", split="test")))
        >>> probabilities = sum(model(batch.x).softmax(dim=1) for model in models) / len(models)
        >>> probabilities.shape == (len(batch.x), 3)
        True
    """
    job, predictors = load_predictors(run)
    models: list[nn.Module] = []
    for predictor in predictors:
        parts: list[tuple[str, nn.Module]] = [("prepare", predictor.prepare), ("model", predictor.model)]
        if not job.schema.probabilities:
            parts.append(("units", UnscaleTargets(predictor.objective.center, predictor.objective.spread)))
        models.append(nn.Sequential(OrderedDict(parts)).eval())
    return models


def load_predictors(run: Location) -> tuple[RunJob, list[Predictor]]:
    """The job of a run, and the trained models of its folds on the CPU; see `load_models`."""
    folder = RunFolder(best_folder(locate(run)))
    job = load_job(folder)
    folds = range(len(open_plan(folder.folds).models))
    if unfinished := [str(fold) for fold in folds if not is_done(folder.fold(fold))]:
        raise UsageError(
            f"{run} is incomplete: folds {', '.join(unfinished)} are not fully trained; run its 'foldstream train' "
            "command again to resume it"
        )
    with torch.random.fork_rng(devices=[]):  # initializing a model seeds the global generator
        return job, [load_predictor(job, folder, fold, torch.device("cpu")) for fold in folds]


def export(run: Location, out: Location, *, format: str = "torchscript", ensemble: bool = False) -> list[Path]:
    """Write the models that `load_models` returns to files that can be read without Foldstream.

    An additional file `export.json` lists the model files, and whether the outputs are `logits` or `values`. Its
    `schema` describes the columns of a row and the classes or targets.

    With `ensemble`, the mean of all folds becomes one ONNX file instead, which predicts what `predict` does. It has an
    input per column of a table (numbers and dates, the latter as days or seconds since 1970, as double with NaN for a
    missing value; categories as strings), or the input `image` or `x`, an array as stored in the dataset. Its outputs
    are `label`, the names of the classes, and `probabilities`, or `prediction` for regression.

    Args:
        run: The folder of the run, or of a grid search, whose best candidate is exported.
        out: The folder to write to. It is created if necessary. With `ensemble`, it may be a file `NAME.onnx`.
        format: `torchscript` (for `torch.jit.load`), `onnx` (input `x`, or `image` and `table`; output `y`), or
            `safetensors` (only the weights, named as in `state_dict`).
        ensemble: Write one file of the whole ensemble, with the preparation of its rows; the format must be `onnx`.

    Returns:
        The model files, one per fold, in order; with `ensemble` a single one.

    Raises:
        UsageError: The format is unknown or cannot represent the model, its packages are not installed, `out` is a
            file, or some folds are not fully trained.
        ForeignError: The folder is not a run.
        DiskError: The files cannot be written.

    Example:
        >>> fs.export("runs/flowers", "exported", format="torchscript")
        [PosixPath('.../exported/fold-0.pt'), ...]
    """
    check_choice("--format", format, FORMATS)
    if ensemble:
        return [export_ensemble(run, locate(Path(str(out))), format)]
    folder = locate(Path(str(out)))
    if folder.is_file():
        raise UsageError(f"{out} is a file; choose a folder for the model files")
    models, schema = load_models(run), load_job(RunFolder(best_folder(locate(run)))).schema
    ending, encode = FORMATS[format]
    rows = example_rows(schema)
    files = [folder / f"fold-{fold}{ending}" for fold in range(len(models))]
    for file, model in zip(files, models, strict=True):
        with _refusal_in_words(format, "use --format safetensors, which works for every model"):
            data = encode(model, rows)
        with disk_in_words(folder):
            file.write(data)
    output = "logits" if schema.probabilities else "values"
    description = {"files": [file.name for file in files], "output": output, "schema": schema.to_json()}
    write_json(folder / "export.json", description)
    return [Path(file) for file in files]


def export_ensemble(run: Location, out: Place, format: str) -> Path:
    """Write the file of a run's ensemble; see `export`."""
    if format != "onnx":
        raise UsageError(f"--ensemble writes ONNX files, but --format is {format}; add --format onnx")
    file = out if out.suffix == FORMATS[format][0] else out / ENSEMBLE_FILE
    if file.is_dir() or (out.is_file() and out != file):
        raise UsageError(f"{out} is a {'folder' if out.is_dir() else 'file'}; give a folder, or a file NAME.onnx")
    job, predictors = load_predictors(run)
    remedy = "export the folds with --format safetensors, or serve the ensemble with 'foldstream serve'"
    with _refusal_in_words(format, remedy):
        data = ensemble_to_onnx(predictors, job.schema)
    with disk_in_words(file):
        file.write(data)
    return Path(file)


@contextmanager
def _refusal_in_words(format: str, remedy: str) -> Iterator[None]:
    """Raise UsageError, with the remedy, if torch cannot export a model."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # torch and user code may raise anything
        reason = describe_error(error.__cause__ or error).partition("\n")[0]  # what torch wraps has pages of advice
        raise UsageError(f"--format {format}: torch cannot export this model: {reason}; {remedy}") from error


def to_torchscript(model: nn.Module, rows: Stored) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        # torch recommends torch.export instead, whose files torch.jit.load cannot read.
        warnings.simplefilter("ignore", DeprecationWarning)
        # A model may compute with the shape of a sample in Python, because that shape is fixed.
        warnings.simplefilter("ignore", TracerWarning)
        torch.jit.save(torch.jit.trace(model, (rows,)), buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def to_safetensors(model: nn.Module, rows: Stored) -> bytes:
    return safetensors.torch.save({name: contiguous_copy(tensor) for name, tensor in model.state_dict().items()})


FORMATS: dict[str, tuple[str, Callable[[nn.Module, Stored], bytes]]] = {
    "torchscript": (".pt", to_torchscript),
    "onnx": (".onnx", to_onnx),
    "safetensors": (".safetensors", to_safetensors),
}
"""For each format, the file suffix and the function that encodes a model, traced with example rows."""
