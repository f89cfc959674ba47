"""The geometry of an image in its sample: which part of it is drawn, how large, and in which orientation."""

import numpy as np

Box = tuple[float, float, float, float]
"""Left, upper, right, lower, in pixels."""
MIRRORED = {
    1: (False, False),
    2: (True, False),
    3: (True, True),
    4: (False, True),
    5: (False, False),
    6: (False, True),
    7: (True, True),
    8: (True, False),
}
"""By EXIF orientation: whether the stored image is flipped horizontally and vertically, after transposing it."""


def fit_image(width: int, height: int, columns: int, rows: int, fit: str) -> tuple[Box, tuple[int, int]]:
    """The box of the image to draw (left, upper, right, lower), and its size in the sample (width, height).

    "stretch" draws the whole image on the whole sample, "pad" the whole image as large as it fits, and "crop" the
    center of the image so that it fills the sample.
    """
    if fit == "pad":
        scale = min(columns / width, rows / height)
        return (0, 0, width, height), (max(1, round(width * scale)), max(1, round(height * scale)))
    if fit == "stretch":
        return (0, 0, width, height), (columns, rows)
    scale = max(columns / width, rows / height)
    left, upper = max(0.0, (width - columns / scale) / 2), max(0.0, (height - rows / scale) / 2)
    return (left, upper, width - left, height - upper), (columns, rows)


def upright(out: np.ndarray, turn: int) -> np.ndarray:
    """A view of the sample `out` with the orientation of the stored image, so that the image is upright in `out`.

    `turn` is the EXIF orientation: from 5 on, the view is transposed; then it is flipped horizontally or vertically.
    """
    if turn >= 5:
        out = out.swapaxes(1, 2)
    across, down = MIRRORED[turn]
    return out[:, :: -1 if down else 1, :: -1 if across else 1]
