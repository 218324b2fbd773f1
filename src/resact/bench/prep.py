"""`resact bench prep`: prep beside bare ffmpeg on the same videos, in one run.

The videos are dealt into rounds; in each round every contestant does that round's videos, in turn first, second ...,
so that a machine whose speed drifts does so for all of them. Ratios are taken round by round.
"""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from resact.cache.codecs import build_codec
from resact.cache.provenance import provenance
from resact.pipeline.datasets.dataset import Dataset, SourceVideo
from resact.pipeline.decoding.binary import find_ffmpeg
from resact.pipeline.decoding.filter_graph import Pixels, decode_arguments
from resact.pipeline.executor import Executor
from resact.pipeline.job.prep import prep
from resact.pipeline.job.task import PrepJob, pixels_of


@dataclass(frozen=True)
class _Contestant:
    name: str
    codec: str | None
    """None for bare ffmpeg."""
    pixels: Pixels


def bench_prep(
    dataset: Dataset,
    job: PrepJob,
    executor: Executor,
    *,
    codecs: Sequence[str],
    workers: int,
    rounds: int,
    console: Console,
) -> dict[str, Any]:
    """Measure prep and bare ffmpeg, both with `workers` processes.

    Args:
        dataset: what to prep.
        job: settings; its store's folder is where the stores are made, and removed again.
        executor: a running one with `workers` workers: its start is not measured.
        codecs: of prep.
        workers: processes.
        rounds: into how many parts the videos are dealt.
        console: for people.

    Returns:
        `rows`, each `name, codec, videos_per_second, ratio_to_ffmpeg` (to RGB frames, as any store of RGB frames has to
        decode them), `ratio_to_same_graph` (to the very graph that prep ran), spreads, `peak_worker_bytes`; the
        competitors' commands; machine, versions, commit.
    """
    binary, _ = find_ffmpeg(job.ffmpeg)
    contestants = [
        _Contestant("ffmpeg rgb24", None, "rgb24"),
        _Contestant("ffmpeg yuvj420p", None, "yuvj420p"),
    ]
    contestants += [_Contestant(f"prep {codec}", codec, pixels_of(build_codec(codec))) for codec in codecs]
    for video in dataset.videos:
        video.path.read_bytes()  # all contestants find the page cache warm
    rates: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    memory: dict[str, int] = {}
    bare: Callable[[SourceVideo, Pixels], None] = lambda video, pixels: _run_bare(binary, video, job, pixels)  # noqa: E731
    for number in range(rounds):
        part = replace(dataset, videos=dataset.videos[number::rounds])
        for contestant in contestants[number % len(contestants) :] + contestants[: number % len(contestants)]:
            if contestant.codec is None:
                seconds = _seconds_of_bare(part, bare, contestant.pixels, workers)
            else:
                seconds = _seconds_of_prep(part, job, executor, contestant.codec)
                memory[contestant.name] = executor.peak_bytes()
            rates[contestant.name].append(len(part.videos) / seconds)
            console.print(f"round {number + 1}: {contestant.name}: {rates[contestant.name][-1]:.2f} videos/s")
    return {
        "benchmark": "prep",
        "dataset": dataset.settings.name,
        "videos": len(dataset.videos),
        "workers": workers,
        "rounds": rounds,
        "commands": {pixels: _command(Path(binary).name, "VIDEO", job, pixels) for pixels in ("rgb24", "yuvj420p")},
        "rows": [
            {
                "name": c.name,
                "codec": c.codec,
                "videos_per_second": median(rates[c.name]),
                "videos_per_second_rounds": rates[c.name],
                **_ratios("ratio_to_ffmpeg", rates[c.name], rates["ffmpeg rgb24"]),
                **_ratios("ratio_to_same_graph", rates[c.name], rates[f"ffmpeg {c.pixels}"]),
                "peak_worker_bytes": memory.get(c.name),
            }
            for c in contestants
        ],
        **provenance(),
    }


def _ratios(name: str, ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    return {name: median(ratios), f"{name}_min": min(ratios), f"{name}_max": max(ratios)}


def _seconds_of_bare(part: Dataset, bare: Callable[[SourceVideo, Pixels], None], pixels: Pixels, workers: int) -> float:
    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(bare, part.videos, [pixels] * len(part.videos)))
    return time.perf_counter() - start


def _seconds_of_prep(part: Dataset, job: PrepJob, executor: Executor, codec: str) -> float:
    """From nothing to the finished index; removing the store, and waiting for the disk, are not part of it."""
    settings = replace(job.settings, codec=codec, library=build_codec(codec).library())
    with TemporaryDirectory(dir=job.store.parent, prefix="bench-") as folder:
        own = replace(job, store=Path(folder) / f"{codec}.zarr", settings=settings)
        start = time.perf_counter()
        prep(part, own, open_executor=lambda: nullcontext(executor), console=Console(quiet=True))
        seconds = time.perf_counter() - start
    os.sync()
    return seconds


def _command(binary: str, source: str, job: PrepJob, pixels: Pixels) -> list[str]:
    """The same graph as prep's, as raw frames to nowhere, and without its log."""
    swapped = {"image2pipe": "rawvideo", "ppm": "rawvideo", "yuv4mpegpipe": "rawvideo", "pipe:1": "/dev/null"}
    swapped["repeat+level+verbose"] = "error"
    arguments = decode_arguments(source, job.settings.decode, pixels, strict=False)
    return [binary, "-y", *(swapped.get(argument, argument) for argument in arguments)]


def _run_bare(binary: str, video: SourceVideo, job: PrepJob, pixels: Pixels) -> None:
    subprocess.run(_command(binary, str(video.path), job, pixels), check=True, stdin=subprocess.DEVNULL)
