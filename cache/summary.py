"""The summary of a store that `resact info` prints."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from resact.cache.grouping import grouping
from resact.cache.layout import fps_value, printable
from resact.cache.leaks import ALIKE_NOTE, Leak, store_leaks
from resact.cache.repeats import Repeats, repeats
from resact.cache.store import ClipStore

if TYPE_CHECKING:
    from rich.table import Table

CLIP_FRAMES = (33, 34, 36)
"""Frames that a clip of 32 needs at residual steps 1, 2 and 4 (paper, sec. 2.1: T + s)."""


def summarise(store: ClipStore) -> dict[str, Any]:
    """Counts, sizes and problems of a store, as plain values.

    Returns:
        `videos, frames, bytes, codec, fps, short_side, classes` and more; sizes in bytes, `hours` of video.
    """
    index, settings = store.index, store.settings
    status = np.asarray(index.status_code)
    stored = status != 2
    rates = np.asarray(index.source_fps) if settings.decode.fps == "source" else fps_value(settings.decode.fps)
    frames = np.asarray(index.num_frames, np.int64)
    raw = frames * np.asarray(index.height, np.int64) * np.asarray(index.width, np.int64) * 3
    total = int(index.shard_bytes.sum())
    source = int(np.asarray(index.source_bytes)[stored].sum())
    problems = {
        name: [{"video_id": index.video_id[r], "problem": index.problem[r]} for r in np.flatnonzero(status == code)]
        for code, name in ((1, "damaged"), (2, "failed"))
    }
    slower = repeats(index, settings.decode.fps)
    groups = grouping(index, settings.dataset, partial=store.partial)
    alike = ALIKE_NOTE.read(store.files)
    leaks = None if alike is None else store_leaks(store, alike)
    return {
        "dataset": settings.dataset.name,
        "partial": store.partial,
        "may_grow": settings.dataset.videos is None,
        "videos": len(index),
        "frames": int(frames.sum()),
        "hours": float(np.nansum(frames / rates) / 3600),
        "bytes": total,
        "raw_bytes": int(raw.sum()),
        "source_bytes": source,
        "codec": settings.codec,
        "fps": _number(settings.decode.fps),
        "short_side": settings.decode.short_side,
        "classes": len(settings.dataset.classes),
        "splits": {name: index.sides(name) for name in settings.dataset.splits},
        "groups": groups.groups,
        "ungrouped": groups.ungrouped,
        "notes": groups.notes,
        "copies": None if alike is None else [asdict(pair) for pair in alike],
        "leaks": None if leaks is None else [asdict(leak) for leak in leaks],
        "source_fps": {
            f"{rate:g}": int(count)
            for rate, count in zip(*np.unique(index.source_fps[stored].round(3), return_counts=True), strict=True)
        },
        "repeated": None if slower is None else asdict(slower),
        "shorter_than": {str(n): int((stored & (frames < n)).sum()) for n in CLIP_FRAMES},
        **problems,
        "flip_safe": settings.dataset.flip_safe,
        "fingerprint": settings.fingerprint,
    }


def summary_table(where: str, summary: dict[str, Any]) -> "Table":
    """The summary as a table to print, followed by the problems, one line per video."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, title=where, title_justify="left")
    for name, value in summary_rows(summary).items():
        table.add_row(name, Text(printable(value)))
    return table


def summary_rows(summary: dict[str, Any]) -> dict[str, str]:
    """The summary in words, by heading; one line a problem."""
    gb = {key: summary[key] / 1e9 for key in ("bytes", "raw_bytes", "source_bytes")}
    size = f"{gb['bytes']:.3f} GB as {summary['codec']}"
    if summary["bytes"] and summary["source_bytes"]:
        size += (
            f": 1/{gb['raw_bytes'] / gb['bytes']:.1f} of the raw frames ({gb['raw_bytes']:.2f} GB), "
            f"{gb['bytes'] / gb['source_bytes']:.1f} times the source files ({gb['source_bytes']:.3f} GB)"
        )
    whole = "all videos that prep found" if summary["may_grow"] else "whole"
    rows = {
        "data set": summary["dataset"] + (f": {summary['partial']}" if summary["partial"] else f", {whole}"),
        "videos": f"{summary['videos']:,} in {summary['classes']} classes",
        "frames": f"{summary['frames']:,} at {summary['fps']} a second ({summary['hours']:.2f} h), "
        f"short side {summary['short_side']}",
        "size": size,
        "splits": "; ".join(
            f"{name}: " + ", ".join(f"{number:,} {side}" for side, number in sides.items())
            for name, sides in summary["splits"].items()
        ),
        "groups": "\n".join([f"{summary['groups']:,}", *summary["notes"]]),
        "source fps": ", ".join(f"{rate}: {count:,}" for rate, count in summary["source_fps"].items()),
        **_copies_row(summary),
        **({"repeated": Repeats(**summary["repeated"]).note} if summary["repeated"] else {}),
        "short": ", ".join(f"{count:,} under {n} frames" for n, count in summary["shorter_than"].items())
        + ": what a clip of 32 needs at step 1, 2 and 4",
        "flip-safe": "yes" if summary["flip_safe"] else "no",
    }
    for status in ("damaged", "failed"):
        rows[status] = f"{len(summary[status]):,}" + "".join(
            f"\n{v['video_id']}: {v['problem']}" for v in summary[status]
        )
    return rows


def _copies_row(summary: dict[str, Any]) -> dict[str, str]:
    """Nothing of a store whose videos nobody has compared."""
    if summary["copies"] is None:
        return {}
    leaks = [Leak(**leak) for leak in summary["leaks"]]
    pairs = f"{len(summary['copies']):,} pairs of videos look the same, {len(leaks):,} of them on two sides of a split"
    return {"copies": "\n".join([pairs, *map(str, leaks)])}


def _number(fps: str) -> int | float | str:
    if fps == "source":
        return fps
    value = fps_value(fps)
    return int(value) if value.is_integer() else value
