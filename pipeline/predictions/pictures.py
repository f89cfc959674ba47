"""Predicted masks and images as PNG files."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ...storage.errors import SourceError, UsageError
from ...storage.format.arrays import keys_of
from ...storage.format.schema import Schema
from ...storage.places.place import Place
from .files import is_file
from .form import PredictedForm
from .outputs import FolderOutput, Rows
from .receipts import Facts

SUFFIX = ".png"
MOST = 2**16 - 1  # the largest value of a pixel of a PNG


def check_pixels(schema: Schema) -> None:
    """Raise UsageError for masks or images whose pixels no PNG can have."""
    assert schema.dense
    if wrong := [name for name in schema.dense.classes if not 0 <= int(name) <= MOST]:
        raise UsageError(
            f"masks with the pixel value {wrong[0]} cannot be PNG files, whose values are 0 to {MOST:,}; write them to "
            "OUT.zarr"
        )
    if not schema.dense.classes and (schema.y_dtype, schema.outputs) == ("uint16", 3):
        raise UsageError("color images with 16 bits cannot be written as PNG files by Pillow; write them to OUT.zarr")


def pixels_of(schema: Schema, predictions: np.ndarray) -> np.ndarray:
    """Predictions as pixels of files: of codes of masks, (rows, height, width), the values that masks have in training;
    of images, (rows, channels, height, width), whole numbers, (rows, height, width) or (rows, height, width, 3)."""
    assert schema.dense
    if schema.dense.classes:
        values = np.array([*map(int, schema.dense.classes)])
        found: np.ndarray = values.astype(np.uint8 if values.max() < 2**8 else np.uint16)[predictions]
        return found
    whole = np.clip(np.rint(predictions), 0, np.iinfo(str(schema.y_dtype)).max).astype(str(schema.y_dtype))
    return whole[:, 0] if whole.shape[1] == 1 else np.ascontiguousarray(whole.transpose(0, 2, 3, 1))


@dataclass(frozen=True)
class PictureOutput(FolderOutput):
    """A folder of PNG files: the mask or image of `a/one.jpg` is `a/one.png`; rows without a path are numbered."""

    def write(self, shard: int, rows: Rows, form: PredictedForm) -> Facts:
        files = list[list[Any]]()
        for arrays, predictions in rows:
            for name, pixels in zip(_names(form, arrays), pixels_of(form.schema, predictions), strict=True):
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG")
                data = buffer.getvalue()
                self._file(name).write(data, durable=False)
                files.append([name, len(data), hashlib.sha256(data).hexdigest()])
        return {"files": files}

    def is_written(self, shard: int, facts: Facts, form: PredictedForm) -> bool:
        return all(is_file(self._file(name), length, digest) for name, length, digest in facts["files"])

    def commit(self, form: PredictedForm, parts: Any, result: dict[str, Any]) -> None:
        names = [name for part in parts for name, _, _ in part["files"]]
        if len({*names}) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise SourceError(
                f"several images have a prediction of the name {twice}, because their paths differ only in the suffix; "
                "rename them, or write to OUT.zarr"
            )
        self.root.sync_folders()
        super().commit(form, parts, result)

    def _file(self, name: str) -> Place:
        return self.root / name


def _names(form: PredictedForm, arrays: dict[str, np.ndarray]) -> list[str]:
    """The names of the files of rows. Raises SourceError for a path, in an archive, that leads out of the folder."""
    if "key" not in arrays:
        return [f"{number}{SUFFIX}" for number in form.numbers(arrays).tolist()]
    names = list[str]()
    for key in map(str, keys_of(arrays["key"])):
        path = PurePosixPath(key)
        if path.is_absolute() or ".." in path.parts:
            raise SourceError(f"the image '{key}' has a path that leads out of a folder; rename it")
        names.append(str(path.with_suffix(SUFFIX)))
    return names
