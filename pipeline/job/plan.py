"""Plans a prep: its videos, decode settings and store."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from resact.cache.layout import printable
from resact.cache.settings import DecodeSettings, StoreSettings
from resact.pipeline.datasets.dataset import Dataset, limited
from resact.pipeline.datasets.registry import dataset_kind, load_dataset
from resact.pipeline.decoding.binary import find_ffmpeg
from resact.pipeline.decoding.filter_graph import parse_fps
from resact.pipeline.job.segments import with_parts_inside
from resact.pipeline.job.task import PrepJob


def load_videos(
    name: str,
    root: Path | None,
    classes: Sequence[str] | None,
    allow_partial: bool,
    limit: int | None,
    console: Console,
    executor: Any,
    options: Mapping[str, Any] | None = None,
    make: bool = True,
    *,
    ffmpeg: str | None = None,
) -> Dataset:
    """The data set of that name, generated first if it can be; prints what is missing from it.

    `classes` are names of classes. `options` are those that only this data set has. Without `make` nothing is
    generated.
    """
    root = root and root.absolute()
    if make:
        dataset_kind(name).make(root, classes=classes, open_executor=executor, console=console)
    dataset = load_dataset(name, root=root, classes=classes, allow_partial=allow_partial, options=options)
    dataset = limited(dataset, limit)
    if any(video.segment for video in dataset.videos):
        binary, _ = find_ffmpeg(ffmpeg)
        dataset = with_parts_inside(dataset, binary=binary, allow_partial=allow_partial, console=console)
    for note in dataset.notes:
        console.print(printable(f"note: {note}"))
    if dataset.missing:
        console.print(f"note: {len(dataset.missing):,} videos that the lists name are missing")
    return dataset


def decode_settings(fps: str, short_side: int, max_seconds: float | None, ffmpeg: str | None) -> DecodeSettings:
    """Decode settings from the options, with ffmpeg's version."""
    rate, (_, version) = parse_fps(fps), find_ffmpeg(ffmpeg)
    return DecodeSettings(fps=rate, short_side=short_side, max_seconds=max_seconds, ffmpeg=version)


def prep_job(
    dataset: Dataset,
    decode: DecodeSettings,
    codec: str,
    *,
    library: str,
    store: Path,
    ffmpeg: str | None,
    timeout: float,
) -> PrepJob:
    """The job: everything that is the same for all videos of a prep."""
    settings = StoreSettings(dataset=dataset.settings, decode=decode, codec=codec, library=library)
    return PrepJob(store=store.absolute(), settings=settings, ffmpeg=ffmpeg, timeout_seconds=timeout)
