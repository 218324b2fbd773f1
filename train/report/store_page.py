"""`resact info --html`: a clip store's contents as one offline page."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from resact.cache.choice import videos_of_classes
from resact.cache.layout import MEMBERSHIPS, fps_value, printable
from resact.cache.store import ClipStore
from resact.cache.summary import summary_rows
from resact.train.clips.figure import Look, Picture, contact_sheet, read_excerpt, visible_gain
from resact.train.report.charts import histogram
from resact.train.report.grids import Grid, one_line
from resact.train.report.pictures import Chart
from resact.train.report.template import render

_BINS = 20
_PER_CLASS, _PER_CLASS_OF_MANY, _MANY = 5, 2, 200  # videos per class; fewer if there are more than _MANY classes
_LOOK = Look(steps=(1,), frames=3, height=72)
_MOST_LINES = 50  # per fact, such as failed videos


def store_page(store: ClipStore, summary: dict[str, Any]) -> str:
    """The page, as HTML.

    Args:
        store: an open store.
        summary: its summary, from `summarise`.

    Raises:
        DamagedError: frames on the page have changed since they were written.
    """
    per_class = _PER_CLASS if len(store.index.classes) <= _MANY else _PER_CLASS_OF_MANY
    return render(
        "store.html.jinja",
        title=one_line(f"{summary['dataset']}: {summary['videos']:,} videos"),
        store=one_line(str(store.files)),
        facts={name: _lines(value) for name, value in summary_rows(summary).items()},
        charts=list(_charts(store)),
        classes=_classes(store),
        per_class=per_class,
        sheets=list(_sheets(store, per_class)),
    )


def _lines(value: str) -> list[str]:
    lines = [printable(line) for line in value.split("\n")]
    more = len(lines) - _MOST_LINES
    return lines if more <= 0 else [*lines[:_MOST_LINES], f"and {more:,} more: `resact info` lists all"]


def _charts(store: ClipStore) -> Iterator[Chart]:
    index = store.index
    there = index.num_frames > 0
    seconds = _seconds(store)[there]
    sides = np.maximum(index.height, index.width)[there]
    for title, unit, values in (
        ("Lengths", "s", seconds),
        ("Frame rates of the sources", "frames/s", index.source_fps[there]),
        ("Sizes of the source files", "MB", index.source_bytes[there] / 1e6),
        (f"Long side of the stored frames; the short side is {store.settings.decode.short_side}", "pixels", sides),
    ):
        known = np.asarray(values, np.float64)
        known = known[np.isfinite(known)]
        if len(known):
            low, middle, high = np.percentile(known, (0, 50, 100))
            counts, edges = np.histogram(known, _BINS, (low, high) if high > low else (0.9 * low, 1.1 * low or 1))
            caption = f"{title}. Smallest {low:.4g}, median {middle:.4g}, largest {high:.4g} {unit}."
            yield Chart(partial(histogram, title, unit, edges.tolist(), counts.tolist()), caption)


def _seconds(store: ClipStore) -> npt.NDArray[np.float64]:
    """(N,) lengths of the videos; NaN if the frame rate is unknown."""
    rate, index = store.settings.decode.fps, store.index
    rates = np.asarray(index.source_fps) if rate == "source" else fps_value(rate)
    return np.asarray(index.num_frames / rates, np.float64)


def _classes(store: ClipStore) -> Grid:
    index, seconds = store.index, _seconds(store)
    there = np.asarray(index.num_frames) > 0
    sides = {
        one_line(f"{split} {side}"): codes == code
        for split, codes in index.splits.items()
        for code, side in enumerate(MEMBERSHIPS)
        if code and (codes == code).any()
    }
    rows = []
    for label, name in enumerate(index.classes):
        mine = there & (index.label == label)
        counts = [f"{int((mine & side).sum()):,}" for side in sides.values()]
        known = [f"{np.nanmean(seconds[mine]):.1f}", f"{index.num_frames[mine].min():,}"] if mine.any() else ["-", "-"]
        rows.append([one_line(name), f"{int(mine.sum()):,}", *counts, *known])
    headings = ["class", "videos", *sides, "seconds, mean", "frames, fewest"]
    return Grid(caption="Videos with frames of each class", headings=headings, rows=rows)


def _sheets(store: ClipStore, per_class: int) -> Iterator[tuple[str, int, Picture]]:
    """Each class with frames, the number of its videos shown, and their picture."""
    for label, name in enumerate(store.index.classes):
        if not ((store.index.label == label) & (store.index.num_frames > 0)).any():
            continue
        excerpts = [read_excerpt(store, row, _LOOK) for row in videos_of_classes(store, [name], per_class)]
        gain = visible_gain((excerpt, _LOOK.steps) for excerpt in excerpts)
        yield one_line(name), len(excerpts), contact_sheet(excerpts, replace(_LOOK, gain=gain))
