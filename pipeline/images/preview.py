"""A contact sheet: some rows of a dataset as images with their labels, to check a conversion by eye."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...storage.blocks.reader import BlockReader
from ...storage.dataset import Dataset
from ...storage.errors import UsageError
from ...storage.format.dense import IGNORED
from ...storage.format.schema import Schema
from ...storage.places.locate import locate

COLUMNS, LINES = 8, 5
CELL, MARGIN, TEXT = 112, 8, 12  # pixels: the size of an image, its margin, the height of its label
TINTS = (
    *((230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240)),
    *((240, 50, 230), (210, 245, 60), (0, 128, 128), (170, 110, 40), (255, 225, 25), (128, 0, 0)),
)
"""Colors of classes in masks, which repeat."""
INK, PAPER, FRAME = (40, 40, 40), (255, 255, 255), (225, 225, 225)


def draw_preview(dataset: Dataset, target: Path) -> int:
    """Draw up to 40 rows, evenly spaced over the dataset, to a PNG file. Returns the number of rows.

    Samples must be (height, width) or (1 or 3, height, width); dtypes other than uint8 are scaled from the dataset's
    minimum and maximum. Masks are drawn over their images, and images
    that are targets over the right half of theirs. Raises UsageError if the rows are not images.
    """
    shape = dataset.schema.sample_shape
    if not is_image_shape(shape):
        raise UsageError(
            f"--preview: rows of shape {shape} are not images; convert images, or set a shape such as --shape 1,28,28"
        )
    names = [spec.name for spec in dataset.schema.arrays() if spec.name != "id"]
    reader = BlockReader(dataset, names)
    rows = np.unique(np.linspace(0, len(dataset) - 1, COLUMNS * LINES).astype(int))
    lines = -(-len(rows) // COLUMNS)
    across, down = CELL + 2 * MARGIN, CELL + 2 * MARGIN + TEXT
    sheet = Image.new("RGB", (COLUMNS * across, lines * down), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT)
    for number, (row, block, place) in enumerate(zip(rows, *dataset.layout.blocks_at(rows), strict=True)):
        arrays = {name: values[place] for name, values in reader.read([block]).items()}
        left, upper = number % COLUMNS * across + MARGIN, number // COLUMNS * down + MARGIN
        image = render_sample(arrays["x"], dataset)
        if dataset.schema.task == "segmentation":
            image = with_mask(image, arrays["y"])
        elif dataset.schema.target_name:
            image = beside(image, render_sample(arrays["y"], dataset))
        spare = CELL - image.width, CELL - image.height
        sheet.paste(image, (left + spare[0] // 2, upper + spare[1] // 2))
        draw.rectangle((left - 1, upper - 1, left + CELL, upper + CELL), outline=FRAME)
        text = caption(arrays, dataset.schema, int(row))
        while len(text) > 1 and font.getlength(text) > CELL:
            text = f"{text[:-2]}…"
        draw.text((left + CELL / 2, upper + CELL + 2), text, INK, font, anchor="ma")
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    locate(target).write(buffer.getvalue())
    return len(rows)


def is_image_shape(shape: tuple[int, ...]) -> bool:
    """Whether a sample of a shape can be drawn."""
    return len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))


def render_sample(sample: np.ndarray, dataset: Dataset) -> Image.Image:
    """A sample as an image that fills a cell; the pixels of small samples become squares."""
    if sample.dtype != np.uint8:
        least, most = min(dataset.statistics.minimum), max(dataset.statistics.maximum)
        sample = np.clip((sample - least) / ((most - least) or 1) * 255, 0, 255).astype(np.uint8)
    planes = sample if sample.ndim == 3 else sample[None]
    pixels = planes[0] if len(planes) == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0))
    image = Image.fromarray(pixels).convert("RGB")
    scale = CELL / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def beside(image: Image.Image, target: Image.Image) -> Image.Image:
    """The left half of an image, and the right half of its target."""
    half = image.width // 2
    joined = image.copy()
    joined.paste(target.crop((half, 0, target.width, target.height)), (half, 0))
    return joined


def with_mask(image: Image.Image, codes: np.ndarray) -> Image.Image:
    """An image with its mask, codes of classes (height, width), over it: a color for each class except the first one,
    which usually is the background."""
    covered = (codes > 0) & (codes != IGNORED)
    colors = np.zeros((256, 3), np.uint8)
    colors[1:IGNORED] = [TINTS[number % len(TINTS)] for number in range(IGNORED - 1)]
    tint = Image.fromarray(colors[codes]).resize(image.size, Image.Resampling.NEAREST)
    where = Image.fromarray(covered.astype(np.uint8) * 128).resize(image.size, Image.Resampling.NEAREST)
    return Image.composite(tint, image, where)


def caption(arrays: dict[str, np.ndarray], schema: Schema, row: int) -> str:
    """The caption below an image: its class, labels or regression targets; otherwise its key or row number."""
    if schema.classes:
        return schema.classes[int(arrays["y"])]
    if schema.task == "multilabel":
        return labels_in(schema, arrays["y"])
    if schema.labels and not schema.dense:
        return ", ".join(f"{value:.4g}" for value in np.atleast_1d(arrays["y"]))
    key = arrays.get("key")
    if key is None:
        return f"row {row:,}"
    return bytes(key).rstrip(b"\0").decode().rpartition("/")[2] if key.ndim else str(key)


def labels_in(schema: Schema, y: Iterable[float]) -> str:
    """The names of the labels that are set in a row, given its values `y` (labels,)."""
    return ", ".join(name for name, value in zip(schema.labels, y, strict=True) if value) or "none"
