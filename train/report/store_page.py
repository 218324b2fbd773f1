"""`resact info --html`: a clip store's contents as one offline page."""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from resact.cache.choice import videos_of_classes
from resact.cache.index import Index
from resact.cache.layout import MEMBERSHIPS, fps_value, printable
from resact.cache.store import ClipStore
from resact.cache.summary import summary_rows
from resact.train.clips.figure import Look, contact_sheet, read_excerpt, visible_gain
from resact.train.report.cells import one_line
from resact.train.report.charts import histogram
from resact.train.report.pictures import Chart, chart
from resact.train.report.template import cells_of, render

_BINS = 20
_PER_CLASS, _PER_CLASS_OF_MANY, _MANY = 5, 2, 200  # videos per class; fewer if there are more than _MANY classes
_LOOK = Look(steps=(1,), frames=3, height=72)
_QUALITY = 85
_MOST_LINES = 50  # per fact, such as failed videos


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """The pictures of one class."""

    name: str
    count: int
    """Number of videos shown."""
    jpeg: str
    """Base64."""
    width: int
    height: int


def store_page(store: ClipStore, summary: dict[str, Any]) -> str:
    """The page, as HTML.

    Args:
        store: an open store.
        summary: its summary, from `summarise`.

    Raises:
        DamagedError: frames on the page have changed since they were written.
    """
    return render(
        "store.html.jinja",
        title=one_line(f"{summary['dataset']}: {summary['videos']:,} videos"),
        store=one_line(str(store.files)),
        facts={name: _lines(value) for name, value in summary_rows(summary).items()},
        charts=list(_charts(store)),
        class_headings=("class", "videos", *_sides(store.index), "seconds, mean", "frames, fewest"),
        class_rows=[cells_of(row) for row in _class_rows(store)],
        sheet_notes=[
            f"At most {_per_class(store)} videos of each class, evenly spread over it: three frames of each, and below "
            "them their residuals, brightened by the gain that the heading says."
        ],
        sheets=list(_sheets(store)),
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
            yield chart(partial(histogram, title, unit, edges.tolist(), counts.tolist()), caption)


def _seconds(store: ClipStore) -> npt.NDArray[np.float64]:
    """(N,) lengths of the videos; NaN if the frame rate is unknown."""
    rate, index = store.settings.decode.fps, store.index
    rates = np.asarray(index.source_fps) if rate == "source" else fps_value(rate)
    return np.asarray(index.num_frames / rates, np.float64)


def _sides(index: Index) -> list[str]:
    return [
        one_line(f"{split} {side}")
        for split, codes in index.splits.items()
        for code, side in enumerate(MEMBERSHIPS)
        if code and (codes == code).any()
    ]


def _class_rows(store: ClipStore) -> Iterator[Sequence[str]]:
    index, seconds = store.index, _seconds(store)
    there = np.asarray(index.num_frames) > 0
    for label, name in enumerate(index.classes):
        mine = there & (index.label == label)
        counts = [
            f"{int((mine & (codes == code)).sum()):,}"
            for codes in index.splits.values()
            for code in range(1, len(MEMBERSHIPS))
            if (codes == code).any()
        ]
        known = [f"{np.nanmean(seconds[mine]):.1f}", f"{index.num_frames[mine].min():,}"] if mine.any() else ["-", "-"]
        yield [one_line(name), f"{int(mine.sum()):,}", *counts, *known]


def _per_class(store: ClipStore) -> int:
    return _PER_CLASS if len(store.index.classes) <= _MANY else _PER_CLASS_OF_MANY


def _sheets(store: ClipStore) -> Iterator[Sheet]:
    from PIL import Image

    for label, name in enumerate(store.index.classes):
        if not ((store.index.label == label) & (store.index.num_frames > 0)).any():
            continue
        excerpts = [read_excerpt(store, row, _LOOK) for row in videos_of_classes(store, [name], _per_class(store))]
        gain = visible_gain((excerpt, _LOOK.steps) for excerpt in excerpts)
        picture = contact_sheet(excerpts, replace(_LOOK, gain=gain))
        data = io.BytesIO()
        Image.fromarray(picture).save(data, "JPEG", quality=_QUALITY)
        yield Sheet(
            name=one_line(name),
            count=len(excerpts),
            jpeg=base64.b64encode(data.getvalue()).decode(),
            width=picture.shape[1],
            height=picture.shape[0],
        )
