"""The driver of `resact prep`: finds missing videos, gives them to workers, and keeps the journal and the index."""

import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from resact.cache.alike import MOST_VIDEOS
from resact.cache.durable import create_store, disk_failure_as_error, forget_failure, store_lock
from resact.cache.files import LocalFiles
from resact.cache.grouping import grouping
from resact.cache.index import Index
from resact.cache.index_files import read_index, write_index
from resact.cache.journal import Journal
from resact.cache.layout import DOCUMENT, FAILED, MEMBERSHIPS, SIDES, VideoRecord, array_name, video_id_of
from resact.cache.leaks import ALIKE_NOTE, Leak, find_alike, leak_words, store_leaks
from resact.cache.repeats import repeats
from resact.cache.store import open_store, read_settings
from resact.cache.whole import WHOLE_NOTE, Whole, lacking_words
from resact.errors import DamagedError, DiskFullError, Interrupted, SettingsError, UsageError
from resact.pipeline.datasets.dataset import Dataset, SourceVideo
from resact.pipeline.executor import Executor, WorkerLostError
from resact.pipeline.job.estimate import estimate
from resact.pipeline.job.progress import PrepProgress
from resact.pipeline.job.task import PrepJob, Trouble, commit_failure, failed_record, prep_video

_ESTIMATE_MARGIN = 1.25  # a dozen videos speak for the rest, so that a job that just fits is not refused
COMPACT_AT_LEAST = 5_000  # journal rows; from there on when the journal has a quarter of the index's rows


Work = Callable[[PrepJob, SourceVideo], VideoRecord | Trouble]


@dataclass(frozen=True, kw_only=True)
class PrepResult:
    """What a prep did, and what the store holds afterwards."""

    videos: int
    """Videos in the store, failed ones included."""
    written: int
    """Videos stored by this prep, damaged ones included."""
    skipped: int
    """Videos that were already in the store."""
    damaged: int
    """Videos in the store of which ffmpeg recovered only a part."""
    failed: int
    """Failed videos, which the store lists without frames."""
    frames: int
    """Frames in the store."""
    bytes: int
    """Bytes of all shards in the store."""
    seconds: float
    """Time from the first task to the finished index, in seconds."""
    partial: str | None
    """What the store lacks of the data set, in words; None if nothing."""
    notes: list[str]
    """Notes on unknown groups, leaks and repeated frames."""


def prep(
    dataset: Dataset,
    job: PrepJob,
    *,
    open_executor: Callable[[], AbstractContextManager[Executor]],
    console: Console,
    retry_failed: bool = False,
    work: Work = prep_video,
) -> PrepResult:
    """Store every video of a data set; the store may already hold some of them.

    Args:
        dataset: what to prep.
        job: store and settings.
        open_executor: starts an executor for the tasks; called only if there is something to do.
        console: where to print.
        retry_failed: try failed videos again.
        work: what a worker does with a video; picklable. Benchmarks of the driver put something cheaper here.

    Raises:
        UsageError: the store's path holds something else, or two ids differ only in case.
        SettingsError: the store was made with other settings, or has another split.
        StoreLockedError: another prep is writing to the store.
        DiskFullError: the store does not fit, or the disk became full; all committed videos are intact.
        ToolError: ffmpeg or a library is missing or differs between hosts.
        Interrupted: ctrl-C or SIGTERM; the same call continues.
    """
    _require_distinct(dataset)
    store, settings = job.store, job.settings
    with disk_failure_as_error(store.parent):
        create_store(store, settings)
    read_settings(LocalFiles(store)).require_same(settings, str(store))
    with (
        interruptible(f"stopped; {store} is intact: the same command continues from here"),
        disk_failure_as_error(store),
        store_lock(store),
    ):
        index = read_index(LocalFiles(store), settings.dataset.classes, settings.dataset.splits)
        dataset = dataset.beside(index)
        _require_agreement(dataset, index, store)
        if dataset.division:
            alone = all(video.group == video.video_id for video in dataset.videos)
            console.print(f"divided {'video by video' if alone else 'by group'}: {_counts(dataset)}")
        _forget_stale_failures(store)
        todo = _missing(store, index, dataset, retry_failed=retry_failed)
        whole, lacks = _whole(dataset, index)
        if whole is not None and (todo or lacks):
            WHOLE_NOTE.write(store, whole)
        if todo:
            ALIKE_NOTE.remove(store)
        _announce(job, todo, skipped=len(dataset.videos) - len(todo), console=console)
        journal = Journal(store)
        with PrepProgress(console, len(todo)) as progress:
            try:
                if todo:
                    with open_executor() as executor:
                        if executor.dashboard:
                            console.print(executor.dashboard)
                        index = _run(job, todo, executor, journal, index, progress, work)
            finally:
                journal.close()
            write_index(store, index)
            if whole is not None and not lacks:
                WHOLE_NOTE.remove(store)
            leak = leak_words(_leaks(store, progress))
            lacking = lacking_words(settings, index, whole if lacks else None)
            groups = grouping(index, settings.dataset, partial=lacking)
            slower = repeats(index, settings.decode.fps)
            for note in filter(None, (lacking, groups.leak, leak, slower and slower.note)):
                console.print(f"note: {note}")
            return PrepResult(
                videos=len(index),
                written=progress.videos - progress.failed,
                skipped=len(dataset.videos) - len(todo),
                damaged=index.status.count("damaged"),
                failed=index.status.count("failed"),
                frames=int(index.num_frames.sum()),
                bytes=int(index.shard_bytes.sum()),
                seconds=round(progress.seconds, 3),
                partial=lacking,
                notes=[*groups.notes, *([leak] if leak else []), *([slower.note] if slower else [])],
            )


def _missing(store: Path, index: Index, dataset: Dataset, *, retry_failed: bool) -> list[SourceVideo]:
    """The videos that the store lacks: not in the index, or their node is gone from the disk."""
    there = set()
    for video_id, status in zip(index.video_id, index.status, strict=True):
        folder = store / FAILED if status == "failed" else store
        if (folder / array_name(video_id) / DOCUMENT).exists() and not (retry_failed and status == "failed"):
            there.add(video_id)
    return [video for video in dataset.videos if video.video_id not in there]


def _whole(dataset: Dataset, index: Index) -> tuple[Whole | None, bool]:
    """The size of a data set that may grow, and whether the store will lack some of it after this prep."""
    if dataset.settings.videos is not None:
        return None, False
    unasked = {*dataset.others, *dataset.missing}.difference(index.video_id)
    held = {*index.video_id, *(video.video_id for video in dataset.videos)}
    classes = len(dataset.settings.classes) + dataset.other_classes
    return Whole(videos=len(held | unasked), classes=classes), bool(unasked)


def _leaks(store: Path, progress: PrepProgress) -> list[Leak]:
    """Of the whole store, looked for where nobody has since it changed."""
    opened = open_store(store)
    try:
        pairs = ALIKE_NOTE.read(opened.files)
    except DamagedError:
        pairs = None
    if pairs is None and len(opened.index) > MOST_VIDEOS:
        progress.tell(f"note: did not look for copies among more than {MOST_VIDEOS:,} videos")
        return []
    if pairs is None:
        progress.begin("looking for copies")
        try:
            pairs = find_alike(opened, threads=len(os.sched_getaffinity(0)))
        except DamagedError as error:
            progress.tell(f"note: did not look for copies among the videos: {error}")
            return []
        ALIKE_NOTE.write(store, pairs)
    return store_leaks(opened, pairs)


def _run(
    job: PrepJob,
    todo: list[SourceVideo],
    executor: Executor,
    journal: Journal,
    index: Index,
    progress: PrepProgress,
    work: Work,
) -> Index:
    """Do the videos; the index returned lists them."""
    dataset = job.settings.dataset
    fresh: list[VideoRecord] = []
    for video, outcome in executor.map_unordered(
        partial(work, job), todo, name=lambda video: video.video_id, tell=progress.tell
    ):
        if isinstance(outcome, WorkerLostError):
            outcome = commit_failure(job, failed_record(video, None, str(outcome)))
        if isinstance(outcome, Trouble):
            raise outcome.as_error()
        if outcome.status != "failed":
            forget_failure(job.store, video.video_id)
        journal.append([outcome])
        fresh.append(outcome)
        progress.add(outcome)
        if len(fresh) >= max(COMPACT_AT_LEAST, len(index) // 4):
            index = index.merged(Index.of(fresh, dataset.classes, dataset.splits))
            journal.close()
            write_index(job.store, index)
            fresh.clear()
    return index.merged(Index.of(fresh, dataset.classes, dataset.splits))


def _announce(job: PrepJob, todo: list[SourceVideo], *, skipped: int, console: Console) -> None:
    """Print what will be done, how large it will be and what room there is.

    Raises:
        DiskFullError: it cannot fit.
    """
    there = f", {skipped:,} are already stored" if skipped else ""
    if not todo:
        console.print(f"{job.store}: nothing to do{there}")
        return
    free, told = shutil.disk_usage(job.store).free, estimate(job, todo)
    needed = 0 if told is None else told.bytes
    size = "of unknown size" if told is None else f"about {needed / 1e9:.2f} GB"
    console.print(
        f"{job.store}: {len(todo):,} videos to do{there}; {size} as {job.settings.codec}, {free / 1e9:.1f} GB free"
    )
    if needed > free * _ESTIMATE_MARGIN:
        raise DiskFullError(
            f"{job.store} needs about {needed:,} bytes and {free:,} are free: make room, choose another --store, "
            "or a smaller --codec, --short-side or --fps"
        )
    if needed > free:
        console.print("warning: it may not fit; if it does not, make room and run the same command again")


def _forget_stale_failures(store: Path) -> None:
    """A kill between a success and the end of its earlier failure's note leaves both; the array counts."""
    for node in (store / FAILED).iterdir():
        if node.is_dir() and (store / node.name / DOCUMENT).exists():
            forget_failure(store, video_id_of(node.name))


def _require_distinct(dataset: Dataset) -> None:
    seen: dict[str, str] = {}
    for video in dataset.videos:
        folded = array_name(video.video_id).casefold()
        if folded in seen:
            raise UsageError(f"two videos share the id {video.video_id!r}: {seen[folded]} and {video.name}: rename one")
        seen[folded] = video.name


def _require_agreement(dataset: Dataset, index: Index, store: Path) -> None:
    """No video that is there changes its class, its group or its membership."""
    row_of = {video_id: row for row, video_id in enumerate(index.video_id)}
    differing = []
    for video in dataset.videos:
        row = row_of.get(video.video_id)
        if row is None:
            continue
        sides = {name: MEMBERSHIPS[codes[row]] for name, codes in index.splits.items() if codes[row]}
        class_name = index.classes[index.label[row]]
        if (class_name, index.group[row], sides) != (video.class_name, video.group, video.splits):
            of_class = [
                f"class {n!r}, " if class_name != video.class_name else "" for n in (class_name, video.class_name)
            ]
            differing.append(
                f"{video.video_id!r} (store: {of_class[0]}group {index.group[row]!r}, {_in_words(sides)}; "
                f"asked for: {of_class[1]}group {video.group!r}, {_in_words(video.splits)})"
            )
    if differing:
        several = f"{len(differing):,} of these videos in another group or on another side of a split"
        if any("(store: class" in words for words in differing):
            several = f"{len(differing):,} of these videos in another class or group, or on another side of a split"
        raise SettingsError(
            f"{store} holds {several}, such as {differing[0]}: prep with the lists and options that it was made with, "
            "or choose another --store"
        )


def _counts(dataset: Dataset) -> str:
    """Videos on each side of each split."""
    count = Counter((split, side) for video in dataset.videos for split, side in video.splits.items())
    return "; ".join(
        f"{split}: " + ", ".join(f"{count[split, s]:,} {s}" for s in SIDES if count[split, s] or s != "val")
        for split in dataset.settings.splits
    )


def _in_words(sides: dict[str, str]) -> str:
    return ", ".join(f"{side} of {split}" for split, side in sorted(sides.items())) or "in no split"


@contextmanager
def interruptible(words: str) -> Iterator[None]:
    """A context in which ctrl-C and SIGTERM raise `Interrupted` with this message."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()  # no other one may set what a signal does
    before = signal.signal(signal.SIGTERM, interrupt) if is_main else None
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(words) from None
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)
