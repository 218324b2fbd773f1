"""`resact bench remote`: compares readers of videos in a bucket, in the first and in later epochs.

The bucket is on loopback, with a given bandwidth and latency. It holds the store, and the same videos' frames as each
competitor keeps them. In each round every reader starts with an empty cache, in a process with cores of its own.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console

from resact.bench.object_server import ObjectServer, serve_bucket
from resact.bench.remote_readers import CALLS, READERS, RIVALS, Reader, RemoteTask
from resact.bench.results import result_of
from resact.bench.rounds import take_turns
from resact.bench.tables import print_table
from resact.cache.files import LocalFiles
from resact.cache.store import ClipStore
from resact.errors import ToolError, UsageError
from resact.train.clips.geometry import ClipGeometry

COMPETITORS = tuple(RIVALS)


@dataclass
class _Epochs:
    """The figures of one reader's epochs of one kind, first or later."""

    clips_per_second: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)
    fetched_bytes: list[int] = field(default_factory=list)


def bench_remote(
    store: ClipStore,
    *,
    geometry: ClipGeometry,
    competitors: Sequence[str],
    clips: int,
    epochs: int,
    rounds: int,
    bandwidth: float,
    latency: float,
    workers: int,
    seed: int,
    console: Console,
) -> dict[str, Any]:
    """Measure ours and others on the same videos.

    Args:
        store: a store in a folder.
        geometry: of the clips.
        competitors: names in `COMPETITORS`; those that are not installed are skipped, and the result says why.
        clips: most clips per epoch, each from a different video.
        epochs: epochs per round, 2 or more.
        rounds: number of rounds; in each, every reader starts with an empty cache.
        bandwidth: of the bucket, in MB per second for all connections together.
        latency: of the bucket, in milliseconds per request.
        workers: number of cores of each reader, and of worker processes.
        seed: seed of the clips.
        console: where to print.

    Returns:
        `rows`, each `name`, `problem` (None, or why it cannot run here), and for the first and for later epochs
        `clips_per_second` with its smallest and largest value, `requests` and `fetched_bytes` per epoch; `calls`;
        versions of the competitors; machine, versions, commit.

    Raises:
        UsageError: unknown competitors, a store behind a URL, or a number out of bounds.
    """
    for name in competitors:
        if name not in RIVALS:
            raise UsageError(f"got competitor {name!r}, expected some of {', '.join(COMPETITORS)}")
    if not isinstance(store.files, LocalFiles):
        raise UsageError(f"got {store.files}, expected a store in a folder: the benchmark puts it in a bucket itself")
    if epochs < 2 or clips < 1 or not bandwidth > 0 or not latency >= 0:
        raise UsageError(
            f"got {epochs} epochs of {clips} clips, {bandwidth:g} MB/s and {latency:g} ms, expected 2 epochs or more, "
            "1 clip or more, a bandwidth above 0, and a latency of 0 or more"
        )
    rows = np.random.default_rng(0).permutation(np.flatnonzero(store.index.num_frames))[:clips]
    task = RemoteTask(
        store=str(store.files), video_indices=tuple(rows.tolist()), geometry=geometry, seed=seed,
        workers=workers, cache="",
    )  # fmt: skip
    names = [name for name in READERS if name not in RIVALS or name in competitors]
    problems: dict[str, str | None] = {name: _missing(name) for name in names}
    figures = {name: (_Epochs(), _Epochs()) for name in names}
    with TemporaryDirectory(prefix="resact-bench-") as temporary:
        folder = Path(temporary)
        (folder / "bucket").mkdir()
        (folder / "bucket" / "store.zarr").symlink_to(store.files.root.resolve())
        for name in [name for name in names if name in RIVALS and not problems[name]]:
            console.print(f"writing the videos as {name} keeps them")
            RIVALS[name].write(task, folder / "bucket" / RIVALS[name].folder)
        with serve_bucket(folder / "bucket", bytes_per_second=bandwidth * 1e6, latency_seconds=latency / 1e3) as bucket:
            for number, name in take_turns(names, rounds):
                if problems[name]:
                    continue
                try:
                    own = replace(task, cache=str(folder / "cache"))
                    _run(name, own, bucket, epochs, figures[name], console, f"round {number + 1} of {rounds}")
                except ToolError as error:
                    problems[name] = str(error)
                    console.print(f"cannot run here: {error}")
                shutil.rmtree(folder / "cache", ignore_errors=True)
    return result_of(
        "remote",
        dataset=store.settings.dataset.name,
        codec=store.settings.codec,
        clips_an_epoch=len(rows),
        stored_bytes=int(store.index.shard_bytes[rows].sum()),
        bandwidth_megabytes_per_second=bandwidth,
        latency_milliseconds=latency,
        workers=workers,
        epochs=epochs,
        rounds=rounds,
        geometry=vars(geometry),
        calls={name: CALLS[name] for name in names},
        competitors={RIVALS[name].distribution: _version(name) for name in names if name in RIVALS},
        rows=[
            {"name": name, "problem": problems[name], "first": _plain(first), "later": _plain(later)}
            for name, (first, later) in figures.items()
        ],
    )


def _run(
    name: str,
    task: RemoteTask,
    bucket: ObjectServer,
    epochs: int,
    figures: tuple[_Epochs, _Epochs],
    console: Console,
    what: str,
) -> None:
    reader = Reader(name, task)
    try:
        for number in range(epochs):
            before, start = (bucket.requests, bucket.sent_bytes), perf_counter()
            videos = reader.run(number)
            seconds = perf_counter() - start
            if videos != len(task.video_indices):
                raise ToolError(f"{name}: gave {videos} of {len(task.video_indices)} videos")
            kind = figures[min(number, 1)]
            kind.clips_per_second.append(videos / seconds)
            kind.requests.append(bucket.requests - before[0])
            kind.fetched_bytes.append(bucket.sent_bytes - before[1])
            console.print(
                f"{what}: {name}, epoch {number + 1}: {kind.clips_per_second[-1]:,.1f} clips/s, "
                f"{kind.requests[-1]:,} requests, {kind.fetched_bytes[-1] / 1e6:,.1f} MB"
            )
    finally:
        reader.close()


def _missing(name: str) -> str | None:
    if name not in RIVALS or find_spec(RIVALS[name].package) is not None:
        return None
    return f"{name} is not installed: run `pip install {RIVALS[name].distribution}`"


def _version(name: str) -> str | None:
    try:
        return version(RIVALS[name].distribution)
    except PackageNotFoundError:
        return None


def _plain(epochs: _Epochs) -> dict[str, Any] | None:
    if not epochs.clips_per_second:
        return None
    return {
        "clips_per_second": median(epochs.clips_per_second),
        "clips_per_second_min": min(epochs.clips_per_second),
        "clips_per_second_max": max(epochs.clips_per_second),
        "requests": median(epochs.requests),
        "fetched_bytes": median(epochs.fetched_bytes),
    }


def print_remote(result: dict[str, Any], console: Console) -> None:
    """Print every reader's call, and a table of its first and of its later epochs."""
    for name, call in result["calls"].items():
        console.print(f"{name}: {call}")
    rows = [
        (row["name"], *(text for kind in ("first", "later") for text in _texts(row[kind])))
        for row in result["rows"]
        if not row["problem"]
    ]
    title = (
        f"{result['clips_an_epoch']:,} clips an epoch, {result['bandwidth_megabytes_per_second']:g} MB/s, "
        f"{result['latency_milliseconds']:g} ms a request"
    )
    headings = [f"{kind}\n{what}" for kind in ("first:", "later:") for what in ("clips/s", "requests", "MB")]
    print_table(console, ["", *headings], rows, title=title)
    for row in result["rows"]:
        if row["problem"]:
            console.print(f"could not run here: {row['problem']}")


def _texts(figures: dict[str, Any]) -> tuple[str, str, str]:
    return (
        f"{figures['clips_per_second']:,.1f}",
        f"{figures['requests']:,.0f}",
        f"{figures['fetched_bytes'] / 1e6:,.1f}",
    )
