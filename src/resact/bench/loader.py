"""`resact bench loader`: compares clips read from stores with other ways to read the same clips, in one run.

In each round, competitors take turns to make the same clips. A competitor's processes live for all rounds of one number
of cores, pinned to them. The first round is a warm-up and does not count.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from resact.bench.comparison import Row, print_rows, ratios, result_of, take_turns
from resact.bench.competitors import CALLS, PACKAGES, Task, open_team
from resact.bench.index import drop_from_page_cache
from resact.bench.processes import Team
from resact.cache.address import local_path
from resact.cache.layout import SHARD, array_name
from resact.cache.remote_files import without_secrets
from resact.cache.store import ClipStore, open_store
from resact.errors import ToolError, UsageError
from resact.train.clips.geometry import ClipGeometry

_CACHES = ("warm", "cold")


@dataclass(kw_only=True)
class _Competitor:
    """One way to get clips, ours or another's, on some cores."""

    name: str
    codec: str | None
    task: Task
    files: list[Path]
    """The files that it reads."""
    team: Team | None = None
    problem: str | None = None
    """Why it cannot run here."""
    rates: dict[str, list[float]] = field(default_factory=lambda: {cache: [] for cache in _CACHES})
    """Clips a second of each round, by page cache."""
    busy: dict[str, list[float]] = field(default_factory=lambda: {cache: [] for cache in _CACHES})
    """CPU time per clip in milliseconds, by round: meaningful even on a machine with other load."""


def bench_loader(
    stores: Sequence[str],
    sources: dict[str, Path],
    *,
    geometry: ClipGeometry,
    competitors: Sequence[str],
    cores: Sequence[int],
    clips: int,
    rounds: int,
    seed: int,
    console: Console,
) -> dict[str, Any]:
    """Measure ours and others on the same clips.

    Args:
        stores: local stores of the same videos, one per codec.
        sources: the video file of each video.
        geometry: of the clips.
        competitors: names in `PACKAGES`.
        cores: numbers of cores to measure with, such as (1, 16).
        clips: most clips per round, each from a different video.
        rounds: number of measured rounds, each with a warm and with a cold page cache.
        seed: seed of the clips.
        console: where to print.

    Returns:
        `rows`, each `name, codec, cores, page_cache, clips_per_second`, its rounds, ratios with their spreads (None
        where the competitor makes something else) and `problem` (None, or why it cannot run here); every competitor's
        calls; machine, versions, commit.

    Raises:
        UsageError: unknown or missing competitors, or stores that do not hold the same videos.
    """
    _require_installed(competitors)
    opened = [open_store(store) for store in stores]
    if len({store.settings.codec for store in opened}) < len(opened):
        raise UsageError("got two stores of one codec, expected one store a codec")
    rows = _same_videos(opened, sources)[:clips]
    allowed = sorted(os.sched_getaffinity(0))
    if not cores or min(cores) < 1 or max(cores) > len(allowed):
        raise UsageError(f"got {', '.join(map(str, cores))} cores, expected 1 to {len(allowed)}")
    results = []
    for count in cores:
        taking_part = list(_competitors(opened, sources, rows, competitors, geometry, seed))
        with ExitStack() as stack:
            for one in taking_part:
                try:
                    one.team = open_team(one.name, one.task, allowed[:count])
                    stack.callback(one.team.close)
                except ToolError as error:
                    one.problem = str(error)
                    console.print(f"cannot run here: {error}")
            _run(taking_part, rounds, count, console)
        results += [_result(one, taking_part, count, cache) for cache in _CACHES for one in taking_part]
    videos = [opened[0].index.num_frames[row] for row in rows]
    result = result_of(
        "loader",
        dataset=opened[0].settings.dataset.name,
        clips_a_round=len(rows),
        stored_frames_a_video=float(np.median(videos)),
        rounds=rounds,
        geometry=vars(geometry),
        calls={one.name: CALLS[one.name] for one in taking_part},
        rows=results,
    )
    _print(result, console)
    return result


def require_folders(stores: Sequence[str]) -> None:
    """Refuse URLs: the other competitors cannot read from them.

    Raises:
        UsageError: names the first.
    """
    if remote := [store for store in stores if local_path(store) is None]:
        raise UsageError(
            f"got {without_secrets(remote[0])}, expected stores in folders: the others read files of this machine alone"
        )


def _require_installed(competitors: Sequence[str]) -> None:
    for name in competitors:
        if name not in PACKAGES:
            raise UsageError(f"got competitor {name!r}, expected some of {', '.join(PACKAGES)}")
        if find_spec(PACKAGES[name]) is None:
            raise UsageError(
                f'{name} is not installed: run `pip install -c constraints.txt ".[bench]"` in the folder of resact\'s '
                "source, or name the others with --competitors"
            )


def _same_videos(stores: Sequence[ClipStore], sources: dict[str, Path]) -> list[int]:
    """Rows of the videos with frames, which are the same in all stores, in random order."""
    first = stores[0].index
    for store in stores[1:]:
        index = store.index
        if list(index.video_id) != list(first.video_id) or not np.array_equal(index.num_frames, first.num_frames):
            raise UsageError(f"{store.files} and {stores[0].files} do not hold the same frames of the same videos")
    rows = np.flatnonzero(first.num_frames > 0).tolist()
    unknown = [first.video_id[row] for row in rows if first.video_id[row] not in sources]
    if unknown:
        raise UsageError(f"{stores[0].files} holds {unknown[0]!r}, of which there is no source: name its --root")
    order: list[int] = np.random.default_rng(0).permutation(rows).tolist()
    return order


def _competitors(
    stores: Sequence[ClipStore],
    sources: dict[str, Path],
    video_indices: Sequence[int],
    competitors: Sequence[str],
    geometry: ClipGeometry,
    seed: int,
) -> Iterator[_Competitor]:
    for store in stores:
        path, ids = Path(str(store.files)), {video: store.index.video_id[video] for video in video_indices}
        task = Task(
            store=str(path),
            sources={video: str(sources[video_id]) for video, video_id in ids.items()},
            video_indices=tuple(video_indices),
            geometry=geometry,
            seed=seed,
        )
        shards, codec = [path / array_name(video_id) / SHARD for video_id in ids.values()], store.settings.codec
        names = ["ours", "zarr", "ours uint8", "zarr uint8"] + ["bare decode"] * (codec == "jpeg")
        yield from (_Competitor(name=name, codec=codec, task=task, files=shards) for name in names)
    for name in competitors:
        yield _Competitor(name=name, codec=None, task=task, files=[Path(video) for video in task.sources.values()])


def _run(competitors: Sequence[_Competitor], rounds: int, cores: int, console: Console) -> None:
    able = [one for one in competitors if one.team]
    for number, one in take_turns(able, rounds + 1):
        for cache in _CACHES if number else ("warm",):
            for file in one.files:
                drop_from_page_cache(file) if cache == "cold" else file.read_bytes()
            turn = one.team.run(number)  # type: ignore[union-attr]
            if number:
                one.rates[cache].append(len(one.task.video_indices) / turn.seconds)
                one.busy[cache].append(turn.cpu_seconds / len(one.task.video_indices) * 1e3)
                what = f"{one.name} {one.codec or ''}".strip()
                console.print(
                    f"{cores} cores, round {number}, {cache}: {what}: {one.rates[cache][-1]:.1f} clips/s, "
                    f"{one.busy[cache][-1]:.1f} ms of processor time a clip"
                )


_RIVALS = ("decord", "decord_resized", "torchcodec", "pyav", "zarr", "bare_decode")


def _result(one: _Competitor, competitors: Sequence[_Competitor], cores: int, cache: str) -> dict[str, Any]:
    rates, figures = one.rates[cache], dict[str, float | None]()
    uint8 = one.name.endswith("uint8") or one.name == "bare decode"
    rates_of = {(other.name, other.codec): other.rates[cache] for other in competitors}
    for rival in _RIVALS:
        name, codec = rival.replace("_", " "), one.codec if rival in ("zarr", "bare_decode") else None
        same_work = rival == "zarr" or (rival == "bare_decode") == uint8
        theirs = rates_of.get((f"{name} uint8" if uint8 and rival == "zarr" else name, codec)) if same_work else None
        figures |= ratios(f"ratio_to_{rival}", rates, theirs) if rates and theirs else {f"ratio_to_{rival}": None}
    return {
        "name": one.name,
        "codec": one.codec,
        "cores": cores,
        "page_cache": cache,
        "clips_per_second": median(rates) if rates else None,
        "clips_per_second_rounds": rates,
        "processor_milliseconds_a_clip": median(one.busy[cache]) if rates else None,
        **figures,
        "problem": one.problem,
    }


def _print(result: Row, console: Console) -> None:
    """Every competitor's calls, and a table for each number of cores and each state of the page cache."""
    for name, calls in result["calls"].items():
        console.print(f"{name}: {calls}")
    columns: dict[str, str | Callable[[Row], str]] = {
        "": lambda row: f"{row['name']} {row['codec'] or ''}",
        "clips/s": "{clips_per_second:.1f}",
        "CPU ms": "{processor_milliseconds_a_clip:.1f}",
        **{rival.replace("_", "\n"): partial(_ratio, rival) for rival in _RIVALS},
    }
    able = [row for row in result["rows"] if not row["problem"]]
    for (cores, cache), rows in groupby(able, key=itemgetter("cores", "page_cache")):
        title = f"cores: {cores}, page cache {cache}"
        print_rows(console, rows, columns, title=title, caption="ratios of clips/s, round by round")
    for problem in sorted({row["problem"] for row in result["rows"] if row["problem"]}):
        console.print(f"could not run here: {problem}")


def _ratio(rival: str, row: Row) -> str:
    ratio = row[f"ratio_to_{rival}"]
    return "" if ratio is None else f"{ratio:.2f}"
