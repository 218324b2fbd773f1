"""`resact copy`: copies a store, or a part of it, to a folder or bucket, and checks every byte on the way.

**Complete or no store.** The target's root `zarr.json` is written last. Until then no reader opens it. The pointer
`index/zarr.json`, whose generation is a hash of the whole index, is written first: by it, the same command knows its
own unfinished copy, and refuses another one's. A finished copy whose source has grown since is continued the other way
round: videos first, then the pointer, so that readers have the old store until they have the new one.

**Checked.** Each document is unsealed and compared with the index, and each frame is compared with its own checksum
before it leaves for the target. Then the target is asked. A bucket's ETag is the MD5 of an object that came in one
request: if it is that of the bytes sent, the bucket has them, and no byte has to come back. Otherwise (large objects
come in several requests, encrypted ones have other ETags, other servers none), and in folders, what was written is read
back: of a shard, the frames are compared with their checksums.

**Resumed.** What the target has is examined in the same way, with the MD5 of the source's file, and only what is
missing or differs is copied.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import file_digest, md5
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt

from resact.cache.choice import videos_of_classes
from resact.cache.copy_target import Target, open_target, size_and_md5
from resact.cache.files import Files, LocalFiles, read_if_there
from resact.cache.http_files import HttpFiles
from resact.cache.index import Index
from resact.cache.index_files import index_files, pointer_document, read_index
from resact.cache.layout import (
    ALIKE,
    DOCUMENT,
    FAILED,
    INDEX,
    JOURNAL,
    MEMBERSHIPS,
    POINTER,
    SHARD,
    SIDES,
    STATUSES,
    WHOLE,
    array_name,
    group_document,
    seal,
    shard_index_bytes,
    video_document,
)
from resact.cache.leaks import ALIKE_NOTE
from resact.cache.remote_files import RemoteFiles
from resact.cache.settings import StoreSettings, setting_words
from resact.cache.store import ClipStore, open_store, read_settings
from resact.cache.verify import ROOT_OF_FAILED, Problem, checked_parts, read_record, require_row, row_values
from resact.cache.whole import WHOLE_NOTE, Whole, lacking_words
from resact.errors import DamagedError, SettingsError, StoreError, UsageError

TRANSFERS = 8
"""Videos on their way at the same time; each takes a few parts of `PART_BYTES` of memory."""
_NAMED = 5  # of many bad videos
_GRACE_SECONDS = 5.0  # for transfers to end when the copy stops; then they are left to themselves
_FAILED = STATUSES.index("failed")


@dataclass(frozen=True, kw_only=True)
class CopyProgress:
    """How far a copy is."""

    videos: int
    """Videos that the target has."""
    total_videos: int
    bytes: int
    """Bytes of their shards, and of those on their way."""
    total_bytes: int
    copied_bytes: int
    """Of these, those that this copy has moved."""


@dataclass(frozen=True, kw_only=True)
class CopyResult:
    """What a copy did, and what the target holds."""

    videos: int
    copied: int
    """Videos whose frames were copied now."""
    there: int
    """Videos whose frames were there before."""
    bytes: int
    """Bytes of all shards."""
    copied_bytes: int
    partial: str | None
    """What the target lacks of the data set, in words; None if nothing."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What the target will hold: all of the source, or some of its videos."""

    settings: StoreSettings
    index: Index
    source_rows: npt.NDArray[np.intp]
    """(N,) the source's row of each of its rows."""
    whole: Whole | None
    alike: bytes | None


def copy_store(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    split: str | None = None,
    membership: str | None = None,
    tell: Callable[[CopyProgress], None] = lambda _: None,
) -> CopyResult:
    """Copy a store, or go on with a copy that was stopped.

    Args:
        source: path or URL of a finished store.
        target: path of a folder, or URL of a place in a bucket: empty, an unfinished copy, or an older copy.
        classes: copy only the videos of these classes, as `prep --classes` would make it; None for all.
        split: copy only videos that are in this split; None for all.
        membership: of the split, `train`, `test` or `val` videos alone; None for all.
        tell: called from several threads, one at a time.

    Raises:
        UsageError: the target is not empty, another store or another copy; or there is no such class or split.
        SettingsError: the target is a store with other settings.
        StoreError: a prep of one of the two is under way, or the file system or server fails: the same call continues.
        DamagedError: names the videos of the source that are damaged; the others are copied, the target is no store.
        DiskFullError: the target's disk is full; the same call continues.
    """
    place = open_target(target)
    store = open_store(source)
    own, other = _address(store.files), _address(place.files)
    if own.startswith(other) or other.startswith(own):
        raise UsageError(f"got {store.files} and {place.files}, expected two places of which none is in the other")
    if read_if_there(store.files, JOURNAL) is not None:
        raise StoreError(f"a prep of {store.files} is under way, or was stopped: finish it first, then copy the store")
    return _Copy(store, _part_of(store, classes, split, membership), place, tell).run()


def _address(files: Files) -> str:
    return f"{files.root.resolve() if isinstance(files, LocalFiles) else files}/"


def _part_of(store: ClipStore, classes: Sequence[str] | None, split: str | None, membership: str | None) -> _Part:
    index, settings, whole = store.index, store.settings, store.whole
    chosen, names = np.ones(len(index), bool), settings.dataset.classes
    if classes is not None:
        chosen[:] = False
        chosen[videos_of_classes(store, classes, None)] = True
        names = tuple(name for name in names if name in classes)
    if split is not None and split not in index.splits:
        raise UsageError(f"got --split {split}, expected one of {', '.join(index.splits)}")
    if membership is not None and membership not in SIDES:
        raise UsageError(f"got --membership {membership}, expected one of {', '.join(SIDES)}")
    if membership is not None and split is None:
        raise UsageError(f"got --membership {membership} without a split: name it with --split")
    if split is not None:
        codes = index.splits[split]
        chosen &= codes == MEMBERSHIPS.index(membership) if membership else codes > 0
    rows, pairs = np.flatnonzero(chosen), ALIKE_NOTE.read(store.files)
    if not len(rows):
        asked = {"--classes": classes and ",".join(classes), "--split": split, "--membership": membership}
        words = " ".join(f"{option} {value}" for option, value in asked.items() if value)
        raise UsageError(f"got {words}, of which {store.files} has no video: ask for more")
    if len(rows) < len(index) or names != settings.dataset.classes:
        if settings.dataset.videos is None:
            whole = whole or Whole(videos=len(index), classes=len(index.classes))
        settings = replace(settings, dataset=replace(settings.dataset, classes=names))
        index = index.selected(rows, names)
        held = set(index.video_id)
        pairs = pairs and [pair for pair in pairs if pair.first in held and pair.second in held]
    alike = None if pairs is None else ALIKE_NOTE.document(pairs)
    return _Part(settings=settings, index=index, source_rows=rows, whole=whole, alike=alike)


def _next_of(done: "SimpleQueue[Problem | BaseException | None]") -> Problem | None:
    """The next video's problem, or None; what went wrong otherwise is raised."""
    outcome = done.get()
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


class _Stopped(Exception):  # noqa: N818 - not a fault
    """Another transfer has failed, or the user has interrupted."""


class _Copy:
    """One copy. `run` is called once."""

    def __init__(self, store: ClipStore, part: _Part, target: Target, tell: Callable[[CopyProgress], None]) -> None:
        self._store, self._part, self._target, self._tell = store, part, target, tell
        self._index = part.index
        generation, self._columns = index_files(part.index)
        self._generation, self._pointer = generation, pointer_document(generation, part.index)
        self._codec = part.settings.frame_codec
        self._stop, self._lock, self._fresh, self._there = threading.Event(), threading.Lock(), False, 0
        total_bytes = int(part.index.shard_bytes.sum())
        self._so_far = CopyProgress(
            videos=0, total_videos=len(part.index), bytes=0, total_bytes=total_bytes, copied_bytes=0
        )

    def run(self) -> CopyResult:
        with self._target.working():
            self._fresh = self._require_fit()
            with self._target.held(self._pointer):
                self._require_fit()  # as another process may have been first
                if bad := self._copy_videos():
                    raise self._source_is_bad(bad)
                self._finish()
        part = self._part
        return CopyResult(
            videos=len(self._index),
            copied=int((self._index.num_frames > 0).sum()) - self._there,
            there=self._there,
            bytes=self._so_far.total_bytes,
            copied_bytes=self._so_far.copied_bytes,
            partial=lacking_words(part.settings, part.index, part.whole),
        )

    # What is there ---------------------------------------------------------------------------------------------

    def _require_fit(self) -> bool:
        """Refuse a target with anything but this copy, unfinished or older; whether there is nothing yet."""
        files, what = self._target.files, self._store.files
        pointer = read_if_there(files, POINTER)
        if read_if_there(files, DOCUMENT) is None:
            if pointer is None and (names := self._foreign_names()):
                raise UsageError(
                    f"got {files} to copy to, which is not empty and no store (it holds {', '.join(names[:3])}): "
                    "name an empty or a new place"
                )
            if pointer not in (None, self._pointer):
                raise UsageError(
                    f"{files} holds the beginning of another copy than of {what} as asked for: name another place, or "
                    "remove it first"
                )
            return pointer is None
        settings = read_settings(files)
        if differing := settings.differences(self._part.settings):
            raise SettingsError(
                f"{files} holds another store than is to be copied from {what} (they differ in "
                f"{', '.join(map(setting_words, differing))}): name another place"
            )
        if read_if_there(files, JOURNAL) is not None:
            raise StoreError(f"a prep of {files} is under way, or was stopped: finish it first, or name another place")
        if pointer != self._pointer:
            self._require_older(read_index(files, settings.dataset.classes, settings.dataset.splits))
        return False

    def _foreign_names(self) -> list[str]:
        """What is in the target, besides the folders that a copy begins with."""
        try:
            return [name for name in self._target.files.list("") if name not in (INDEX, FAILED)]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _require_older(self, there: Index) -> None:
        """Refuse a store with videos that this copy would drop or change; a failed video may be replaced."""
        files, what = self._target.files, self._store.files
        for row in range(len(there)):
            video_id = there.video_id[row]
            try:
                ours = row_values(self._index, self._index.video_index(video_id))
            except UsageError:
                raise UsageError(
                    f"{files} holds {video_id}, which is not to be copied from {what}: it is newer, or another part. "
                    "Name another place"
                ) from None
            theirs = row_values(there, row)
            if theirs != ours and there.status_code[row] != _FAILED:
                differing = next(name for name in ours if ours[name] != theirs[name])
                raise UsageError(
                    f"{files} holds another {video_id} than {what} (they differ in {differing}): name another place"
                )

    # Videos ----------------------------------------------------------------------------------------------------

    def _copy_videos(self) -> list[Problem]:
        """Copy what is missing or differs, a few videos at once; what is bad in the source is left out."""
        rows, done = iter(range(len(self._index))), SimpleQueue[Problem | BaseException | None]()
        # Daemons: when the user interrupts, none waits for a server that does not answer.
        threads = [threading.Thread(target=self._work, args=(rows, done), daemon=True) for _ in range(TRANSFERS)]
        for thread in threads:
            thread.start()
        try:
            return [problem for _ in range(len(self._index)) if (problem := _next_of(done)) is not None]
        except BaseException:
            self._stop.set()
            deadline = time.monotonic() + _GRACE_SECONDS
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            raise

    def _work(self, rows: Iterator[int], done: "SimpleQueue[Problem | BaseException | None]") -> None:
        """One thread: a video after the other, until there is none or the copy stops."""
        try:
            while True:
                with self._lock:
                    row = next(rows, None)
                if row is None:
                    return
                done.put(self._copy_video(row))
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            done.put(error)

    def _copy_video(self, row: int) -> Problem | None:
        try:
            self._copy_node(row)
        except DamagedError as error:
            return Problem(self._index.video_id[row], str(error))
        self._count(videos=1)
        return None

    def _copy_node(self, row: int) -> None:
        """One video's shard, then its document: an array is complete when it has one."""
        name, frame_bytes = array_name(self._index.video_id[row]), self._index.frame_bytes_of(row)
        failed, store = self._index.status_code[row] == _FAILED, self._store
        with self._reading():
            record = read_record(store.files, store.settings, name, failed=failed, frame_bytes=frame_bytes)
        require_row(self._store.index, int(self._part.source_rows[row]), record)
        if not failed:
            self._copy_shard(f"{name}/{SHARD}", frame_bytes)
        document = video_document(replace(record, label=int(self._index.label[row])), self._codec)
        self._put(f"{FAILED}/{name}/{DOCUMENT}" if failed else f"{name}/{DOCUMENT}", seal(document))

    def _copy_shard(self, name: str, frame_bytes: npt.NDArray[np.uint32]) -> None:
        size = int(frame_bytes.sum(dtype=np.int64)) + shard_index_bytes(len(frame_bytes))
        if not self._fresh and self._holds(name, frame_bytes, size, lambda: self._md5_of_source(name)):
            with self._lock:
                self._there += 1
            self._count(there=size)
            return
        sent = self._target.put(name, self._parts(name, frame_bytes), size)
        if not self._holds(name, frame_bytes, size, lambda: sent):
            raise self._gives_other_bytes(name)

    def _parts(self, name: str, frame_bytes: npt.NDArray[np.uint32]) -> Iterator[memoryview]:
        with self._reading():
            for data, _ in checked_parts(self._store.files, name, frame_bytes):
                yield data
                self._count(copied=len(data))

    def _holds(
        self, name: str, frame_bytes: npt.NDArray[np.uint32], size: int, expected_md5: Callable[[], str | None]
    ) -> bool:
        """Whether the target has this shard, whole and sound: see the head of this file."""
        there = self._target.size_and_md5(name)
        if there is None or there[0] != size:
            return False
        if there[1] is not None and there[1] == expected_md5():
            return True
        try:
            for _ in checked_parts(self._target.files, name, frame_bytes):
                self._go_on()
        except DamagedError:
            return False
        return True

    def _md5_of_source(self, name: str) -> str | None:
        """Of a file here, or as the source's bucket says; None if neither."""
        files = self._store.files
        with self._reading():
            if isinstance(files, LocalFiles):
                with (files.root / name).open("rb") as file:
                    return file_digest(file, lambda: md5(usedforsecurity=False)).hexdigest()
            if isinstance(files, RemoteFiles) and not isinstance(files, HttpFiles):
                return size_and_md5(files, name)[1]
            return None

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """What the source's file system refuses is damage of a video, what its server refuses ends the copy."""
        files = self._store.files
        try:
            yield
        except OSError as error:
            if isinstance(files, LocalFiles) or isinstance(error, FileNotFoundError):
                raise DamagedError(str(error)) from None
            raise StoreError(
                f"cannot read the store at {files} ({error.strerror or error}): run the same command again once the "
                "server answers, which continues"
            ) from error

    def _source_is_bad(self, bad: Sequence[Problem]) -> DamagedError:
        where = self._store.files
        shown = "; ".join(f"{problem.video_id}: {problem.problem}" for problem in bad[:_NAMED])
        more = f"; and {len(bad) - _NAMED:,} more" if len(bad) > _NAMED else ""
        return DamagedError(
            f"{len(bad):,} videos of {where} are damaged, so the copy is not finished ({shown}{more}): "
            f"`resact verify {where} --repair`, then the same command continues"
        )

    # The rest --------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Everything that is not of a single video; the root document last."""
        target, part = self._target, self._part
        notes = {WHOLE: None if part.whole is None else WHOLE_NOTE.document(part.whole), ALIKE: part.alike}
        for name, data in {**self._columns, ROOT_OF_FAILED: seal(group_document({})), **notes}.items():
            if data is not None:
                self._put(name, data)
        target.settle()
        if read_if_there(target.files, DOCUMENT) is not None:  # an older copy: now its readers see the new index
            self._put(POINTER, self._pointer)
        elif read_if_there(target.files, POINTER) == self._pointer:
            self._put(DOCUMENT, self._root_document())
        else:
            raise StoreError(
                f"another copy has begun to write to {target.files}: let one of them end, and run it again"
            )
        for name in (name for name, data in notes.items() if data is None):
            target.remove(name)
        self._remove_outdated()

    def _root_document(self) -> bytes:
        """The source's own bytes where the settings are the same: the words for people in them may be older."""
        same = self._part.settings == self._store.settings
        with self._reading():
            return self._store.files.read(DOCUMENT) if same else self._part.settings.to_document()

    def _remove_outdated(self) -> None:
        """Older generations of the index, and notes of failures that have since become videos."""
        target = self._target
        for name in target.files.list(INDEX):
            if len(name) == len(self._generation) and name != self._generation:
                target.remove(f"{INDEX}/{name}")
        index = self._index
        stored = {array_name(index.video_id[row]) for row in np.flatnonzero(index.status_code != _FAILED)}
        for name in stored.intersection(target.files.list(FAILED)):
            target.remove(f"{FAILED}/{name}")

    def _put(self, name: str, data: bytes) -> None:
        """A small file, unless it is there."""
        self._go_on()
        files = self._target.files
        if not self._fresh and read_if_there(files, name) == data:
            return
        sent = self._target.put(name, [data], len(data))
        there = self._target.size_and_md5(name)
        if (sent is None or there != (len(data), sent)) and files.read(name) != data:
            raise self._gives_other_bytes(name)

    def _gives_other_bytes(self, name: str) -> StoreError:
        return StoreError(
            f"{self._target.files}/{name} gives back other bytes than were written: check that disk or server, and run "
            "the same command again, which continues"
        )

    def _go_on(self) -> None:
        if self._stop.is_set():
            raise _Stopped

    def _count(self, *, copied: int = 0, there: int = 0, videos: int = 0) -> None:
        self._go_on()
        with self._lock:
            now = self._so_far
            self._so_far = replace(
                now,
                videos=now.videos + videos,
                bytes=now.bytes + copied + there,
                copied_bytes=now.copied_bytes + copied,
            )
            self._tell(self._so_far)
