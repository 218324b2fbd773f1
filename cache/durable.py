"""Writes that survive a kill or a power cut at any moment.

A file, or a video's folder, is written under a name unique to the attempt, synced, and renamed into place. Then the
parent folder is synced, so the new name is on the disk before anything that relies on it is written.
"""

import errno
import fcntl
import filecmp
import os
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from resact.cache.layout import (
    CRC_BYTES,
    DOCUMENT,
    FAILED,
    INDEX,
    PARTIAL,
    POINTER,
    SHARD,
    VideoRecord,
    array_name,
    crc32c,
    group_document,
    seal,
    shard_index,
    unseal,
    video_document,
)
from resact.cache.settings import StoreSettings
from resact.errors import DiskFullError, StoreError, StoreLockedError, UsageError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""The system's words for a full file system, and for a user's quota on it."""
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""What the system says of a lock, a link or a sync that the file system does not know."""


@contextmanager
def disk_failure_as_error(store: Path) -> Iterator[None]:
    """Turn "no space left", and what the file system cannot do, into one clear error.

    Raises:
        DiskFullError: the file system, or the user's quota on it, is full.
        StoreError: the file system has no locks, links or syncs.
    """
    try:
        yield
    except OSError as error:
        if error.errno in UNSUPPORTED:
            raise StoreError(
                f"the file system of {store} cannot do what writing there needs ({error.strerror}): "
                f"`resact doctor {shlex.quote(str(store))}` names it and what helps"
            ) from None
        if error.errno not in DISK_FULL:
            raise
        free = shutil.disk_usage(next(place for place in (store, *store.parents) if place.exists())).free
        raise DiskFullError(
            f"no room left for {store} ({free:,} bytes free): everything committed is intact; "
            "make room and run the same command again"
        ) from None


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write and sync a file that nothing refers to yet, or leave none; the caller syncs its folder."""
    try:
        with path.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)  # on a full disk every byte counts
        raise


def write_replacing(path: Path, data: bytes, *, attempt: Path) -> None:
    """Replace a file atomically and sync it, or leave it unchanged; `attempt`, in the same folder, is written first."""
    write_synced(attempt, [data])
    attempt.replace(path)
    sync_folder(path.parent)


def write_file(
    store: Path,
    name: str,
    parts: Iterable[bytes | memoryview],
    *,
    publish: Callable[[Path, Path], None] = os.replace,
) -> None:
    """Write a file atomically; an existing file is replaced, unless `publish` is `link`.

    If the parts end in an exception, nothing is in its place.
    """
    attempt, path = _attempt(store, Path(name).name), store / name
    write_synced(attempt, parts)
    try:
        publish(attempt, path)
    finally:
        attempt.unlink(missing_ok=True)
    sync_folder(path.parent)


def _attempt(store: Path, name: str) -> Path:
    """Path to which an attempt writes before it commits; no other attempt has the same."""
    return store / PARTIAL / f"{name[:180]}.{uuid4().hex}"


def _discard(store: Path, folder: Path) -> None:
    """Remove a folder so that it disappears at once for others, even if killed midway or still written to."""
    doomed = store / INDEX / f"discarded.{uuid4().hex}"
    folder.rename(doomed)
    sync_folder(folder.parent)
    shutil.rmtree(doomed)


class ShardWriter:
    """Writes one video's frames, one by one, to a shard in a folder of this attempt.

    A context manager: on leaving, what has not been committed is removed.
    """

    def __init__(self, store: Path, video_id: str) -> None:
        self._folder = _attempt(store, array_name(video_id))
        self._folder.mkdir()
        self.path = self._folder / SHARD
        self._file = self.path.open("wb", buffering=1 << 20)
        self._frame_bytes: list[int] = []

    def append(self, frame: bytes) -> None:
        """Append one frame's encoded bytes and its checksum."""
        self._file.write(frame)
        self._file.write(crc32c(frame).to_bytes(CRC_BYTES, "little"))
        self._frame_bytes.append(len(frame) + CRC_BYTES)

    def finish(self) -> npt.NDArray[np.uint32]:
        """Append the shard index and sync; call `commit_video` next.

        Returns:
            (T,) stored bytes of each frame.
        """
        frame_bytes = np.array(self._frame_bytes, np.uint32)
        self._file.write(shard_index(frame_bytes))
        self._file.flush()
        os.fsync(self._file.fileno())
        return frame_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)  # committed, or swept away by a prep that took over
        with suppress(OSError):  # on a full disk: what the buffer still holds is not wanted
            self._file.close()


def commit_video(store: Path, record: VideoRecord, settings: StoreSettings, *, shard: Path | None) -> None:
    """Commit a finished video: sync its shard and metadata, and move their folder into place with one rename.

    Args:
        store: local path of the store.
        record: the video; with status `failed` it is recorded under `failed/` and has no shard.
        settings: the job's settings.
        shard: a finished `ShardWriter`'s path; None for a failed video.

    Raises:
        StoreError: the store at that path is no longer the one that the job started with.
    """
    # A worker that outlived its prep must not write into a store that has since been made anew.
    data = (store / DOCUMENT).read_bytes()
    same = data == settings.to_document()  # or with other words for people, of another version
    if not same and StoreSettings.from_document(unseal(data, f"{store}/{DOCUMENT}"), str(store)) != settings:
        raise StoreError(f"{store} was replaced by another store while this video was decoded")
    name = array_name(record.video_id)
    node = store / name if shard is not None else store / FAILED / name
    attempt = shard.parent if shard is not None else _attempt(store, name)
    if shard is None:
        attempt.mkdir()
    elif not shard.exists():  # another prep has taken over and swept this attempt away
        raise StoreError(f"{shard} is gone: another prep has taken over {store}")
    write_synced(attempt / DOCUMENT, [seal(video_document(record, settings.frame_codec))])
    sync_folder(attempt)
    try:
        attempt.rename(node)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # Committed before, by a prep that was killed before it wrote the journal, or by a worker left behind:
        # the same source gives the same bytes, and only another source's are replaced.
        # A shard whose bytes have changed on the disk is replaced as well.
        if not _same_files(node, attempt):
            _replace(store, node, attempt)
    sync_folder(node.parent)


def _replace(store: Path, node: Path, attempt: Path) -> None:
    """Put a folder in another's place; killed before it is there, the next `store_lock` puts the old one back."""
    aside = store / INDEX / f"replaced.{uuid4().hex}"
    old = aside / node.relative_to(store)
    old.parent.mkdir(parents=True)
    sync_folder(aside.parent)
    node.rename(old)
    sync_folder(old.parent)
    attempt.rename(node)
    sync_folder(node.parent)
    shutil.rmtree(aside)


def _put_back(store: Path, aside: Path) -> None:
    """Restore what `_replace` moved aside, if nothing took its place."""
    for old in [*aside.glob(f"{FAILED}/*"), *aside.iterdir()]:
        node = store / old.relative_to(aside)
        if not node.exists():
            old.rename(node)
            sync_folder(node.parent)
    shutil.rmtree(aside)


def _same_files(node: Path, attempt: Path) -> bool:
    names = [path.name for path in attempt.iterdir()]
    return not any(filecmp.cmpfiles(node, attempt, names, shallow=False)[1:])


def forget_failure(store: Path, video_id: str) -> None:
    """Remove the record of an earlier failure, now that the video is in the store."""
    with suppress(FileNotFoundError):  # there is none, or another worker with the same video removes it just now
        _discard(store, store / FAILED / array_name(video_id))


def create_store(store: Path, settings: StoreSettings) -> None:
    """Create an empty store, unless one exists.

    The root document is linked into place last: of two processes that create at the same time, exactly one wins.

    Raises:
        UsageError: the path holds something else.
    """
    if (store / DOCUMENT).exists():
        return
    if store.exists():
        names = {entry.name for entry in store.iterdir()} if store.is_dir() else {"a file"}
        foreign = sorted(names - {INDEX, FAILED})
        if foreign and not (store / DOCUMENT).exists():  # asked again: another process may have made the store since
            raise UsageError(f"{store} is not a clip store (it holds {', '.join(foreign[:3])}): choose another --store")
    for folder in (store / FAILED, store / PARTIAL):
        folder.mkdir(parents=True, exist_ok=True)
    empty = seal(group_document({}))
    documents = {f"{FAILED}/{DOCUMENT}": empty, POINTER: empty, DOCUMENT: settings.to_document()}
    for name, data in documents.items():
        # Another process was first, and may have written its index or cleaned up since: keep its files.
        with suppress(FileExistsError, FileNotFoundError):
            write_file(store, name, [data], publish=link)
    if not (store / DOCUMENT).exists():
        raise StoreError(f"{store} disappeared while it was being made")
    sync_folder(store.parent)


def link(attempt: Path, path: Path) -> None:
    """Put a file in place, unless there is one.

    Raises:
        FileExistsError: there is one.
        OSError: the file system has no hard links.
    """
    try:
        os.link(attempt, path)
    except PermissionError:  # the folder is writable, as `attempt` was made there: FAT and others know no links
        raise OSError(errno.ENOTSUP, "it has no hard links") from None


@contextmanager
def store_lock(store: Path, document: str = DOCUMENT) -> Iterator[None]:
    """Lock the store for writing; the kernel releases the lock when the process ends, however it ends.

    While it is held, `index/partial` exists for uncommitted files; leftovers of killed attempts are removed first.
    `document` is the file that is locked, for what has no root document yet.

    Raises:
        StoreLockedError: another process holds it.
    """
    # Opened for writing, because NFS grants exclusive locks only then.
    with (store / document).open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreLockedError(
                f"another prep, repair or copy is writing to {store}: wait for it or stop it "
                "(the lock ends with the process that holds it)"
            ) from None
        _clear_partial(store)
        (store / PARTIAL).mkdir(exist_ok=True)  # another process may be in `create_store` still, and make it
        try:
            yield
        finally:
            _clear_partial(store)


def _clear_partial(store: Path) -> None:
    for killed_midway in (store / INDEX).glob("replaced.*"):
        _put_back(store, killed_midway)
    for killed_midway in (store / INDEX).glob("discarded.*"):
        shutil.rmtree(killed_midway)
    if (store / PARTIAL).exists():
        _discard(store, store / PARTIAL)
