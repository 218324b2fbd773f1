"""Charts of the page as SVG, with the page's colours: light, dark and in print.

Points and lines differ in shape and dash as well as in colour, and name themselves when pointed at. Each chart is drawn
at its final width, because text that shrinks with a picture cannot be read on a phone.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

COLOURS = 8
WIDE = 640
"""Pixels from which on there is room for more text: on a screen, but not on a phone."""
_LEFT, _TOP = 52, 14
_STEPS = (1, 2, 2.5, 5, 10)
_LABEL_HEIGHT = 14
MOST_NAMED = 25
"""Most classes of a confusion matrix with room for names."""
_MOST_NAMED_NARROW = 15
_LEAST_COUNTED = 15  # pixels of a cell that has room for a number
_NOTHING = Markup("")


@dataclass(frozen=True, kw_only=True)
class Series:
    """A series of points; None if a point has no number."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    spreads: Sequence[float | None] = ()
    """Half the length of each point's error bar; empty without error bars."""
    colour: int = 0
    dashed: bool = False
    paper: bool = False
    """Whether these are the paper's figures, drawn as diamonds; ours are circles."""


@dataclass(frozen=True)
class Axis:
    """Maps numbers to pixels."""

    low: float
    high: float
    ticks: tuple[float, ...]
    start: float
    stop: float
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """Position of a value, in pixels."""
        low, high, value = (math.log10(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.stop - self.start), 1)


def linear_axis(values: Sequence[float], start: float, stop: float, *, whole: bool = False) -> Axis:
    """Round ticks, up to seven of them, around the values; `whole` for numbers that have no fractions."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 1, high + 1
    rough = max((high - low) / 5, 1.0 if whole else 0.0)
    unit = 10 ** math.floor(math.log10(rough))
    steps = [unit * factor for factor in _STEPS if not whole or unit * factor % 1 == 0]
    step = next(step for step in steps if step >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(number * step, 10) for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks, start, stop)


def logarithmic_axis(values: Sequence[float], start: float, stop: float) -> Axis:
    """Powers of ten around the values, all of which are above 0."""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    last = max(last, first + 1)
    ticks = tuple(float(f"1e{number}") for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks, start, stop, logarithmic=True)


class Plot:
    """The size of a chart with axes, in pixels, and where its x axis ends and its y axis starts."""

    def __init__(self, width: int) -> None:
        self.width, self.height = width, 340 if width >= WIDE else 280
        self.right, self.bottom = width - 14, self.height - 44


def whole_axis(values: Sequence[float], start: float, stop: float) -> Axis:
    """An axis of whole numbers such as epochs, from the first to the last; a single number is in the middle."""
    first, last = min(values), max(values)
    low, high = (first - 1, last + 1) if first == last else (first, last)
    ticks = tuple(tick for tick in linear_axis(values, start, stop, whole=True).ticks if first <= tick <= last)
    return Axis(low, high, ticks or (first,), start, stop)


def curves(title: str, x_name: str, y_name: str, series: Sequence[Series], width: int = WIDE) -> Markup:
    """Lines over whole numbers, such as epochs; the page's script shows values under the pointer.

    A point without neighbours is drawn as a dot, as a line would not show it.
    """
    plot = Plot(width)
    xs = sorted({x for line in series for x in line.xs})
    ys = [y for line in series for y in line.ys if y is not None]
    x_axis, y_axis = whole_axis(xs, _LEFT, plot.right), linear_axis(ys, plot.bottom, _TOP)
    lines = []
    for number, line in enumerate(series):
        points = [(x_axis.at(x), None if y is None else y_axis.at(y)) for x, y in zip(line.xs, line.ys, strict=True)]
        dots = _NOTHING.join(
            Markup('<circle class="f{}" cx="{:g}" cy="{:g}" r="4"/>').format(line.colour, x, y)
            for x, y in _alone(points)
        )
        lines.append(
            Markup('<g data-line="{}"><title>{}</title><path class="line k{}{}" d="{}"/>{}</g>').format(
                number, line.label, line.colour, " dashed" if line.dashed else "", _path(points), dots
            )
        )
    data = {
        "places": [x_axis.at(x) for x in xs],
        "width": width,
        "name": x_name,
        "xs": xs,
        "lines": [
            {"label": line.label, "ys": [None if (y := known.get(x)) is None else _short(y) for x in xs]}
            for line, known in ((line, dict(zip(line.xs, line.ys, strict=True))) for line in series)
        ],
    }
    cursor = Markup('<line class="cursor" y1="{}" y2="{}" x1="-9" x2="-9"/>').format(_TOP, plot.bottom)
    body = _frame(plot, x_axis, y_axis, x_name, y_name) + cursor + _NOTHING.join(lines)
    return _svg(title, body, width, plot.height, Markup(' tabindex="0" data-curves="{}"').format(json.dumps(data)))


def scatter(
    title: str,
    x_name: str,
    y_name: str,
    series: Sequence[Series],
    width: int = WIDE,
    *,
    logarithmic: bool = False,
    joined: bool = False,
) -> Markup:
    """Labelled points; the points of a joined series are connected, and only the last is labelled."""
    points = [
        (line, x, y, line.spreads[place] if line.spreads else None)
        for line in series
        for place, (x, y) in enumerate(zip(line.xs, line.ys, strict=True))
        if y is not None
    ]
    plot = Plot(width)
    ends = [y + sign * (spread or 0) for _, _, y, spread in points for sign in (-1, 1)]
    axis = logarithmic_axis if logarithmic else linear_axis
    x_axis = axis([x for _, x, _, _ in points], _LEFT + 12, plot.right - 12)
    y_axis = linear_axis(ends, plot.bottom, _TOP)
    marks, labels = [], []
    for line, x, y, spread in points:
        words = f"{line.label}: {y_name} {_short(y)}{f' ±{_short(spread)}' if spread else ''}, {x_name} {_short(x)}"
        marks.append(_mark(line, x_axis.at(x), y_axis.at(y), words, _bar(y_axis, x_axis.at(x), y, spread)))
    for line in series:
        known = [(x_axis.at(x), y_axis.at(y)) for x, y in zip(line.xs, line.ys, strict=True) if y is not None]
        if joined and len(known) > 1:
            dash = " dashed" if line.dashed else ""
            marks.insert(0, Markup('<path class="line k{}{}" d="{}"/>').format(line.colour, dash, _path(known)))
        labels += [(x, y, line.label) for x, y in (known[-1:] if joined else known)]
    body = _frame(plot, x_axis, y_axis, x_name, y_name) + _NOTHING.join(marks) + _labels(labels, plot)
    return _svg(title, body, width, plot.height)


def interval_bar(middle: float, low: float | None, high: float | None) -> Markup:
    """A percentage and its interval on a line from 0 to 100, for a table cell that has the text beside it."""
    limits = (
        Markup('<line class="limits" x1="{:.1f}" x2="{:.1f}" y1="7" y2="7"/>').format(low + 4, high + 4)
        if low is not None and high is not None
        else _NOTHING
    )
    return Markup(
        '<svg class="interval" viewBox="0 0 108 14" aria-hidden="true">'
        '<path class="rule" d="M4,7H104M4,3V11M54,4V10M104,3V11"/>'
        '{}<circle class="f0" cx="{:.1f}" cy="7" r="4"/></svg>'
    ).format(limits, middle + 4)


def bars(title: str, values: Sequence[tuple[str, float]], unit: str, width: int = WIDE) -> Markup:
    """Horizontal bars to both sides of 0, each with its name and number."""
    row, top = 22, 8
    letters = 30 if width >= WIDE else 17
    names = 10 + 7 * min(letters, max((len(label) for label, _ in values), default=0))
    reach = (width - names - 110) / 2
    height, middle = top + row * len(values) + 8, names + 55 + reach
    most = max(abs(value) for _, value in values) or 1
    parts = []
    for place, (label, value) in enumerate(values):
        y, length = top + place * row, abs(value) / most * reach
        start = middle if value >= 0 else middle - length
        number_x, anchor = (middle + length + 6, "start") if value >= 0 else (middle - length - 6, "end")
        parts.append(
            Markup(
                '<text x="{}" y="{:.0f}" text-anchor="end">{}</text>'
                '<rect class="{}" x="{:.1f}" y="{:.0f}" width="{:.1f}" height="{}"><title>{}: {:+.1f} {}</title></rect>'
                '<text x="{:.1f}" y="{:.0f}" text-anchor="{}">{:+.1f}</text>'
            ).format(
                names, y + 15, _cut(label, letters), "up" if value >= 0 else "down", start, y + 4, max(length, 1),
                row - 8, label, value, unit, number_x, y + 15, anchor, value,
            )
        )  # fmt: skip
    axis = Markup('<line class="axis" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(middle, top, height - 8)
    return _svg(title, _NOTHING.join(parts) + axis, width, height)


def histogram(title: str, x_name: str, edges: Sequence[float], counts: Sequence[int], width: int = WIDE) -> Markup:
    """Histogram of videos; the edges of its bins are in rising order."""
    plot = Plot(width)
    x_axis, y_axis = linear_axis(edges, _LEFT, plot.right), linear_axis([0, *counts], plot.bottom, _TOP, whole=True)
    column = Markup(
        '<g class="mark" tabindex="0"><title>{}</title>'
        '<rect class="f0" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/></g>'
    )
    parts = []
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            left, right, top = x_axis.at(low), x_axis.at(high), y_axis.at(count)
            words = f"{_short(low)} to {_short(high)} {x_name}: {count:,} videos"
            parts.append(column.format(words, left, top, max(right - left - 1, 1), plot.bottom - top))
    return _svg(title, _frame(plot, x_axis, y_axis, x_name, "videos") + _NOTHING.join(parts), width, plot.height)


def confusion_matrix(title: str, classes: Sequence[str], counts: Sequence[Sequence[int]], width: int = WIDE) -> Markup:
    """A confusion matrix with true classes as rows; numbers and names only if there is room."""
    number = len(classes)
    wide = width >= WIDE
    named = number <= (MOST_NAMED if wide else _MOST_NAMED_NARROW)
    longest = max(map(len, classes))
    across, slanted = (20, 16) if wide else (13, 11)  # letters of a name, beside the rows and above the columns
    left, top = (16 + 7 * min(longest, across), 28 + 5 * min(longest, slanted)) if named else (16, 16)
    right = 60 if named and wide else 40 if named else 16  # slanted names hang over
    cell = min(44.0, (460 if wide else width - left - right) / number)
    row_name = Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>')
    column_name = Markup('<text x="{0:.1f}" y="{1}" transform="rotate(-40 {0:.1f} {1})">{2}</text>')
    square = Markup('<rect class="heat" fill-opacity="{:.2f}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
    inside = Markup('<text class="count halo" x="{:.1f}" y="{:.1f}">{}</text>')
    side = number * cell
    box = Markup('<rect class="cell" x="{}" y="{}" width="{:.1f}" height="{:.1f}"/>').format(left, top, side, side)
    parts = [box]
    for row, (name, line) in enumerate(zip(classes, counts, strict=True)):
        total, y = sum(line), top + row * cell
        if named:
            parts.append(row_name.format(left - 6, y + cell / 2 + 4, _cut(name, across)))
            parts.append(column_name.format(left + (row + 0.5) * cell, top - 6, _cut(name, slanted)))
        for column, count in enumerate(line):
            if count:
                x = left + column * cell
                said = "correct" if row == column else f"classified as {classes[column]}"
                drawn = square.format(0.12 + 0.78 * count / total, x, y, cell, cell)
                if cell >= _LEAST_COUNTED:
                    drawn += inside.format(x + cell / 2, y + cell / 2, count)
                words = f"{name}: {count} of {total} {said}"
                parts.append(Markup("<g><title>{}</title>{}</g>").format(words, drawn))
    return _svg(title, _NOTHING.join(parts), width, round(top + side + 12))


def _frame(plot: Plot, x_axis: Axis, y_axis: Axis, x_name: str, y_name: str) -> Markup:
    rule = Markup('<line class="rule" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    number = Markup('<text class="soft" x="{}" y="{}" text-anchor="{}">{}</text>')
    heights = {tick: y_axis.at(tick) for tick in y_axis.ticks}
    parts = [rule.format(_LEFT, plot.right, y, y) for y in heights.values()]
    parts += [number.format(_LEFT - 6, y + 4, "end", _short(tick)) for tick, y in heights.items()]
    within = [tick for tick in x_axis.ticks if x_axis.low <= tick <= x_axis.high]
    parts += [number.format(x_axis.at(tick), plot.bottom + 16, "middle", _short(tick)) for tick in within]
    return _NOTHING.join(parts) + Markup(
        '<path class="axis" d="M{0},{1}V{2}H{3}"/>'
        '<text class="soft" x="{3}" y="{4}" text-anchor="end">{5}</text><text class="soft" x="{0}" y="11">{6}</text>'
    ).format(_LEFT, _TOP, plot.bottom, plot.right, plot.bottom + 34, x_name, y_name)


def _mark(line: Series, x: float, y: float, words: str, bar: Markup) -> Markup:
    shape = (
        Markup('<path class="f{}" d="M{},{}l6,6l-6,6l-6,-6z"/>').format(line.colour, x, y - 6)
        if line.paper
        else Markup('<circle class="f{}" cx="{}" cy="{}" r="5"/>').format(line.colour, x, y)
    )
    return Markup('<g class="mark" tabindex="0"><title>{}</title>{}{}</g>').format(words, bar, shape)


def _bar(axis: Axis, x: float, y: float, spread: float | None) -> Markup:
    if not spread:
        return _NOTHING
    return Markup('<line class="axis" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(
        x, axis.at(y - spread), axis.at(y + spread)
    )


def _labels(points: Sequence[tuple[float, float, str]], plot: Plot) -> Markup:
    """Labels beside their points, moved down if two would overlap."""
    taken: list[tuple[float, float, float]] = []
    parts = []
    for x, y, label in sorted(points, key=lambda point: point[1]):
        text = _cut(label, 36 if plot.width >= WIDE else 26)
        width = 6.4 * len(text)
        left = x + 9 if x + 9 + width < plot.width else max(2, x - 9 - width)
        place = y + 4
        while any(
            left < end and start < left + width and abs(place - other) < _LABEL_HEIGHT for start, end, other in taken
        ):
            place += 2
        taken.append((left, left + width, place))
        parts.append(Markup('<text class="halo" x="{:.1f}" y="{:.1f}">{}</text>').format(left, place, text))
    return _NOTHING.join(parts)


def _alone(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float]]:
    """Points without a neighbour on either side: a line would not show them."""
    ys = [None, *(y for _, y in points), None]
    return [
        (x, y) for place, (x, y) in enumerate(points) if y is not None and ys[place] is None and ys[place + 2] is None
    ]


def _path(points: Sequence[tuple[float, float | None]]) -> str:
    """A path's data; points without a number break it."""
    words, pen = [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
            continue
        words.append(f"{pen}{x:g},{y:g}")
        pen = "L"
    return "".join(words)


def _svg(title: str, body: Markup, width: int, height: int, attributes: Markup = _NOTHING) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}"{}>{}</svg>').format(
        width, height, title, attributes, body
    )


def _short(value: float) -> str:
    """Three significant digits, without an exponent for large numbers."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
