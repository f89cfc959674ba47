"""Where an image goes in its sample: how much of it is drawn, how large, and which way up."""

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
"""By the value of EXIF's orientation, whether an image lies in its file with left and right, or up and down exchanged,
once height and width have been."""


def fit_image(width: int, height: int, columns: int, rows: int, fit: str) -> tuple[Box, tuple[int, int]]:
    """Which box of an image is drawn (left, upper, right, lower), and how large (width, height).

    "stretch" draws all of it on all of the sample, "pad" all of it as large as it fits, "crop" so much of its middle
    that the sample is full.
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
    """A view of the sample `out` in which an image lies as in its file, so that what is drawn there is upright.

    `turn` is EXIF's orientation: from 5 on, height and width are exchanged; then left and right, or up and down are.
    """
    if turn >= 5:
        out = out.swapaxes(1, 2)
    across, down = MIRRORED[turn]
    return out[:, :: -1 if down else 1, :: -1 if across else 1]
