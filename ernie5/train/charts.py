"""Line charts and heat maps as inline SVG, coloured by the page's CSS variables so that they follow light and dark.

Drawn by hand: a chart is one polyline and a few ticks, and a report must not depend on a plotting package.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 520, 232  # of a chart, in SVG units
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 12, 26  # room for tick labels
MAX_POINTS = 400  # of a line: more than a screen shows
OUTLIER_FACTOR = 3.0  # a maximum beyond this many times the 99th percentile is cut off, so that one spike hides nothing

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """One line. `points` ascend in x; `color` is a CSS colour; a faint line stands behind, dots mark single values."""

    label: str
    points: Sequence[Point]
    color: str
    faint: bool = False
    dots: bool = False


def compact(value: float) -> str:
    """4 significant digits at most, thousands as k, M, B, T."""
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            divisor = 1e3 if suffix == "k" else limit
            return f"{value / divisor:.4g}{suffix}"
    return f"{value:.4g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"


def smooth(points: Sequence[Point]) -> list[Point]:
    """Median over a window of a fortieth of the points around each: one spike does not move it."""
    half = len(points) // 80
    values = [y for _, y in points]
    return [(x, float(np.median(values[max(0, i - half) : i + half + 1]))) for i, (x, _) in enumerate(points)]


def ramp(index: int, count: int) -> str:
    """The colour of layer `index` of `count`: a hue that goes from blue over violet to orange with depth."""
    return f"hsl({round(215 + 175 * index / max(1, count - 1)) % 360} 62% 55%)"


def line_chart(series: Sequence[Series], marks: Sequence[tuple[float, str]] = ()) -> str:
    """An SVG chart of one or more series over training steps; `marks` are labelled vertical lines."""
    shown = [line for line in series if line.points]
    if not shown:
        return ""
    points = [point for line in shown for point in line.points]
    x_ticks, to_x = _axis([x for x, _ in points], LEFT, WIDTH - RIGHT, fit=True)
    y_ticks, to_y = _axis(_without_outliers([y for _, y in points]), HEIGHT - BOTTOM, TOP)
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for y in y_ticks:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{to_y(y):.1f}" y2="{to_y(y):.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{to_y(y) + 3.5:.1f}" text-anchor="end">{compact(y)}</text>')
    for x in x_ticks:
        parts.append(f'<text class="tick" x="{to_x(x):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{compact(x)}</text>')
    for x, label in marks:
        parts.append(f'<line class="mark" x1="{to_x(x):.1f}" x2="{to_x(x):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{to_x(x) + 4:.1f}" y="{TOP + 9}">{escape(label)}</text>')
    parts += [_line(line, to_x, to_y) for line in shown]
    return "".join([*parts, "</svg>"])


def legend(series: Sequence[Series]) -> str:
    """The names and colours of the series that are not faint."""
    items = [
        f'<span><i style="background:{line.color}"></i>{escape(line.label)}</span>'
        for line in series
        if line.points and not line.faint
    ]
    return f'<div class="legend">{"".join(items)}</div>'


def heat_map(load: Sequence[Sequence[float]]) -> str:
    """`load` [layers][experts] as cells: the stronger the colour, the larger the load against its layer's mean."""
    ratios = [[value / max(1e-12, float(np.mean(row))) for value in row] for row in load]
    top = max(2.0, max(max(row) for row in ratios))
    titles = [
        [f"layer {i}, expert {j}: {ratio:.2f} times the mean" for j, ratio in enumerate(row)]
        for i, row in enumerate(ratios)
    ]
    height = min(26.0, max(8.0, 300 / len(ratios)))
    cells = _cells(ratios, top, titles, list(map(str, range(len(ratios)))), 2 * WIDTH, height)
    return cells + _scale(f"{top:.1f} × the mean of the layer")


def share_map(shares: Mapping[str, Sequence[float]], top: float) -> str:
    """Shares by row and expert as cells; `top` is the share that has the full colour."""
    titles = [[f"{name}, expert {j}: {share:.1%}" for j, share in enumerate(row)] for name, row in shares.items()]
    left = max(LEFT, 7 * max(map(len, shares)))
    cells = _cells(list(shares.values()), top, titles, list(shares), WIDTH, 26.0, left)
    return cells + _scale(f"{top:.0%} of the tokens")


def _cells(
    values: Sequence[Sequence[float]],
    top: float,
    titles: Sequence[Sequence[str]],
    names: Sequence[str],
    width: int,
    cell_height: float,
    left: int = LEFT,
) -> str:
    """A row for each name, a numbered column for each value; `top` has the full colour."""
    columns = max(map(len, values))
    cell_width = (width - RIGHT - left) / columns
    gap = 1 if cell_width > 4 else 0
    height = len(values) * cell_height
    parts = [f'<svg class="chart" viewBox="0 0 {width} {height + 24:.0f}" role="img">']
    for row_id, (name, row) in enumerate(zip(names, values, strict=True)):
        y = row_id * cell_height
        middle = y + cell_height / 2 + 3.5
        parts.append(f'<text class="tick" x="{left - 8}" y="{middle:.1f}" text-anchor="end">{escape(name)}</text>')
        for column, value in enumerate(row):
            parts.append(
                f'<rect class="cell" x="{left + column * cell_width:.1f}" y="{y:.1f}" '
                f'width="{cell_width - gap:.1f}" height="{cell_height - 1:.1f}" '
                f'fill-opacity="{min(1.0, max(0.03, value / top)):.2f}">'
                f"<title>{escape(titles[row_id][column])}</title></rect>"
            )
    for column in range(0, columns, max(1, math.ceil(columns / 16))):
        x = left + (column + 0.5) * cell_width
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height + 16:.1f}" text-anchor="middle">{column}</text>')
    return "".join([*parts, "</svg>"])


def _scale(end: str) -> str:
    return f'<div class="scale"><span>0</span><i></i><span>{end}</span></div>'


def _line(line: Series, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> str:
    points = _thin(line.points)
    path = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in points)
    css = "line faint" if line.faint else "line"
    drawn = f'<polyline class="{css}" style="stroke:{line.color}" points="{path}"/>'
    if line.dots or len(points) == 1:
        for x, y in points:
            drawn += (
                f'<circle r="3" cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" style="fill:{line.color}">'
                f"<title>{escape(line.label)}, step {compact(x)}: {compact(y)}</title></circle>"
            )
    return drawn


def _thin(points: Sequence[Point]) -> Sequence[Point]:
    """At most MAX_POINTS points: means of neighbours, the last one kept."""
    if len(points) <= MAX_POINTS:
        return points
    groups = np.array_split(np.asarray(points, float), MAX_POINTS - 1)
    return [*(tuple(group.mean(0)) for group in groups), points[-1]]


def _without_outliers(values: list[float]) -> list[float]:
    limit = float(np.percentile(values, 99))
    return [min(value, limit) for value in values] if max(values) > OUTLIER_FACTOR * limit > 0 else values


def _axis(
    values: list[float], start: float, end: float, fit: bool = False
) -> tuple[list[float], Callable[[float], float]]:
    """Round tick values for `values`, and the map from a value to its place between start and end.

    An axis that fits ends at the values themselves, the other kind at the ticks around them.
    """
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    rough = (high - low) / (6 if fit else 4)
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(magnitude * factor for factor in (1, 2, 2.5, 5, 10) if magnitude * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if not fit:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        low, high = first * step, last * step

    def place(value: float) -> float:
        return start + (end - start) * (min(max(value, low), high) - low) / (high - low)

    return [tick * step for tick in range(first, last + 1)], place
