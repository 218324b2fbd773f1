"""Checks every byte of a store, local or remote, and rebuilds a local store's index from its arrays."""

import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resact.cache.address import open_files
from resact.cache.durable import disk_failure_as_error, store_lock
from resact.cache.files import Files, LocalFiles, read_if_there
from resact.cache.index import Index
from resact.cache.index_files import index_files, pointer_document, read_index, write_index
from resact.cache.layout import (
    CRC_BYTES,
    DOCUMENT,
    FAILED,
    INDEX,
    JOURNAL,
    POINTER,
    SHARD,
    VideoRecord,
    array_name,
    first_wrong_chunk,
    frame_runs,
    group_document,
    parse_shard_index,
    seal,
    shard_index,
    shard_index_bytes,
    unseal,
    video_document,
    video_id_of,
    video_record,
)
from resact.cache.leaks import ALIKE_NOTE
from resact.cache.settings import StoreSettings
from resact.cache.store import read_settings
from resact.cache.whole import WHOLE_NOTE
from resact.errors import DamagedError, ResactError, StoreError


@dataclass(frozen=True)
class Problem:
    """Something that is missing or has changed since it was written."""

    video_id: str | None
    """The video; None for a problem of the store as a whole."""
    problem: str


PART_BYTES = 8 << 20
"""Frames that are read at a time, in bytes."""
_REMOTE_THREADS = 16  # they wait for the server most of the time

ROOT_OF_FAILED = f"{FAILED}/{DOCUMENT}"
Nodes = dict[str, bool]
"""Array name -> whether it is a failed video."""
Progress = Callable[[int, int], None]
"""Called with the number of videos checked and their total."""


def verify_store(
    store: str | os.PathLike[str],
    *,
    threads: int,
    progress: Progress = lambda *_: None,
    only: Collection[str] | None = None,
) -> tuple[int, list[Problem]]:
    """Read the whole store: every document, every shard index, every frame's checksum, every frame decoded.

    If folders cannot be listed, as on web servers, only what the index names is checked.

    Args:
        store: local path or fsspec URL.
        threads: videos checked at the same time; at least 16 for a remote store.
        progress: called as described at `Progress`.
        only: videos to check; None for all.

    Returns:
        The number of videos checked, and all problems.

    Raises:
        StoreNotFoundError: nothing there.
        StoreError: the server does not answer, or refuses.
    """
    files = open_files(store)
    try:
        return _verify(files, threads, progress, only)
    except OSError as error:
        raise StoreError(
            f"cannot read the store at {files} ({error.strerror or error}), so it was not verified to its end: "
            "run the command again once the file system or server answers"
        ) from error


def _verify(files: Files, threads: int, progress: Progress, only: Collection[str] | None) -> tuple[int, list[Problem]]:
    local = isinstance(files, LocalFiles)
    problems: list[Problem] = []
    try:
        settings = read_settings(files)
    except DamagedError as error:
        return 0, [Problem(None, f"{error}; without its settings nothing else can be checked")]
    # Before the index is read: a running prep may add videos that the index does not list yet.
    unfinished = read_if_there(files, JOURNAL) is not None
    try:
        index = read_index(files, settings.dataset.classes, settings.dataset.splits)
        listed = {index.video_id[row]: row for row in range(len(index))}
    except ResactError as error:
        problems.append(Problem(None, str(error)))
        index, listed = None, {}
    problems += _check_index_files(files, index)
    if files.can_list:
        nodes, stray = find_nodes(files)
        problems = stray + problems
    else:
        statuses = index.status if index is not None else []
        nodes = {array_name(video_id): statuses[row] == "failed" for video_id, row in listed.items()}
    present = {video_id_of(name) for name in nodes}
    problems += [Problem(v, "in the index, but its array is gone") for v in listed if v not in present]

    def check(name: str) -> list[Problem]:
        video_id = video_id_of(name)
        try:
            record = sound_record(files, settings, name, failed=nodes[name])
            if index is None or (video_id not in listed and unfinished):
                return []
            if video_id not in listed:
                return [Problem(video_id, "an array that the index does not list: run prep again, or --rebuild-index")]
            require_row(index, listed[video_id], record)
        except ResactError as error:
            return [Problem(video_id, str(error))]
        except OSError as error:  # a disk error is one video's; a server's error stops everything
            if not local and not isinstance(error, FileNotFoundError):
                raise
            return [Problem(video_id, str(error))]
        return []

    chosen = [name for name in nodes if only is None or video_id_of(name) in only]
    with ThreadPoolExecutor(threads if local else max(threads, _REMOTE_THREADS)) as pool:
        for done, found in enumerate(pool.map(check, chosen), start=1):
            problems += found
            progress(done, len(chosen))
    return len(chosen), problems


def rebuild_index(path: Path) -> tuple[int, list[Problem]]:
    """Rebuild the index from the arrays, without damaged videos, so that prep makes these again.

    Returns:
        The number of videos in the new index, and what was left out.

    Raises:
        StoreNotFoundError, StoreLockedError, DamagedError: no store, a busy one, or its settings are lost.
    """
    files = LocalFiles(path)
    settings = read_settings(files)
    with disk_failure_as_error(path), store_lock(path):
        index, problems = index_of_arrays(files, settings)
        write_index(path, index)
    return len(index), problems


def index_of_arrays(files: Files, settings: StoreSettings) -> tuple[Index, list[Problem]]:
    """The index rebuilt from the arrays, and the damaged videos left out; frames are not decoded."""
    nodes, problems = find_nodes(files)
    records = []
    for name, failed in nodes.items():
        try:
            records.append(sound_record(files, settings, name, failed=failed, decode=False))
        except (ResactError, OSError) as error:
            problems.append(Problem(video_id_of(name), str(error)))
    return Index.of(records, settings.dataset.classes, settings.dataset.splits), problems


def sound_record(files: Files, settings: StoreSettings, name: str, *, failed: bool, decode: bool = True) -> VideoRecord:
    """One video's record, after checking every byte of the video.

    Raises:
        DamagedError: the video has changed since it was written.
    """
    record = read_record(files, settings, name, failed=failed)
    if not failed:
        frame = np.empty((record.height, record.width, 3), np.uint8)
        for data, edges in checked_parts(files, f"{name}/{SHARD}", record.frame_bytes):
            for low, high in pairwise(edges.tolist()) if decode else ():
                settings.frame_codec.decode_into(data[low : high - CRC_BYTES], frame)
    return record


def read_record(
    files: Files,
    settings: StoreSettings,
    name: str,
    *,
    failed: bool,
    frame_bytes: npt.NDArray[np.uint32] | None = None,
) -> VideoRecord:
    """One video's record from its own node, with its checksums checked.

    Args:
        files: the store's.
        settings: the store's.
        name: the array's.
        failed: whether it is the note of a failure.
        frame_bytes: (T,) stored bytes of each frame; default: read from the end of the shard.

    Raises:
        DamagedError: its document or its shard index has changed since it was written.
    """
    node = f"{FAILED}/{name}" if failed else name
    where = f"{files}/{node}/{DOCUMENT}"
    document = unseal(files.read(f"{node}/{DOCUMENT}"), where)
    try:
        if failed:
            frame_bytes = np.empty(0, np.uint32)
        elif frame_bytes is None:
            size, tail = files.size(f"{node}/{SHARD}"), shard_index_bytes(document["shape"][0])
            if size < tail:
                raise DamagedError(f"{node}/{SHARD}: {size} bytes, too short for its index")
            frame_bytes = parse_shard_index(
                files.read_range(f"{node}/{SHARD}", size - tail, size), size, f"{node}/{SHARD}"
            )
        record = video_record(document, frame_bytes)
    except FileNotFoundError:
        raise DamagedError(f"{node}/{SHARD}: missing") from None
    except (KeyError, TypeError) as error:
        raise DamagedError(f"{where}: incomplete: {error}") from None
    if seal(video_document(record, settings.frame_codec)) != seal(document) or array_name(record.video_id) != name:
        raise DamagedError(f"{where}: not what this store's settings give")
    return record


def find_nodes(files: Files) -> tuple[Nodes, list[Problem]]:
    """The videos that have a node, and entries that do not belong to the store.

    A video that succeeded on a later try may still have its record of failure, if prep was killed in between: then the
    array counts.
    """
    nodes: Nodes = {}
    problems = []
    for folder, failed in ((FAILED, True), ("", False)):
        prefix = f"{folder}/" if folder else ""
        found = files.list(folder) if files.exists(folder) else []
        names = [name for name in found if name != DOCUMENT and (folder or name not in (INDEX, FAILED))]
        with ThreadPoolExecutor(_REMOTE_THREADS) as pool:
            are_there = pool.map(files.exists, [f"{prefix}{name}/{DOCUMENT}" for name in names])
        for name, is_there in zip(names, are_there, strict=True):
            if is_there:
                nodes[name] = failed
            else:
                problems.append(
                    Problem(None, f"{prefix}{name}: not part of the store (left by a killed prep; run prep again)")
                )
    return nodes, problems


def checked_parts(
    files: Files, name: str, frame_bytes: npt.NDArray[np.uint32]
) -> Iterator[tuple[memoryview, npt.NDArray[np.int64]]]:
    """A shard from its first to its last byte, in parts of whole frames; each is checked before it is given.

    Args:
        files: a store's files.
        name: the shard's.
        frame_bytes: (T,) stored bytes of each frame.

    Yields:
        At most `PART_BYTES` of frames, or one frame; the last part ends with the shard's index. And (N + 1,): where
        each of its frames begins, and where the last one ends.

    Raises:
        DamagedError: a frame does not match its checksum, or the shard is not what `frame_bytes` says.
    """
    edges = np.concatenate([[0], np.cumsum(frame_bytes, dtype=np.int64)])
    for first, stop in frame_runs(edges, PART_BYTES):
        begin, end = int(edges[first]), int(edges[stop])
        tail = shard_index(frame_bytes) if stop == len(frame_bytes) else b""
        # One byte more at the end, where there must be none.
        data = memoryview(files.read_range(name, begin, end + len(tail) + bool(tail)))
        part = edges[first : stop + 1] - begin
        if len(data) < end - begin:
            whole = int(np.searchsorted(part[1:], len(data), "right"))
            raise DamagedError(f"its shard ends before frame {first + whole} does")
        if (wrong := first_wrong_chunk(data[: end - begin], part)) is not None:
            raise DamagedError(f"frame {first + wrong} does not match its checksum")
        if data[end - begin :] != tail:
            raise DamagedError("its shard does not end with the index of its frames")
        yield data, part


def require_row(index: Index, row: int, record: VideoRecord) -> None:
    """Refuse an index whose row is not the one that the array gives.

    Raises:
        DamagedError: names the column.
    """
    fresh, listed = row_of_record(record, index.classes, tuple(index.splits)), row_values(index, row)
    for name, value in fresh.items():
        if value != listed[name]:
            raise DamagedError(f"the index's {name} differs from the array's: run with --rebuild-index")
    if not np.array_equal(index.frame_bytes_of(row), record.frame_bytes):
        raise DamagedError("the index's frame_bytes differs from the shard's: run with --rebuild-index")


def row_of_record(record: VideoRecord, classes: tuple[str, ...], splits: tuple[str, ...]) -> dict[str, Any]:
    """The `row_values` that the index must have for a record."""
    return row_values(Index.of([record], classes, splits), 0)


def row_values(index: Index, row: int) -> dict[str, Any]:
    """Column -> value, for the columns that describe the video itself; for comparisons."""
    numbers = ("label", "status_code", "num_frames", "height", "width", "source_bytes", "frames_crc32c")
    values: dict[str, Any] = {name: int(getattr(index, name)[row]) for name in numbers}
    values |= {
        "group": index.group[row],
        "problem": index.problem[row],
        "source_fps": repr(float(index.source_fps[row])),
    }
    return values | {f"split {name}": int(codes[row]) for name, codes in index.splits.items()}


def _check_index_files(files: Files, index: Index | None) -> Iterator[Problem]:
    """Compares the index's files with what `write_index` would write, unless a prep is running."""
    if read_if_there(files, ROOT_OF_FAILED) != seal(group_document({})):
        yield Problem(None, f"{ROOT_OF_FAILED}: missing or changed")
    for note in (WHOLE_NOTE, ALIKE_NOTE):
        try:
            note.read(files)
        except DamagedError as error:
            yield Problem(None, str(error))
    if read_if_there(files, JOURNAL) is not None:
        yield Problem(None, "a prep is under way, or was stopped: run the same prep again to finish it")
        return
    if index is None:
        return
    generation, expected = index_files(index)
    expected[POINTER] = pointer_document(generation, index)
    for name, data in expected.items():
        if read_if_there(files, name) != data:
            yield Problem(None, f"{name}: missing or changed: run with --rebuild-index")
