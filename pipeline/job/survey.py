"""`resact prep --dry-run`: examines a data set before a long prep, without writing anything."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import file_digest
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from resact.cache.alike import MOST_VIDEOS, SECONDS, Look, alike_pairs, means_of
from resact.cache.files import LocalFiles
from resact.cache.index import Index
from resact.cache.index_files import read_index
from resact.cache.layout import DOCUMENT, MEMBERSHIPS, Segment, printable
from resact.cache.leaks import Alike, Leak, leaks_of
from resact.cache.names import first_of
from resact.cache.settings import DecodeSettings
from resact.cache.store import read_settings
from resact.cache.verify import Problem
from resact.errors import DecodeError, SourceError
from resact.pipeline.datasets.dataset import Dataset, SourceVideo
from resact.pipeline.decoding.decode import VideoDecoder
from resact.pipeline.decoding.ffmpeg_log import SourceProperties
from resact.pipeline.job.estimate import estimate, file_bytes, length_seconds
from resact.pipeline.job.task import NO_VIDEO, PrepJob, complaint_words, decode_video, require_content
from resact.progress import PlainLines, ProgressLine, duration

if TYPE_CHECKING:
    from rich.table import Table

_PLAIN_LINE_SECONDS = 5.0
_LOOK_SIDE = 32  # pixels of the short side that 8x8 means are made of
_NO_LOOK: Look = np.empty((0, 0), np.float32)
_FEW = 5  # names in a line
_LISTED = 20  # of each kind of finding; --json has all


@dataclass(frozen=True, kw_only=True)
class ClassCount:
    """Number of videos of one class."""

    class_name: str
    videos: int
    sides: dict[str, dict[str, int]]
    """Split -> side -> number of videos."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The findings of `--dry-run`."""

    dataset: str
    store: str
    videos: int
    in_store: int
    """Number of these that the store already has."""
    missing: int
    """Number of videos that the lists name but are missing on disk."""
    classes: list[ClassCount]
    imbalance: float | None
    """Ratio of the largest class to the smallest that is not empty, on the first split's training side."""
    untrained: list[str]
    """Classes without training videos."""
    same: list[list[str]]
    """Groups of videos with the same bytes."""
    compared: bool
    """Whether looks were compared: not if there are more videos than `MOST_VIDEOS`."""
    alike: list[list[str]]
    """Other pairs of videos that look the same (`cache/alike.py`)."""
    leaks: list[Leak]
    """Pairs of either kind on two sides of a split."""
    unreadable: list[Problem]
    """Videos that prep would list as failed."""
    hours: float
    """Hours of video, according to the files."""
    source_bytes: int
    store_bytes: int | None
    """Estimated store size of the videos to prep, in bytes; None if unknown."""
    free_bytes: int
    seconds: float | None
    """Estimated duration of their prep with this number of workers, in seconds; None if unknown."""
    workers: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    """What was seen of one video."""

    properties: SourceProperties | None
    look: Look
    problem: str | None


def survey(dataset: Dataset, job: PrepJob, *, workers: int, console: Console) -> Survey:
    """Examine every video of a data set: four seconds of each are decoded at a small size.

    Args:
        dataset: the data set to prep.
        job: store and settings.
        workers: prep's number of workers; as many videos are examined at the same time.
        console: where to show progress.

    Raises:
        SettingsError: the store exists, and prep would refuse to continue it.
        ToolError: ffmpeg is missing.
    """
    index = _index(job)
    dataset = dataset.beside(index)
    held = set(index.video_id)
    todo = [video for video in dataset.videos if video.video_id not in held]
    seen = _look_at_all(dataset.videos, job, workers, console)
    sizes = {video.video_id: file_bytes(video.path) for video in dataset.videos}
    same = _same_files(dataset.videos, sizes)
    told = estimate(job, todo)
    pairs = _alike(dataset.videos, seen, same)
    sides = {
        split: {video.video_id: video.splits.get(split) for video in dataset.videos}.get
        for split in dataset.settings.splits
    }
    classes = _classes(dataset)
    there = next(folder for folder in (job.store, *job.store.parents) if folder.is_dir())
    first = dataset.settings.splits[:1]
    train = {one.class_name: one.sides.get(split, {}).get("train", 0) for split in first for one in classes}
    trained = [count for count in train.values() if count]
    return Survey(
        dataset=dataset.settings.name,
        store=str(job.store),
        videos=len(dataset.videos),
        in_store=len(dataset.videos) - len(todo),
        missing=len(dataset.missing),
        classes=classes,
        imbalance=max(trained) / min(trained) if trained else None,
        untrained=[name for name, count in train.items() if not count],
        same=same,
        compared=len(dataset.videos) <= MOST_VIDEOS,
        alike=[[pair.first, pair.second] for pair in pairs if not pair.same_file],
        leaks=leaks_of(pairs, sides),
        unreadable=[
            Problem(video.video_id, of_one.problem)
            for video, of_one in zip(dataset.videos, seen, strict=True)
            if of_one.problem is not None
        ],
        hours=sum(
            length_seconds(video, of_one.properties, job.settings.decode)
            for video, of_one in zip(dataset.videos, seen, strict=True)
        )
        / 3600,
        source_bytes=sum({video.path: sizes[video.video_id] for video in dataset.videos}.values()),
        store_bytes=None if told is None else told.bytes,
        free_bytes=shutil.disk_usage(there).free,
        seconds=None if told is None else told.seconds / max(1, workers),
        workers=workers,
    )


def print_survey(found: Survey, console: Console) -> None:
    """Print the findings."""
    say = console.print
    console.print(_class_table(found), soft_wrap=False)
    there = f", {found.in_store:,} of them in {found.store} already" if found.in_store else ""
    gone = f", {found.missing:,} more are listed and not there" if found.missing else ""
    say(f"{found.dataset}: {found.videos:,} videos in {len(found.classes):,} classes{there}{gone}")
    if found.untrained:
        classes = f"{_counted(len(found.untrained), 'class', 'classes')} ({first_of(found.untrained, _FEW)})"
        say(printable(f"without training videos: {classes}"))
    if found.imbalance is not None:
        say(f"imbalance: the largest class has {found.imbalance:.1f} times as many training videos as the smallest")
    say(f"{found.hours:.2f} hours, {found.source_bytes / 1e9:.3f} GB of source files")
    if found.store_bytes is not None and found.seconds is not None:
        size = f"about {found.store_bytes / 1e9:.3f} GB in the store ({found.free_bytes / 1e9:.1f} GB free)"
        workers = _counted(max(1, found.workers), "worker", "workers")
        say(f"prep: {size}, about {duration(found.seconds)} with {workers}")
    _list(console, "cannot be opened", [f"{one.video_id}: {one.problem}" for one in found.unreadable])
    _list(console, "groups of the same file", [", ".join(ids) for ids in found.same])
    if found.compared:
        _list(console, "pairs that look the same", [" and ".join(pair) for pair in found.alike])
    else:
        say(f"pairs that look the same: not looked for among more than {MOST_VIDEOS:,} videos")
    _list(console, "leaks", [str(leak) for leak in found.leaks])
    if found.leaks:
        say("remove one video of each leak, or give both the same group: otherwise accuracies will be too high")
    say("dry run: nothing was written")


def _list(console: Console, what: str, lines: Sequence[str]) -> None:
    console.print(f"{what}: {len(lines):,}")
    for line in lines[:_LISTED]:
        console.print(printable(f"  {line}"))
    if len(lines) > _LISTED:
        console.print(f"  and {len(lines) - _LISTED:,} more: --json has all")


def _class_table(found: Survey) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("class", overflow="fold")
    table.add_column("videos", justify="right")
    held = {(split, side) for one in found.classes for split in one.sides for side in one.sides[split]}
    columns = sorted(held, key=lambda column: (column[0], MEMBERSHIPS.index(column[1])))
    for split, side in columns:
        table.add_column(Text(f"{printable(split)}\n{side}"), justify="right")
    for one in found.classes:
        if not one.videos:
            continue
        counts = [f"{one.sides.get(split, {}).get(side, 0):,}" for split, side in columns]
        table.add_row(Text(printable(one.class_name)), f"{one.videos:,}", *counts)
    return table


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"


def _index(job: PrepJob) -> Index:
    """Of the store, if there is one."""
    settings = job.settings
    classes, splits = settings.dataset.classes, settings.dataset.splits
    if not (job.store / DOCUMENT).exists():
        return Index.of([], classes, splits)
    files = LocalFiles(job.store)
    read_settings(files).require_same(settings, str(job.store))
    return read_index(files, classes, splits)


def _look_at_all(videos: Sequence[SourceVideo], job: PrepJob, workers: int, console: Console) -> list[_Seen]:
    seen, plain, compared = [], PlainLines(_PLAIN_LINE_SECONDS), len(videos) <= MOST_VIDEOS
    with (
        ProgressLine(console, "looking", len(videos), unit="videos") as line,
        ThreadPoolExecutor(max(1, workers)) as pool,
    ):
        try:
            for of_one in pool.map(lambda video: _look_at(video, job), videos):
                # Looks take 2 KB each, and so many are not compared.
                seen.append(of_one if compared else replace(of_one, look=_NO_LOOK))
                line.update(len(seen))
                if not line.live and plain.due():
                    console.print(f"looked at {len(seen):,} of {len(videos):,} videos")
        finally:
            pool.shutdown(cancel_futures=True)  # what an interrupt leaves
    return seen


def _look_at(video: SourceVideo, job: PrepJob) -> _Seen:
    decode = DecodeSettings(
        fps="2", short_side=_LOOK_SIDE, max_seconds=len(SECONDS) / 2, ffmpeg=job.settings.decode.ffmpeg
    )
    problem = video.problem
    if problem is None:
        try:
            require_content(video.path)
            return decode_video(job, video, _look, midway=True, decode=decode, pixels="yuvj420p")
        except DecodeError as error:
            problem = str(error)
    return _Seen(properties=None, look=_NO_LOOK, problem=problem)


def _look(decoder: VideoDecoder) -> _Seen:
    means = [means_of(planes[: decoder.height * decoder.width].reshape(decoder.height, -1)) for planes in decoder]
    properties, complaints = decoder.finish()
    problem = None if means else complaint_words(complaints) or NO_VIDEO
    return _Seen(properties=properties, look=np.array(means, np.float32), problem=problem)


def _same_files(videos: Sequence[SourceVideo], sizes: dict[str, int]) -> list[list[str]]:
    """Groups of videos with the same bytes: files of a size that others have too are read, each once."""
    paths: dict[int, set[Path]] = defaultdict(set)
    for video in videos:
        if sizes[video.video_id]:
            paths[sizes[video.video_id]].add(video.path)
    digests = {path: _digest(path) for alike in paths.values() if len(alike) > 1 for path in alike}
    same: dict[tuple[bytes, Segment | None], list[str]] = defaultdict(list)
    for video in videos:
        if video.path in digests:
            same[digests[video.path], video.segment].append(video.video_id)
    return sorted(sorted(ids) for ids in same.values() if len(ids) > 1)


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").digest()
    except OSError as error:
        raise SourceError(f"{path} can no longer be read ({error.strerror}): run the same command again") from None


def _alike(videos: Sequence[SourceVideo], seen: Sequence[_Seen], same: Sequence[Sequence[str]]) -> list[Alike]:
    """Pairs, those of the same file first."""
    pairs = {pair: True for ids in same for pair in combinations(ids, 2)}
    for one, other in alike_pairs([of_one.look for of_one in seen]) if len(videos) <= MOST_VIDEOS else ():
        first, second = sorted((videos[one].video_id, videos[other].video_id))
        pairs.setdefault((first, second), False)
    return [Alike(first=first, second=second, same_file=file) for (first, second), file in pairs.items()]


def _classes(dataset: Dataset) -> list[ClassCount]:
    videos = Counter(video.class_name for video in dataset.videos)
    sides: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for video in dataset.videos:
        for split, side in video.splits.items():
            sides[video.class_name][split][side] += 1
    return [
        ClassCount(
            class_name=name,
            videos=videos[name],
            sides={split: dict(counts) for split, counts in sides[name].items()},
        )
        for name in dataset.settings.classes
    ]
