"""Predicted masks as PNG files, whose pixel values are those of the masks in training."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from ...storage.errors import SourceError, UsageError
from ...storage.format import DenseTarget, keys_of
from ...storage.places.place import Place
from .files import is_file
from .form import PredictedForm
from .outputs import FolderOutput, Rows
from .receipts import Facts

SUFFIX = ".png"
MOST = 2**16 - 1  # the largest value of a pixel of a PNG


def check_values(target: DenseTarget) -> None:
    """Raise UsageError for classes whose pixel values no PNG can have."""
    if wrong := [name for name in target.classes if not 0 <= int(name) <= MOST]:
        raise UsageError(
            f"masks with the pixel value {wrong[0]} cannot be PNG files, whose values are 0 to {MOST:,}; write them to "
            "OUT.zarr"
        )


@dataclass(frozen=True)
class MaskOutput(FolderOutput):
    """A folder of PNG files: the mask of the image `a/one.jpg` is `a/one.png`; rows without a path are numbered."""

    def write(self, shard: int, rows: Rows, form: PredictedForm) -> Facts:
        assert form.schema.dense
        values = np.array([*map(int, form.schema.dense.classes)])
        kind = np.uint8 if values.max() < 2**8 else np.uint16
        files = list[list[Any]]()
        for arrays, codes in rows:
            for name, mask in zip(_names(form, arrays), values.astype(kind)[codes], strict=True):
                buffer = io.BytesIO()
                Image.fromarray(mask).save(buffer, "PNG")
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
                f"several images have a mask of the name {twice}, because their paths differ only in the suffix; "
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
