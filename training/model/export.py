"""Trained models for use without Foldstream: as plain torch modules, and as files that others read."""

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
from ...storage.places.json_files import write_json
from ...storage.places.locate import Location, locate
from ..run import RunFolder, best_folder, is_done, load_job
from ..zoo.user_code import in_words
from .prediction import load_predictor
from .weights import row_by_row

EXAMPLE_ROWS = 2  # what a model is traced with; other numbers of rows give the same


class LabelUnits(nn.Module):
    """From what a model says of centred and scaled quantities to the labels' own units, (rows, labels) float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, outputs: Tensor) -> Tensor:
        return (outputs.double() * self.std + self.mean).float()


def load_models(run: Location) -> list[nn.Module]:
    """The models of all folds of a run, in their order, as plain torch modules on the CPU, in evaluation mode.

    Each takes rows as the dataset stores them, (rows, *sample_shape), and gives float32: for classes logits,
    (rows, classes), whose mean softmax over the folds is what `predict` goes by; for quantities values in their own
    units, (rows, labels). It is a Sequential of `prepare`, which centres and scales each channel, `model`, which is
    what the factory made, and for quantities `units`. Of a grid they are those of the best candidate. Raises UsageError
    where folds are not trained to their end.
    """
    folder = RunFolder(best_folder(locate(run)))
    job = load_job(folder)
    folds = range(len(open_plan(folder.folds).models))
    if left := [str(fold) for fold in folds if not is_done(folder.fold(fold))]:
        raise UsageError(f"{run} is not complete, folds {', '.join(left)} are left; run its command again to finish it")
    models: list[nn.Module] = []
    for fold in folds:
        with torch.random.fork_rng(devices=[]):  # a model's first weights are drawn from a seed of their own
            predictor = load_predictor(job, folder, fold, torch.device("cpu"))
        parts: list[tuple[str, nn.Module]] = [("prepare", predictor.prepare), ("model", predictor.model)]
        if not job.schema.classes:
            parts.append(("units", LabelUnits(*predictor.objective.units)))
        models.append(nn.Sequential(OrderedDict(parts)).eval())
    return models


def export(run: Location, out: Location, *, format: str = "torchscript") -> list[Path]:
    """Write what `load_models` gives into the folder `out`, a file for each fold, and `export.json`, whose `schema`
    says what the columns of a row are, and what the outputs stand for. Returns the folds' files.

    `format` is torchscript (`torch.jit.load`), onnx (input `x`, output `y`) or safetensors (the weights alone, by the
    names of `state_dict`). Raises UsageError for another one, and for onnx where its packages are not installed.
    """
    check_choice("--format", format, FORMATS)
    folder = locate(Path(str(out)))
    if folder.is_file():
        raise UsageError(f"{out} is a file; name a folder for the folds' files")
    models, schema = load_models(run), load_job(RunFolder(best_folder(locate(run)))).schema
    ending, encode = FORMATS[format]
    rows = torch.from_numpy(np.zeros((EXAMPLE_ROWS, *schema.sample_shape), schema.x_dtype))
    files = [folder / f"fold-{fold}{ending}" for fold in range(len(models))]
    for file, model in zip(files, models, strict=True):
        try:
            data = encode(model, rows)
        except UsageError:
            raise
        except Exception as error:  # of torch or of the user's own model, of whatever kind
            raise UsageError(
                f"--format {format}: torch cannot make it of this model: {in_words(error)}; safetensors it always can"
            ) from error
        with disk_in_words(folder):
            file.write(data)
    output = "logits" if schema.classes else "values"
    about = {"files": [file.name for file in files], "output": output, "schema": asdict(schema)}
    write_json(folder / "export.json", about)
    return [Path(file) for file in files]


def to_torchscript(model: nn.Module, rows: Tensor) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        # torch would rather have torch.export, which those who ask for TorchScript cannot load.
        warnings.simplefilter("ignore", DeprecationWarning)
        # A sample's shape is what it is: a model may compute with it in Python.
        warnings.simplefilter("ignore", TracerWarning)
        torch.jit.save(torch.jit.trace(model, rows), buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def to_onnx(model: nn.Module, rows: Tensor) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"--format onnx: {error.name} is not installed; pip install foldstream[export]") from None
    shapes = ({0: torch.export.Dim("rows")},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of itself
        program = torch.onnx.export(
            model, (rows,), input_names=["x"], output_names=["y"], dynamic_shapes=shapes, verbose=False
        )
    assert program
    data: bytes = program.model_proto.SerializeToString()
    return data


def to_safetensors(model: nn.Module, rows: Tensor) -> bytes:
    return safetensors.torch.save({name: row_by_row(tensor) for name, tensor in model.state_dict().items()})


FORMATS: dict[str, tuple[str, Callable[[nn.Module, Tensor], bytes]]] = {
    "torchscript": (".pt", to_torchscript),
    "onnx": (".onnx", to_onnx),
    "safetensors": (".safetensors", to_safetensors),
}
"""The ending of the files, and what makes one of a model and some rows."""
