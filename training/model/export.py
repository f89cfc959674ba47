"""Export trained models for use without Foldstream, as plain torch modules or as files in standard formats."""

import io
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from ...storage.errors import UsageError, check_choice, disk_in_words
from ...storage.fold_plan import open_plan
from ...storage.format import x_of
from ...storage.places.json_files import write_json
from ...storage.places.locate import Location, locate
from ..run import RunFolder, best_folder, is_done, load_job
from ..zoo.user_code import describe_error
from .prediction import load_predictor
from .weights import contiguous_copy

Stored = Tensor | dict[str, Tensor]
"""The `x` of a batch."""
EXAMPLE_ROWS = 2  # models are traced with so many rows; any number gives the same trace


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
    folder = RunFolder(best_folder(locate(run)))
    job = load_job(folder)
    folds = range(len(open_plan(folder.folds).models))
    if unfinished := [str(fold) for fold in folds if not is_done(folder.fold(fold))]:
        raise UsageError(
            f"{run} is incomplete: folds {', '.join(unfinished)} are not fully trained; run its 'foldstream train' "
            "command again to resume it"
        )
    models: list[nn.Module] = []
    for fold in folds:
        with torch.random.fork_rng(devices=[]):  # initializing a model seeds the global generator
            predictor = load_predictor(job, folder, fold, torch.device("cpu"))
        parts: list[tuple[str, nn.Module]] = [("prepare", predictor.prepare), ("model", predictor.model)]
        if not job.schema.probabilities:
            parts.append(("units", UnscaleTargets(predictor.objective.center, predictor.objective.spread)))
        models.append(nn.Sequential(OrderedDict(parts)).eval())
    return models


def export(run: Location, out: Location, *, format: str = "torchscript") -> list[Path]:
    """Write the models that `load_models` returns to files that can be read without Foldstream.

    An additional file `export.json` lists the model files, and whether the outputs are `logits` or `values`. Its
    `schema` describes the columns of a row and the classes or targets.

    Args:
        run: The folder of the run, or of a grid search, whose best candidate is exported.
        out: The folder to write to. It is created if necessary.
        format: `torchscript` (for `torch.jit.load`), `onnx` (input `x`, or `image` and `table`; output `y`), or
            `safetensors` (only the weights, named as in `state_dict`).

    Returns:
        The model files, one per fold, in order.

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
    folder = locate(Path(str(out)))
    if folder.is_file():
        raise UsageError(f"{out} is a file; choose a folder for the model files")
    models, schema = load_models(run), load_job(RunFolder(best_folder(locate(run)))).schema
    ending, encode = FORMATS[format]
    arrays = {spec.name: np.zeros((EXAMPLE_ROWS, *spec.row_shape), spec.dtype) for spec in schema.arrays()}
    rows = x_of({name: torch.from_numpy(values) for name, values in arrays.items()})
    files = [folder / f"fold-{fold}{ending}" for fold in range(len(models))]
    for file, model in zip(files, models, strict=True):
        try:
            data = encode(model, rows)
        except UsageError:
            raise
        except Exception as error:  # torch and user code may raise anything
            raise UsageError(
                f"--format {format}: torch cannot export this model: {describe_error(error)}; "
                "use --format safetensors, which works for every model"
            ) from error
        with disk_in_words(folder):
            file.write(data)
    output = "logits" if schema.probabilities else "values"
    description = {"files": [file.name for file in files], "output": output, "schema": asdict(schema)}
    write_json(folder / "export.json", description)
    return [Path(file) for file in files]


def to_torchscript(model: nn.Module, rows: Stored) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        # torch recommends torch.export instead, whose files torch.jit.load cannot read.
        warnings.simplefilter("ignore", DeprecationWarning)
        # A model may compute with the shape of a sample in Python, because that shape is fixed.
        warnings.simplefilter("ignore", TracerWarning)
        torch.jit.save(torch.jit.trace(model, (rows,)), buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def to_onnx(model: nn.Module, rows: Stored) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--format onnx: {error.name} is not installed; run 'pip install foldstream[export]'"
        ) from None
    any_rows = {0: torch.export.Dim("rows")}
    shapes = dict.fromkeys(rows, any_rows) if isinstance(rows, dict) else any_rows
    names = [*rows] if isinstance(rows, dict) else ["x"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch warns about its own code
        warnings.filterwarnings("ignore", "# The axis name")  # that inputs have the same number of rows
        # torch takes a dict that comes last for keywords.
        program = torch.onnx.export(
            model, (rows, {}), input_names=names, output_names=["y"], dynamic_shapes=(shapes,), verbose=False
        )
    assert program
    data: bytes = program.model_proto.SerializeToString()
    return data


def to_safetensors(model: nn.Module, rows: Stored) -> bytes:
    return safetensors.torch.save({name: contiguous_copy(tensor) for name, tensor in model.state_dict().items()})


FORMATS: dict[str, tuple[str, Callable[[nn.Module, Stored], bytes]]] = {
    "torchscript": (".pt", to_torchscript),
    "onnx": (".onnx", to_onnx),
    "safetensors": (".safetensors", to_safetensors),
}
"""For each format, the file suffix and the function that encodes a model, traced with example rows."""
