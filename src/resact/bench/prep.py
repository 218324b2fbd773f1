"""`resact bench prep`: compares prep with bare ffmpeg on the same videos, in one run.

The videos are split into rounds. In each round, competitors take turns on that round's videos.

Bare ffmpeg runs in three ways, always with the null output. `ffmpeg` is the command that a user would type: `fps` and
`scale`, RGB frames. `ffmpeg rgb24` and `ffmpeg yuvj420p` run the graphs that prep runs for the lossless codecs and for
JPEG: these also set each frame's time before `fps` samples, and JPEG's graph avoids the conversion to RGB. The target
(`ratio_to_ffmpeg`) compares with the first: it is what users have without resact, and does not change with our graph.
`ratio_to_same_graph` shows what prep adds to its own decoding.
"""

import os
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from resact.bench.comparison import Row, print_rows, ratios, result_of, take_turns
from resact.cache.codecs import build_codec
from resact.cache.settings import DecodeSettings
from resact.pipeline.datasets.dataset import Dataset, SourceVideo
from resact.pipeline.decoding.binary import find_ffmpeg
from resact.pipeline.decoding.filter_graph import Pixels, decode_arguments
from resact.pipeline.executor import Executor
from resact.pipeline.job.prep import prep
from resact.pipeline.job.task import PrepJob, pixels_of

PIXELS: tuple[Pixels, ...] = ("rgb24", "yuvj420p")


@dataclass(frozen=True)
class _Competitor:
    name: str
    same_graph: str
    """Name of the bare ffmpeg that runs the same graph."""
    command: Callable[[str, str], list[str]] | None = None
    """Bare ffmpeg's command, from its binary and the path of a video."""
    codec: str | None = None
    """Codec of prep."""


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
        job: settings; stores are made in the folder of its store, and removed again.
        executor: a running executor with `workers` workers, so that its start is not measured.
        codecs: codecs of prep.
        workers: number of processes.
        rounds: number of rounds, into which the videos are split.
        console: where to print.

    Returns:
        `rows`, each `name, codec, videos_per_second, ratio_to_ffmpeg` (to `ffmpeg`, the command that a user would
        type), `ratio_to_same_graph` (to the very graph that prep ran), spreads, `peak_worker_bytes`; the competitors'
        commands; machine, versions, commit.
    """
    binary, _ = find_ffmpeg(job.ffmpeg)
    decode = job.settings.decode
    competitors = [
        _Competitor("ffmpeg", "ffmpeg", partial(_plain_command, decode)),
        *(_Competitor(name := f"ffmpeg {kind}", name, partial(_graph_command, decode, kind)) for kind in PIXELS),
        *(_Competitor(f"prep {name}", f"ffmpeg {pixels_of(build_codec(name))}", codec=name) for name in codecs),
    ]
    for video in dataset.videos:
        video.path.read_bytes()  # a warm page cache for all competitors
    rates: dict[str, list[float]] = {competitor.name: [] for competitor in competitors}
    memory: dict[str, int] = {}
    for number, competitor in take_turns(competitors, rounds):
        part = replace(dataset, videos=dataset.videos[number::rounds])
        if competitor.command is not None:
            seconds = _seconds_of_ffmpeg(part, partial(competitor.command, binary), workers)
        elif competitor.codec is not None:
            seconds = _seconds_of_prep(part, job, executor, competitor.codec)
            memory[competitor.name] = executor.peak_bytes()
        rates[competitor.name].append(len(part.videos) / seconds)
        console.print(f"round {number + 1}: {competitor.name}: {rates[competitor.name][-1]:.2f} videos/s")
    result = result_of(
        "prep",
        dataset=dataset.settings.name,
        videos=len(dataset.videos),
        workers=workers,
        rounds=rounds,
        commands={one.name: one.command(Path(binary).name, "VIDEO") for one in competitors if one.command is not None},
        rows=[
            {
                "name": one.name,
                "codec": one.codec,
                "videos_per_second": median(rates[one.name]),
                "videos_per_second_rounds": rates[one.name],
                **ratios("ratio_to_ffmpeg", rates[one.name], rates["ffmpeg"]),
                **ratios("ratio_to_same_graph", rates[one.name], rates[one.same_graph]),
                "peak_worker_bytes": memory.get(one.name),
            }
            for one in competitors
        ],
    )
    _print(result, console)
    return result


def _print(result: Row, console: Console) -> None:
    """The ffmpeg commands, and a table."""
    for name, command in result["commands"].items():
        console.print(f"{name}: {shlex.join(command)}")
    print_rows(
        console,
        result["rows"],
        {
            "": "{name}",
            "videos/s": "{videos_per_second:.2f}",
            "to ffmpeg": "{ratio_to_ffmpeg:.2f} ({ratio_to_ffmpeg_min:.2f} to {ratio_to_ffmpeg_max:.2f})",
            "to ffmpeg,\nsame graph": "{ratio_to_same_graph:.2f} "
            "({ratio_to_same_graph_min:.2f} to {ratio_to_same_graph_max:.2f})",
            "peak worker\nmemory": lambda row: (
                f"{row['peak_worker_bytes'] / 1e6:.0f} MB" if row["peak_worker_bytes"] else ""
            ),
        },
    )


def _seconds_of_ffmpeg(part: Dataset, command: Callable[[str], list[str]], workers: int) -> float:
    def run(video: SourceVideo) -> None:
        subprocess.run(command(str(video.path)), check=True, stdin=subprocess.DEVNULL)

    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, part.videos))
    return time.perf_counter() - start


def _seconds_of_prep(part: Dataset, job: PrepJob, executor: Executor, codec: str) -> float:
    """Time until the index is complete; removing the store and syncing the disk do not count."""
    settings = replace(job.settings, codec=codec, library=build_codec(codec).library())
    with TemporaryDirectory(dir=job.store.parent, prefix="bench-") as folder:
        own = replace(job, store=Path(folder) / f"{codec}.zarr", settings=settings)
        start = time.perf_counter()
        prep(part, own, open_executor=lambda: nullcontext(executor), console=Console(quiet=True))
        seconds = time.perf_counter() - start
    os.sync()
    return seconds


def _plain_command(decode: DecodeSettings, binary: str, source: str) -> list[str]:
    """What a user would type for prep's frame rate and size; raw RGB frames go to the null output.

    Like prep, it decodes and filters in one thread: that is fastest with one process per worker.
    """
    rate = [] if decode.fps == "source" else [f"fps={decode.fps}"]
    side = decode.short_side
    scale = f"scale=w='if(lte(iw,ih),{side},-2)':h='if(lte(iw,ih),-2,{side})':flags={decode.scaler}"
    length = [] if decode.max_seconds is None else ["-t", repr(decode.max_seconds)]
    return [
        binary, "-y", "-nostdin", "-loglevel", "error", "-threads", "1", "-filter_threads", "1", *length, "-i", source,
        "-vf", ",".join([*rate, scale]), "-pix_fmt", "rgb24", "-f", "rawvideo", "/dev/null",
    ]  # fmt: skip


def _graph_command(decode: DecodeSettings, pixels: Pixels, binary: str, source: str) -> list[str]:
    """The same graph as in prep; raw frames go to the null output, and there is no log."""
    swapped = {"image2pipe": "rawvideo", "ppm": "rawvideo", "yuv4mpegpipe": "rawvideo", "pipe:1": "/dev/null"}
    swapped["repeat+level+verbose"] = "error"
    arguments = decode_arguments(source, decode, pixels, strict=False)
    return [binary, "-y", *(swapped.get(argument, argument) for argument in arguments)]
