"""`resact bench remote`: compares readers of videos in a bucket, in the first and in later epochs.

The bucket is on loopback, with a given bandwidth and latency. It holds the store, and the same videos' frames as each
competitor keeps them. In each round every reader starts with an empty cache, in a process with cores of its own.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console

from resact.bench.comparison import Row, print_rows, result_of, spread, take_turns
from resact.bench.competitors import Task
from resact.bench.object_server import ObjectServer, serve_bucket
from resact.bench.remote_readers import CALLS, READERS, RIVALS, open_team
from resact.cache.files import LocalFiles
from resact.cache.store import ClipStore
from resact.errors import ToolError, UsageError
from resact.train.clips.geometry import ClipGeometry


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
        competitors: names in `RIVALS`; those that are not installed are skipped, and the result says why.
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
        UsageError: unknown competitors, a store behind a URL, or a bandwidth of 0.
    """
    for name in competitors:
        if name not in RIVALS:
            raise UsageError(f"got competitor {name!r}, expected some of {', '.join(RIVALS)}")
    if not isinstance(store.files, LocalFiles):
        raise UsageError(f"got {store.files}, expected a store in a folder: the benchmark puts it in a bucket itself")
    if not bandwidth > 0:
        raise UsageError(f"got --bandwidth {bandwidth:g}, expected a number above 0")
    rows = np.random.default_rng(0).permutation(np.flatnonzero(store.index.num_frames))[:clips]
    videos = tuple(rows.tolist())
    task = Task(store=str(store.files), video_indices=videos, geometry=geometry, seed=seed, threads=workers)
    names = [name for name in READERS if name not in RIVALS or name in competitors]
    rivals = {name: RIVALS[name] for name in names if name in RIVALS}
    versions = {rival.distribution: _version(rival.distribution) for rival in rivals.values()}
    problems = {
        name: f"{name} is not installed: run `pip install {rival.distribution}`"
        for name, rival in rivals.items()
        if versions[rival.distribution] is None
    }
    figures: dict[str, dict[str, list[Row]]] = {name: {"first": [], "later": []} for name in names}
    with TemporaryDirectory(prefix="resact-bench-") as temporary:
        folder = Path(temporary)
        (folder / "bucket").mkdir()
        (folder / "bucket" / "store.zarr").symlink_to(store.files.root.resolve())
        for name in [name for name in rivals if name not in problems]:
            console.print(f"writing the videos as {name} keeps them")
            rivals[name].write(task, folder / "bucket" / rivals[name].folder)
        with serve_bucket(folder / "bucket", bytes_per_second=bandwidth * 1e6, latency_seconds=latency / 1e3) as bucket:
            for number, name in take_turns(names, rounds):
                if name in problems:
                    continue
                try:
                    own = replace(task, cache=str(folder / "cache"))
                    _run(name, own, bucket, epochs, figures[name], console, f"round {number + 1} of {rounds}")
                except ToolError as error:
                    problems[name] = str(error)
                    console.print(f"cannot run here: {error}")
                shutil.rmtree(folder / "cache", ignore_errors=True)
    result = result_of(
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
        competitors=versions,
        rows=[
            {"name": name, "problem": problems.get(name), **{kind: _medians(found) for kind, found in kinds.items()}}
            for name, kinds in figures.items()
        ],
    )
    _print(result, console)
    return result


def _run(
    name: str,
    task: Task,
    bucket: ObjectServer,
    epochs: int,
    figures: dict[str, list[Row]],
    console: Console,
    what: str,
) -> None:
    team = open_team(name, task)
    try:
        for number in range(epochs):
            requests, sent_bytes = bucket.requests, bucket.sent_bytes
            turn = team.run(number)
            (videos,) = turn.results
            if videos != len(task.video_indices):
                raise ToolError(f"{name}: gave {videos} of {len(task.video_indices)} videos")
            found = {
                "clips_per_second": videos / turn.seconds,
                "requests": bucket.requests - requests,
                "fetched_bytes": bucket.sent_bytes - sent_bytes,
            }
            figures["later" if number else "first"].append(found)
            console.print(
                f"{what}: {name}, epoch {number + 1}: {found['clips_per_second']:,.1f} clips/s, "
                f"{found['requests']:,} requests, {found['fetched_bytes'] / 1e6:,.1f} MB"
            )
    finally:
        team.close()


def _version(distribution: str) -> str | None:
    """None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _medians(epochs: Sequence[Row]) -> Row | None:
    if not epochs:
        return None
    requests, fetched_bytes = (median(epoch[name] for epoch in epochs) for name in ("requests", "fetched_bytes"))
    rates = spread("clips_per_second", [epoch["clips_per_second"] for epoch in epochs])
    return {**rates, "requests": requests, "fetched_bytes": fetched_bytes}


def _print(result: Row, console: Console) -> None:
    """Every reader's call, and a table of its first and of its later epochs."""
    for name, call in result["calls"].items():
        console.print(f"{name}: {call}")
    print_rows(
        console,
        [row for row in result["rows"] if not row["problem"]],
        {
            "": "{name}",
            "first:\nclips/s": "{first[clips_per_second]:,.1f}",
            "first:\nrequests": "{first[requests]:,.0f}",
            "first:\nMB": lambda row: f"{row['first']['fetched_bytes'] / 1e6:,.1f}",
            "later:\nclips/s": "{later[clips_per_second]:,.1f}",
            "later:\nrequests": "{later[requests]:,.0f}",
            "later:\nMB": lambda row: f"{row['later']['fetched_bytes'] / 1e6:,.1f}",
        },
        title=f"{result['clips_an_epoch']:,} clips an epoch, {result['bandwidth_megabytes_per_second']:g} MB/s, "
        f"{result['latency_milliseconds']:g} ms a request",
    )
    for row in result["rows"]:
        if row["problem"]:
            console.print(f"could not run here: {row['problem']}")
