"""The formats of image files, and the names by which images are recognized."""

import os
from functools import cache

from PIL import Image

from ...storage.pictures.foreign import FORMATS

UNSUPPORTED = (".eps", ".pcx", ".psd", ".svg", ".tga")  # images, rejected with an error
OPTIONAL = (".avif", ".dcm", ".dicom", ".heic", ".heif", ".hif")  # images that may need a package
ARCHIVES = (".tar", ".zip")
TOOLS = frozenset(("__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found", "Thumbs.db"))
"""Folders and files that tools leave among images; others of them are hidden."""
FOLDS = {
    **dict.fromkeys(("train", "training", "trn"), -1),  # never held out
    **dict.fromkeys(("val", "valid", "validation", "dev", "development"), 0),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation"), 1),
}
"""The fold of each name of a folder that is a part of a split, in lower case."""


def fold_of(name: str) -> int | None:
    """The fold of a folder or an archive with this name; None if it is no part of a split."""
    return FOLDS.get((os.path.splitext(name)[0] if is_archive(name) else name).lower())


def is_passed_over(name: str) -> bool:
    """Whether a folder or file is hidden or made by a tool, judging by its name."""
    return name.startswith(".") or name in TOOLS


def leads_past(path: str) -> bool:
    """Whether a path leads to or through a hidden file or folder, or one of a tool."""
    return any(is_passed_over(part) and part not in (".", "..") for part in path.split("/"))


def is_image(path: str) -> bool:
    """Whether a file is an image, judging by its name."""
    return os.path.splitext(path)[1].lower() in suffixes()


def is_archive(name: str) -> bool:
    """Whether a file is an archive, judging by its name."""
    return name.lower().endswith(ARCHIVES)


@cache
def suffixes() -> frozenset[str]:
    """The suffixes of supported formats, and of unsupported image formats."""
    supported = {suffix for suffix, name in Image.EXTENSION.items() if name in FORMATS}
    return frozenset((*supported, *OPTIONAL, *UNSUPPORTED))
