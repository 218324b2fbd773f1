"""`resact verify --repair`: preps bad videos again from their sources, to the same bytes as before.

Before a new array is committed, it must agree with what is left of the old one: its document has the source's sha256;
the index row has the source's size and a checksum of the sizes of all encoded frames. If a source has changed, it is
named, and its video stays as it was in the store.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from resact.cache.durable import disk_failure_as_error, forget_failure, store_lock, write_file
from resact.cache.files import LocalFiles
from resact.cache.index import Index
from resact.cache.index_files import read_index, write_index
from resact.cache.layout import (
    DOCUMENT,
    FAILED,
    MEMBERSHIPS,
    STATUSES,
    Segment,
    VideoRecord,
    group_document,
    seal,
    unseal,
    video_id_of,
    video_record,
)
from resact.cache.settings import DatasetSettings, StoreSettings
from resact.cache.store import read_settings
from resact.cache.verify import (
    ROOT_OF_FAILED,
    Problem,
    find_nodes,
    index_of_arrays,
    row_of_record,
    row_values,
    sound_record,
    verify_store,
)
from resact.errors import DamagedError, ResactError, SourceError, ToolError, UsageError
from resact.pipeline.datasets.dataset import Dataset, SourceVideo
from resact.pipeline.decoding.binary import find_ffmpeg
from resact.pipeline.executor import Executor
from resact.pipeline.job.prep import interruptible
from resact.pipeline.job.progress import PrepProgress
from resact.pipeline.job.task import PrepJob, Trouble, prep_video

_SHOWN_DIGITS = 16  # of a sha256
_PART = re.compile(r"(?P<name>.+)@(?P<start>\d+(?:\.\d+)?)-(?P<end>\d+(?:\.\d+)?)?", re.DOTALL)
"""The id of a part of a file."""


@dataclass(frozen=True)
class Repaired(Problem):
    """A problem that was repaired."""

    how: str


@dataclass(frozen=True, kw_only=True)
class RepairResult:
    """All problems: repaired and not repaired."""

    repaired: list[Repaired]
    not_repaired: list[Problem]
    """Problems that remain, with the reason."""


@dataclass(frozen=True, kw_only=True)
class _Remains:
    """What is still known of a video whose array is bad."""

    document: VideoRecord | None
    """From its own document, without frames; None where that is damaged or gone."""
    row: Mapping[str, Any] | None
    """Its `row_values` in the index; None where that does not list it."""

    @property
    def how(self) -> str:
        """What is said of a video that was prepped again."""
        unknown = self.document is None and self.row is None
        return "prepped again" + ("; nothing was left to compare its source with" if unknown else "")

    @property
    def status(self) -> str | None:
        """None where nothing is known."""
        if self.document is not None:
            return self.document.status
        return STATUSES[self.row["status_code"]] if self.row is not None else None


def repair(
    store: Path,
    bad: Sequence[Problem],
    *,
    find_sources: Callable[[DatasetSettings], Dataset],
    ffmpeg: str | None,
    timeout_seconds: float,
    threads: int,
    open_executor: Callable[[], AbstractContextManager[Executor]],
    console: Console,
) -> RepairResult:
    """Repair what `verify_store` found; nothing else is written.

    Args:
        store: local path of the store.
        bad: the problems found.
        find_sources: finds the data set's videos; called only if a video has to be prepped again.
        ffmpeg: path of ffmpeg; None for the one of the `imageio-ffmpeg` wheel.
        timeout_seconds: time limit per video.
        threads: videos checked at the same time afterwards.
        open_executor: starts an executor for the tasks; called only if there are any.
        console: where to print.

    Raises:
        StoreNotFoundError, StoreLockedError: no store, or a busy one.
        SourceError: the data set was not found.
        ToolError: ffmpeg or the codec's library is missing, or not the version that the store was made with.
        DiskFullError: the disk became full; repairs made so far are kept.
        Interrupted: ctrl-C or SIGTERM; the same call continues.
    """
    files = LocalFiles(store)
    try:
        settings = read_settings(files)
    except DamagedError:  # which is all that `bad` says
        return RepairResult(repaired=[], not_repaired=list(bad))
    ids = list(dict.fromkeys(problem.video_id for problem in bad if problem.video_id is not None))
    how: dict[str | None, str] = {}
    refused: dict[str | None, str] = {}
    words = f"stopped; what was repaired so far in {store} stays repaired: the same command does the rest"
    with interruptible(words), disk_failure_as_error(store), store_lock(store):
        try:
            index = listed = read_index(files, settings.dataset.classes, settings.dataset.splits)
        except DamagedError:
            index, listed = index_of_arrays(files, settings)[0], Index.of([], (), ())
        fresh: list[VideoRecord] = []
        remains: dict[str, _Remains] = {}
        nodes = {video_id_of(name): (name, failed) for name, failed in find_nodes(files)[0].items()}
        for video_id in ids:
            found = _examine(files, settings, nodes.get(video_id), listed, video_id)
            if isinstance(found, VideoRecord):
                fresh.append(found)
                how[video_id] = "its index row rebuilt from the array"
            else:
                remains[video_id] = found
        dataset = None
        if remains:
            _require_same_tools(store, settings, ffmpeg)
            dataset = find_sources(settings.dataset)
        (store / FAILED).mkdir(exist_ok=True)
        if not files.exists(ROOT_OF_FAILED) or files.read(ROOT_OF_FAILED) != seal(group_document({})):
            write_file(store, ROOT_OF_FAILED, [seal(group_document({}))])
        if dataset is not None:
            job = PrepJob(store=store.absolute(), settings=settings, ffmpeg=ffmpeg, timeout_seconds=timeout_seconds)
            for video_id, outcome in _prep_again(job, dataset, remains, open_executor, console):
                if isinstance(outcome, VideoRecord):
                    fresh.append(outcome)
                    how[video_id] = remains[video_id].how
                else:
                    refused[video_id] = str(outcome)
        write_index(store, index.merged(Index.of(fresh, settings.dataset.classes, settings.dataset.splits)))
        _, left = verify_store(store, threads=threads, only=ids)
    not_repaired = {_key(p): Problem(p.video_id, refused.pop(p.video_id, p.problem)) for p in left}
    not_repaired |= {video_id: Problem(video_id, why) for video_id, why in refused.items()}
    return RepairResult(
        repaired=[
            Repaired(p.video_id, p.problem, how.get(p.video_id, "written again"))
            for p in bad
            if _key(p) not in not_repaired
        ],
        not_repaired=list(not_repaired.values()),
    )


def _key(problem: Problem) -> object:
    """What is one problem before and after: a video, or one about the store as a whole."""
    return problem if problem.video_id is None else problem.video_id


def _examine(
    files: LocalFiles, settings: StoreSettings, node: tuple[str, bool] | None, listed: Index, video_id: str
) -> VideoRecord | _Remains:
    """A video's record if its array is sound after all, and only the index is not; else what is left of it.

    Args:
        files: the store's.
        settings: the store's.
        node: the array's name, and whether it is the note of a failure; None where there is none.
        listed: the index, as far as it can be read.
        video_id: of the video.
    """
    try:
        row = row_values(listed, listed.video_index(video_id))
    except UsageError:
        row = None
    # A note of failure beside a row that has frames: the array is what is lost.
    if node is None or (node[1] and row is not None and STATUSES[row["status_code"]] != "failed"):
        return _Remains(document=None, row=row)
    name, failed = node
    try:
        return sound_record(files, settings, name, failed=failed)
    except (ResactError, OSError):
        return _Remains(document=_document(files, name, failed=failed), row=row)


def _document(files: LocalFiles, name: str, *, failed: bool) -> VideoRecord | None:
    """What a video's own document says, without frames; None where it is not what was written for this video."""
    path = f"{FAILED}/{name}/{DOCUMENT}" if failed else f"{name}/{DOCUMENT}"
    try:
        record = video_record(unseal(files.read(path), path), np.empty(0, np.uint32))
    except (DamagedError, KeyError, TypeError):
        return None
    return record if record.video_id == video_id_of(name) else None


def _require_same_tools(store: Path, settings: StoreSettings, ffmpeg: str | None) -> None:
    """Refuse what would give other bytes, before any work.

    Raises:
        ToolError: names both versions.
    """
    _, version = find_ffmpeg(ffmpeg)
    library = settings.frame_codec.library()
    if version != settings.decode.ffmpeg:
        raise ToolError(
            f"{store} was made with ffmpeg {settings.decode.ffmpeg}, and this is {version}, which may give other "
            "frames: pass --ffmpeg PATH of that version"
        )
    if library != settings.library:
        raise ToolError(
            f"{store} was made with {settings.library}, and this is {library}, which may give other bytes: "
            "install that version"
        )


def _prep_again(
    job: PrepJob,
    dataset: Dataset,
    remains: Mapping[str, _Remains],
    open_executor: Callable[[], AbstractContextManager[Executor]],
    console: Console,
) -> Iterator[tuple[str, VideoRecord | Exception]]:
    """Each video with its new record, or why it was left as it was."""
    sources = {video.video_id: video for video in dataset.videos}
    by_name = {video.name: video for video in dataset.videos}
    todo = []
    for video_id, known in remains.items():
        try:
            source = sources.get(video_id) or _part(video_id, known, by_name)
            todo.append((_as_it_was(source, known, job.settings.dataset), known))
        except SourceError as error:
            yield video_id, error
    if not todo:
        return
    console.print(f"{job.store}: {len(todo):,} videos to prep again")
    with open_executor() as executor, PrepProgress(console, len(todo)) as progress:
        outcomes = executor.map_unordered(
            partial(_prep_one_again, job), todo, name=lambda task: task[0].video_id, tell=progress.tell
        )
        for (video, _), outcome in outcomes:
            if isinstance(outcome, VideoRecord):
                if outcome.status != "failed":
                    forget_failure(job.store, video.video_id)
                progress.add(outcome)
                yield video.video_id, outcome
            elif isinstance(outcome, Trouble) and outcome.kind is not SourceError:
                raise outcome.as_error()
            else:
                yield video.video_id, outcome.as_error() if isinstance(outcome, Trouble) else outcome


def _part(video_id: str, known: _Remains, by_name: Mapping[str, SourceVideo]) -> SourceVideo | None:
    """The source of a video that is a part of a file: which part, its document says, or else its id."""
    if known.document is not None:
        name, segment = known.document.source.name, known.document.segment
    elif match := _PART.fullmatch(video_id):
        name, segment = match["name"], Segment(match["start"], match["end"])
    else:
        return None
    source = by_name.get(name)
    return source and replace(source, video_id=video_id, segment=segment)


def _as_it_was(source: SourceVideo | None, known: _Remains, dataset: DatasetSettings) -> SourceVideo:
    """A source with the class, group and splits that the store has for it, whatever the lists say today.

    Raises:
        SourceError: there is no such source, or it is another file.
    """
    if source is None:
        raise SourceError("its source is missing: the data set has no such video (--root DIR says where to look)")
    was, row = known.document, known.row
    problem = source.problem if known.status in ("failed", None) else None
    if was is not None:
        if was.source.name != source.name:
            raise SourceError(f"its source was {was.source.name}, and is {source.name} now: give it that name again")
        return replace(
            source, class_name=was.class_name, label=was.label, group=was.group, splits=was.splits, problem=problem
        )
    if row is not None:
        codes = {split: row[f"split {split}"] for split in dataset.splits}
        return replace(
            source,
            class_name=dataset.classes[row["label"]],
            label=row["label"],
            group=row["group"],
            splits={split: MEMBERSHIPS[code] for split, code in codes.items() if code},
            problem=problem,
        )
    if not source.splits and dataset.videos is None:  # of a folder, whose options the store does not know
        raise SourceError("its group and side are lost: run the prep that made the store again")
    if source.class_name not in dataset.classes:
        raise SourceError(f"its class {source.class_name} is not one of the store's")
    sides = {split: side for split, side in source.splits.items() if split in dataset.splits}
    return replace(source, label=dataset.classes.index(source.class_name), splits=sides)


def _prep_one_again(job: PrepJob, item: tuple[SourceVideo, _Remains]) -> VideoRecord | Trouble:
    """A task."""
    video, known = item
    return prep_video(job, video, approve=partial(_require_same, job.settings.dataset, known))


def _require_same(dataset: DatasetSettings, known: _Remains, made: VideoRecord) -> None:
    """Compare what was made with all that is left.

    Raises:
        SourceError: it is something else.
    """
    if made.status != known.status and made.status == "failed" and known.status is not None:
        raise SourceError(f"prep fails now: {made.problem}")
    if known.document is not None and known.document.source.sha256 != made.source.sha256:
        was, now = (str(sha256)[:_SHOWN_DIGITS] for sha256 in (known.document.source.sha256, made.source.sha256))
        raise SourceError(f"its source {made.source.name} has changed: sha256 {now}..., the store's is {was}...")
    if known.row is not None:
        for name, value in row_of_record(made, dataset.classes, dataset.splits).items():
            if value != known.row[name]:
                raise SourceError(
                    f"its source {made.source.name} now gives something else: {name} {value!r}, "
                    f"the index has {known.row[name]!r}"
                )
    elif known.status not in (made.status, None):
        raise SourceError(f"its source {made.source.name} now gives something else: {made.status}, not {known.status}")
