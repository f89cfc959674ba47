"""Compiled image resizing: a triangle filter as wide as the output pixels, in integer arithmetic.

This is the filter that Pillow calls BILINEAR (G. Wolberg, Digital Image Warping, 1990, chapter 5); its results differ
from Pillow's by at most one. It uses integers so that every machine produces the same bytes. Rows are combined first,
because that loop runs over adjacent bytes. Positions are uint64, as in `csv/kernels.py`.
"""

# mypy: disable-error-code="assignment"

import math
from functools import lru_cache

import numpy as np

from ..compiled import compiled
from .fit import Box

BITS = 14  # of a weight, whose unit is 2**14
KEPT = 6  # fractional bits that a line keeps between the two directions
SHIFT, LOWER, BYTE = np.int64(BITS + KEPT), np.int64(32), np.int64(255)
HALVES = np.int64((1 << (BITS + KEPT - 1)) * ((1 << 32) + 1))  # so that the final shift rounds
ZERO, ONE, TWO, THREE, FOUR, FIVE, SIX = (np.uint64(i) for i in range(7))


def resize(pixels: np.ndarray, box: Box, out: np.ndarray) -> None:
    """Resize the box (left, upper, right, lower) of `pixels`, (height, width, channels) uint8, to all of `out`,
    (channels, height, width) uint8, with 1 or 3 channels."""
    height, width, channels = pixels.shape
    left, upper, right, lower = box
    rows, row_weights = weigh(height, upper, lower, out.shape[1])
    columns, weights = weigh(width, left, right, out.shape[2])
    lines = np.zeros((2, (width + weights.shape[1]) * channels), np.int32)
    both = np.empty(lines.shape[1], np.int64)
    draw = draw_color if channels == 3 else draw_gray
    draw(pixels.reshape(height, -1), rows, row_weights, columns, weights.astype(np.int64), lines, both, out)


@lru_cache(1024)
def weigh(size: int, low: float, high: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The filter that resamples the pixels from `low` to `high`, out of `size`, to `count`: the first input pixel of
    each output pixel, (count,) uint64, and the weights of that and of the following ones, (count, taps) int32. Pixels
    outside the image have weight zero."""
    scale = (high - low) / count
    reach = max(scale, 1.0)
    centers = low + (np.arange(count) + 0.5) * scale
    first = np.maximum(0, np.floor(centers - reach + 0.5)).astype(np.int64)
    places = first[:, None] + np.arange(2 * math.ceil(reach) + 1)
    shares = np.maximum(0, 1 - np.abs(places - centers[:, None] + 0.5) / reach) * (places < size)
    before = (shares > 0).argmax(axis=1)
    taps = int((shares > 0).sum(axis=1).max())
    taps += taps % 2  # they are processed in pairs
    shares = np.pad(shares, ((0, 0), (0, taps)))[np.arange(count)[:, None], before[:, None] + np.arange(taps)]
    whole = np.rint(shares / shares.sum(axis=1, keepdims=True) * (1 << BITS)).astype(np.int32)
    whole[np.arange(count), whole.argmax(axis=1)] += (1 << BITS) - whole.sum(axis=1)
    first += before
    return first.astype(np.uint64), whole


@compiled
def draw_line(pixels: np.ndarray, first: np.uint64, weights: np.ndarray, line: np.ndarray) -> None:
    """The weighted sum of an even number of lines, with some fractional bits. Lines of weight zero may lie after the
    last line."""
    width, last = pixels.shape[1], np.uint64(len(pixels) - 1)
    line[:width] = 1 << (BITS - KEPT - 1)
    for tap in range(0, len(weights), 2):
        one, two = weights[tap], weights[tap + 1]
        if one or two:
            upper = pixels[min(first + np.uint64(tap), last)]
            lower = pixels[min(first + np.uint64(tap + 1), last)]
            for i in range(width):
                line[i] += one * np.int32(upper[i]) + two * np.int32(lower[i])
    for i in range(width):
        line[i] >>= BITS - KEPT


@compiled
def draw_lines(
    pixels: np.ndarray, rows: np.ndarray, row_weights: np.ndarray, row: int, lines: np.ndarray, both: np.ndarray
) -> int:
    """The lines of a row and of the one below it, packed into 64-bit integers, so that the next multiplications apply
    to both at once. Returns the lower row, which is the same row at the end of an odd number of rows."""
    lower = min(row + 1, len(rows) - 1)
    draw_line(pixels, rows[row], row_weights[row], lines[0])
    draw_line(pixels, rows[lower], row_weights[lower], lines[1])
    for i in range(len(both)):
        both[i] = np.int64(lines[0, i]) | np.int64(lines[1, i]) << LOWER
    return lower


@compiled
def draw_gray(
    pixels: np.ndarray,
    rows: np.ndarray,
    row_weights: np.ndarray,
    columns: np.ndarray,
    weights: np.ndarray,
    lines: np.ndarray,
    both: np.ndarray,
    out: np.ndarray,
) -> None:
    """Resize images with one channel; see `resize`."""
    taps = np.uint64(weights.shape[1])
    for row in range(0, len(rows), 2):
        lower = draw_lines(pixels, rows, row_weights, row, lines, both)
        for column in range(len(columns)):
            at, shares, tap = columns[column], weights[column], ZERO
            gray = HALVES
            while tap < taps:
                gray += shares[tap] * both[at] + shares[tap + ONE] * both[at + ONE]
                at += TWO
                tap += TWO
            out[0, row, column] = gray >> SHIFT & BYTE
            out[0, lower, column] = gray >> SHIFT + LOWER


@compiled
def draw_color(
    pixels: np.ndarray,
    rows: np.ndarray,
    row_weights: np.ndarray,
    columns: np.ndarray,
    weights: np.ndarray,
    lines: np.ndarray,
    both: np.ndarray,
    out: np.ndarray,
) -> None:
    """Resize images with three channels; see `resize`."""
    taps = np.uint64(weights.shape[1])
    for row in range(0, len(rows), 2):
        lower = draw_lines(pixels, rows, row_weights, row, lines, both)
        for column in range(len(columns)):
            at, shares, tap = columns[column] * THREE, weights[column], ZERO
            red = green = blue = HALVES
            while tap < taps:
                one, two = shares[tap], shares[tap + ONE]
                red += one * both[at] + two * both[at + THREE]
                green += one * both[at + ONE] + two * both[at + FOUR]
                blue += one * both[at + TWO] + two * both[at + FIVE]
                at += SIX
                tap += TWO
            for channel, value in enumerate((red, green, blue)):
                out[channel, row, column] = value >> SHIFT & BYTE
                out[channel, lower, column] = value >> SHIFT + LOWER
