"""Charts of the page, as SVG that takes its colours from the page: light, dark and on paper.

Points and lines differ in shape and dash as well as in colour, and say what they are when pointed at.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

COLOURS = 8
_WIDTH, _HEIGHT = 640, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 626, 14, 296
_STEPS = (1, 2, 2.5, 5, 10)
_LABEL_HEIGHT = 14
_NAMED_CLASSES, _COUNTED_CLASSES = 25, 15  # up to so many, a matrix has room for names, and for numbers
_NOTHING = Markup("")


@dataclass(frozen=True, kw_only=True)
class Series:
    """Points that belong together; None where there is no number."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float | None]
    spreads: Sequence[float | None] = ()
    """Half the length of an error bar, for each point; empty for none."""
    colour: int = 0
    dashed: bool = False
    paper: bool = False
    """Published, and drawn as a diamond; ours are circles."""


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
        """In pixels."""
        low, high, value = (math.log10(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.stop - self.start), 1)


def linear_axis(values: Sequence[float], start: float, stop: float) -> Axis:
    """Round ticks, four to seven of them, around the values."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 1, high + 1
    rough = (high - low) / 5
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in _STEPS if unit * factor >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(number * step, 10) for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks, start, stop)


def logarithmic_axis(values: Sequence[float], start: float, stop: float) -> Axis:
    """Powers of ten around the values, all of which are above 0."""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    last = max(last, first + 1)
    ticks = tuple(float(f"1e{number}") for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks, start, stop, logarithmic=True)


def curves(title: str, x_name: str, y_name: str, series: Sequence[Series]) -> Markup:
    """Lines over whole numbers, such as epochs; the page's script reads them off under a pointer."""
    xs = sorted({x for line in series for x in line.xs})
    ys = [y for line in series for y in line.ys if y is not None]
    x_axis, y_axis = linear_axis(xs, _LEFT, _RIGHT), linear_axis(ys, _BOTTOM, _TOP)
    # The plot spans the numbers themselves, so that the script needs no axis.
    x_axis = Axis(xs[0], max(xs[-1], xs[0] + 1), x_axis.ticks, _LEFT, _RIGHT)
    lines = []
    for line in series:
        dash = " dashed" if line.dashed else ""
        path = _path(
            [(x_axis.at(x), None if y is None else y_axis.at(y)) for x, y in zip(line.xs, line.ys, strict=True)]
        )
        lines.append(
            Markup('<path class="line k{}{}" d="{}"><title>{}</title></path>').format(
                line.colour, dash, path, line.label
            )
        )
    at = {line.label: dict(zip(line.xs, line.ys, strict=True)) for line in series}
    data = {
        "left": _LEFT,
        "right": _RIGHT,
        "width": _WIDTH,
        "name": x_name,
        "xs": xs,
        "lines": [{"label": label, "ys": [_maybe(known.get(x)) for x in xs]} for label, known in at.items()],
    }
    cursor = Markup('<line class="cursor" y1="{}" y2="{}" x1="-9" x2="-9"/>').format(_TOP, _BOTTOM)
    body = _frame(x_axis, y_axis, x_name, y_name) + _NOTHING.join(lines) + cursor
    return _svg(title, body, _HEIGHT, Markup(' tabindex="0" data-curves="{}"').format(json.dumps(data)))


def scatter(
    title: str, x_name: str, y_name: str, series: Sequence[Series], *, logarithmic: bool = False, joined: bool = False
) -> Markup:
    """Points with a label each; of a joined series the points are joined, and the last one alone is labelled."""
    points = [
        (line, x, y, line.spreads[place] if line.spreads else None)
        for line in series
        for place, (x, y) in enumerate(zip(line.xs, line.ys, strict=True))
        if y is not None
    ]
    ends = [y + sign * (spread or 0) for _, _, y, spread in points for sign in (-1, 1)]
    axis = logarithmic_axis if logarithmic else linear_axis
    x_axis = axis([x for _, x, _, _ in points], _LEFT + 12, _RIGHT - 12)
    y_axis = linear_axis(ends, _BOTTOM, _TOP)
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
    body = _frame(x_axis, y_axis, x_name, y_name) + _NOTHING.join(marks) + _labels(labels)
    return _svg(title, body, _HEIGHT)


def bars(title: str, values: Sequence[tuple[str, float]], unit: str) -> Markup:
    """Horizontal bars to the right of 0 and to its left, each with its name and number."""
    row, top = 22, 8
    height, middle, reach = top + row * len(values) + 8, 400, 150
    most = max(abs(value) for _, value in values) or 1
    parts = []
    for place, (label, value) in enumerate(values):
        y, length = top + place * row, abs(value) / most * reach
        start = middle if value >= 0 else middle - length
        number_x, anchor = (middle + length + 6, "start") if value >= 0 else (middle - length - 6, "end")
        parts.append(
            Markup(
                '<text x="220" y="{:.0f}" text-anchor="end">{}</text>'
                '<rect class="{}" x="{:.1f}" y="{:.0f}" width="{:.1f}" height="{}"><title>{}: {:+.1f} {}</title></rect>'
                '<text x="{:.1f}" y="{:.0f}" text-anchor="{}">{:+.1f}</text>'
            ).format(
                y + 15, _cut(label, 30), "up" if value >= 0 else "down", start, y + 4, max(length, 1), row - 8,
                label, value, unit, number_x, y + 15, anchor, value,
            )
        )  # fmt: skip
    axis = Markup('<line class="axis" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(middle, top, height - 8)
    return _svg(title, _NOTHING.join(parts) + axis, height)


def confusion_matrix(title: str, classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Markup:
    """Rows are true classes; numbers and names only where there is room for them."""
    number = len(classes)
    cell = min(44.0, 460 / number)
    named = number <= _NAMED_CLASSES
    left, top = (150, 104) if named else (16, 16)
    across = Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>')
    slanted = Markup('<text x="{0:.1f}" y="{1}" transform="rotate(-40 {0:.1f} {1})">{2}</text>')
    square = Markup('<rect class="heat" fill-opacity="{:.2f}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>')
    inside = Markup('<text class="count halo" x="{:.1f}" y="{:.1f}">{}</text>')
    side = number * cell
    box = Markup('<rect class="cell" x="{}" y="{}" width="{:.1f}" height="{:.1f}"/>').format(left, top, side, side)
    parts = [box]
    for row, (name, line) in enumerate(zip(classes, counts, strict=True)):
        total, y = sum(line), top + row * cell
        if named:
            parts.append(across.format(left - 6, y + cell / 2 + 4, _cut(name, 20)))
            parts.append(slanted.format(left + (row + 0.5) * cell, top - 6, _cut(name, 16)))
        for column, count in enumerate(line):
            if count:
                x = left + column * cell
                said = "right" if row == column else f"taken for {classes[column]}"
                drawn = square.format(0.12 + 0.78 * count / total, x, y, cell, cell)
                if number <= _COUNTED_CLASSES:
                    drawn += inside.format(x + cell / 2, y + cell / 2, count)
                words = f"{name}: {count} of {total} {said}"
                parts.append(Markup("<g><title>{}</title>{}</g>").format(words, drawn))
    return _svg(title, _NOTHING.join(parts), round(top + side + 12))


def _frame(x_axis: Axis, y_axis: Axis, x_name: str, y_name: str) -> Markup:
    rule = Markup('<line class="rule" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    number = Markup('<text class="soft" x="{}" y="{}" text-anchor="{}">{}</text>')
    heights = {tick: y_axis.at(tick) for tick in y_axis.ticks}
    parts = [rule.format(_LEFT, _RIGHT, y, y) for y in heights.values()]
    parts += [number.format(_LEFT - 6, y + 4, "end", _short(tick)) for tick, y in heights.items()]
    within = [tick for tick in x_axis.ticks if x_axis.low <= tick <= x_axis.high]
    parts += [number.format(x_axis.at(tick), _BOTTOM + 16, "middle", _short(tick)) for tick in within]
    return _NOTHING.join(parts) + Markup(
        '<path class="axis" d="M{0},{1}V{2}H{3}"/>'
        '<text class="soft" x="{3}" y="{4}" text-anchor="end">{5}</text><text class="soft" x="{0}" y="11">{6}</text>'
    ).format(_LEFT, _TOP, _BOTTOM, _RIGHT, _BOTTOM + 34, x_name, y_name)


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


def _labels(points: Sequence[tuple[float, float, str]]) -> Markup:
    """Beside their points, moved down where two would meet."""
    taken: list[tuple[float, float, float]] = []
    parts = []
    for x, y, label in sorted(points, key=lambda point: point[1]):
        text = _cut(label, 36)
        width = 6.4 * len(text)
        left = x + 9 if x + 9 + width < _WIDTH else x - 9 - width
        place = y + 4
        while any(
            left < end and start < left + width and abs(place - other) < _LABEL_HEIGHT for start, end, other in taken
        ):
            place += 2
        taken.append((left, left + width, place))
        parts.append(Markup('<text class="halo" x="{:.1f}" y="{:.1f}">{}</text>').format(left, place, text))
    return _NOTHING.join(parts)


def _path(points: Sequence[tuple[float, float | None]]) -> str:
    """Broken where there is no number."""
    words, pen = [], "M"
    for x, y in points:
        if y is None:
            pen = "M"
            continue
        words.append(f"{pen}{x:g},{y:g}")
        pen = "L"
    return "".join(words)


def _svg(title: str, body: Markup, height: int, attributes: Markup = _NOTHING) -> Markup:
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}"{}>{}</svg>').format(
        _WIDTH, height, title, attributes, body
    )


def _short(value: float) -> str:
    """Three digits that count, without an exponent where it can be."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _maybe(value: float | None) -> str | None:
    return None if value is None else _short(value)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
