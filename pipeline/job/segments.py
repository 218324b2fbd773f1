"""Checks before a long prep that the parts in a list lie inside their videos."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from rich.console import Console

from resact.errors import SourceError
from resact.pipeline.datasets.dataset import Dataset
from resact.pipeline.decoding.cut import outside
from resact.pipeline.decoding.ffmpeg_log import DURATION, by_message, seconds_of
from resact.pipeline.decoding.limits import RESTRICTIONS, run_limited
from resact.progress import ProgressLine

_SHOWN = 5
_PATIENCE_SECONDS = 60.0


def with_parts_inside(dataset: Dataset, *, binary: str, allow_partial: bool, console: Console) -> Dataset:
    """The data set; with `allow_partial`, parts outside their videos will be listed as failed.

    Only the files' headers are read here; prep itself checks the frames.

    Args:
        dataset: the data set as found.
        binary: path of ffmpeg.
        allow_partial: whether to continue.
        console: for the progress line.

    Raises:
        SourceError: parts lie outside their videos; names the lines.
    """
    paths = sorted({video.path for video in dataset.videos if video.segment and not video.problem})
    lengths = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool, ProgressLine(console, "lengths", len(paths), unit="files") as line:
        for path, length in zip(paths, pool.map(lambda path: _length(path, binary), paths), strict=True):
            lengths[path] = length
            line.update(len(lengths))
    problems = {}
    for video in dataset.videos:
        length = lengths.get(video.path)
        if video.segment and length is not None and (problem := outside(video.segment, length)):
            problems[video.video_id] = problem
    if problems and not allow_partial:
        named = [f"{line}: {v!a}: {problems[v]}" for v, line in dataset.lines.items() if v in problems]
        more = f"; and {len(named) - _SHOWN:,} more lines" if len(named) > _SHOWN else ""
        raise SourceError(
            f"{'; '.join(named[:_SHOWN])}{more}: correct the list, or use what exists with --allow-partial"
        )
    videos = tuple(replace(video, problem=problems.get(video.video_id, video.problem)) for video in dataset.videos)
    return replace(dataset, videos=videos) if problems else dataset


def _length(path: Path, binary: str) -> Fraction | None:
    """Seconds, as the file's header says; None where it does not."""
    command = [
        binary, *RESTRICTIONS, "-nostdin", "-hide_banner", "-loglevel", "level+info",
        "-protocol_whitelist", "file,pipe", "-i", f"file:{os.fspath(path)}",
    ]  # fmt: skip
    done = run_limited(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout_seconds=_PATIENCE_SECONDS)
    match = done and DURATION.search(by_message(done.stderr.decode("utf-8", "replace")))
    return seconds_of(match) if match else None
