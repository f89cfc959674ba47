"""SVG charts, styled by the page's CSS, so they follow its light or dark colors."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from statistics import fmean

from markupsafe import Markup

WIDTH, HEIGHT = 480, 260  # in units of the drawing, which is as wide as its column
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 12, 34  # margins for the tick labels
TICKS = 5
LONGEST = 9  # characters beside a bar

Point = tuple[float, float]
UNIT: Point = 0.0, 1.0


def curves_chart(name: str, families: Mapping[str, Sequence[Sequence[float]]]) -> Markup:
    """A score by epoch. Each family has a curve per fold, and is drawn as their mean with a band from minimum to
    maximum."""
    values = [value for curves in families.values() for curve in curves for value in curve if math.isfinite(value)]
    epochs = max((len(curve) for curves in families.values() for curve in curves), default=0)
    if not values:
        return Markup("")
    frame = Frame((1, max(epochs, 2)), (min(values), max(values)))
    parts = [*frame.axes("epoch", whole=True)]
    for number, curves in enumerate(families.values()):
        every = enumerate(zip_longest(*curves, fillvalue=math.nan), 1)  # a fold may stop before the others
        by_epoch = {epoch: seen for epoch, of_epoch in every if (seen := list(filter(math.isfinite, of_epoch)))}
        lowest = [(epoch, min(seen)) for epoch, seen in by_epoch.items()]
        highest = [(epoch, max(seen)) for epoch, seen in by_epoch.items()]
        means = [(epoch, fmean(seen)) for epoch, seen in by_epoch.items()]
        parts.append(
            Markup('<polygon class="band s{}" points="{}"/>').format(number, frame.points(lowest + highest[::-1]))
        )
        parts.append(Markup('<polyline class="line s{}" points="{}"/>').format(number, frame.points(means)))
        if len(means) == 1:
            parts.append(
                Markup('<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(number, *frame.at(*means[0]))
            )
    return drawing(f"{name} by epoch", parts)


def calibration_chart(bins: Sequence[Sequence[float]]) -> Markup:
    """A reliability diagram: accuracy against confidence, from bins by the highest probability (rows, correct, sum of
    probabilities)."""
    frame = Frame(UNIT, UNIT)
    parts = [*frame.axes("confidence: probability of the predicted class")]
    parts.append(Markup('<polyline class="ideal" points="{}"/>').format(frame.points([(0, 0), (1, 1)])))
    seen = [(total / rows, hits / rows, rows) for rows, hits, total in bins if rows]
    parts.append(Markup('<polyline class="line s0" points="{}"/>').format(frame.points([(p, h) for p, h, _ in seen])))
    for probability, hits, rows in seen:
        label = f"{rows:,.0f} rows: confidence {probability:.3f}, accuracy {hits:.3f}"
        parts.append(
            Markup('<circle class="dot s0" cx="{:.1f}" cy="{:.1f}" r="3.5"><title>{}</title></circle>').format(
                *frame.at(probability, hits), label
            )
        )
    return drawing("accuracy by confidence", parts)


def roc_chart(curves: Sequence[Sequence[Sequence[float]]]) -> Markup:
    """ROC curves from points (false positive rate, recall, precision), and the diagonal of a random guess."""
    frame = Frame(UNIT, UNIT)
    parts = [*frame.axes("false positive rate")]
    parts.append(Markup('<polyline class="ideal" points="{}"/>').format(frame.points([(0, 0), (1, 1)])))
    lines = [[(0.0, 0.0), *((rate, recall) for rate, recall, _ in points)] for points in curves]
    return drawing("true positive rate by false positive rate", [*parts, *_lines(frame, lines)])


def precision_recall_chart(curves: Sequence[Sequence[Sequence[float]]]) -> Markup:
    """Precision by recall, from points (false positive rate, recall, precision)."""
    frame = Frame(UNIT, UNIT)
    lines = [[(0.0, points[0][2]), *((recall, precision) for _, recall, precision in points)] for points in curves]
    return drawing("precision by recall", [*frame.axes("recall"), *_lines(frame, lines)])


def bars_chart(name: str, values: Mapping[str, float]) -> Markup:
    """Horizontal bars, one for each name, from 0 to its value."""
    most = max([*values.values(), 0.0]) or 1.0
    parts, step = list[Markup](), (HEIGHT - TOP - BOTTOM) / max(1, len(values))
    for number, (label, value) in enumerate(values.items()):
        y, length = TOP + number * step, value / most * (WIDTH - LEFT - 5 * RIGHT)
        bar = '<rect class="bar s0" x="{}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}: {:.4f}</title></rect>'
        parts.append(Markup(bar).format(LEFT, y + step * 0.15, length, step * 0.7, label, value))
        middle = y + step / 2 + 4
        parts.append(Markup('<text class="left" x="{}" y="{:.1f}">{}</text>').format(LEFT - 6, middle, shorten(label)))
        parts.append(Markup('<text x="{:.1f}" y="{:.1f}">{:.3f}</text>').format(LEFT + length + 6, middle, value))
    return drawing(name, parts)


def shorten(label: str) -> str:
    """The end of a label that fits beside a chart."""
    return label if len(label) <= LONGEST else f"…{label[1 - LONGEST :]}"


def _lines(frame: "Frame", lines: Sequence[Sequence[Point]]) -> Iterator[Markup]:
    for number, line in enumerate(lines):
        yield Markup('<polyline class="line s{}" points="{}"/>').format(number, frame.points(line))


class Frame:
    """The axes of a chart: maps values to coordinates of the drawing."""

    def __init__(self, across: Point, up: Point) -> None:
        self.across, self.up = across, up if up[0] < up[1] else (up[0] - 0.5, up[1] + 0.5)

    def at(self, x: float, y: float) -> Point:
        """The coordinates of a point."""
        along = (x - self.across[0]) / (self.across[1] - self.across[0])
        height = (y - self.up[0]) / (self.up[1] - self.up[0])
        return LEFT + along * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - height * (HEIGHT - TOP - BOTTOM)

    def points(self, points: Sequence[Point]) -> str:
        return " ".join("{:.1f},{:.1f}".format(*self.at(*point)) for point in points)

    def axes(self, name: str, whole: bool = False) -> Iterator[Markup]:
        """Grid lines and tick labels of both axes, and the name of the x axis."""
        for value in ticks(*self.up):
            x, y = self.at(self.across[0], value)
            yield Markup('<line class="grid" x1="{:.1f}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(
                x, WIDTH - RIGHT, y, y
            )
            yield Markup('<text class="left" x="{:.1f}" y="{:.1f}">{:.5g}</text>').format(x - 6, y + 4, value)
        for value in ticks(*self.across, whole):
            x, y = self.at(value, self.up[0])
            yield Markup('<text class="below" x="{:.1f}" y="{:.1f}">{:.5g}</text>').format(x, y + 16, value)
        yield Markup('<text class="below" x="{}" y="{}">{}</text>').format((LEFT + WIDTH) / 2, HEIGHT - 2, name)


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """About five round numbers from `low` to `high`, or `whole` numbers for epochs."""
    rough = (high - low) / TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = min((power * factor for factor in (1, 2, 5, 10)), key=lambda one: abs(one - rough))
    step = max(1, round(step)) if whole else step
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def drawing(title: str, parts: Sequence[Markup]) -> Markup:
    """The complete image, with a label for screen readers."""
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, title, Markup("").join(parts)
    )
