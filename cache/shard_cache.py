"""A local cache of shards, for stores behind URLs: a shard is fetched once, whole; clips are read from the copy.

Why whole, and not only what clips ask for: docs/performance.md, "A cache for stores in buckets".

- **Right bytes.** Each frame's checksum is checked before a copy is put in place, and each time that a clip is read.
- **The store's own bytes.** A copy's name is derived from the store's address and settings, the video and the sizes of
  its frames. Frames of one size, such as noise, may change without a change of sizes. So at its first use after a store
  is opened, the last frame's checksum is compared with the store's: one request of four bytes.
- **The bound, and other processes**: bounded_folder.py.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Self

from resact.cache.bounded_folder import BoundedFolder, NoRoomError
from resact.cache.files import Files
from resact.cache.index import Index
from resact.cache.layout import CRC_BYTES, SHARD, array_name, first_wrong_chunk, frame_runs
from resact.cache.settings import StoreSettings
from resact.errors import CacheWarning, DiskFullError, UsageError

FOLDER, SIZE = "RESACT_CACHE", "RESACT_CACHE_SIZE"
DEFAULT_SIZE = "50GB"
_BELOW = "resact-shards-1"
"""The cache's own folder below the one that a user names, where nothing else is touched."""
_FETCHED_BYTES = 32 << 20  # at a time; nearly all shards are smaller
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_size(size: int | str, name: str = "--cache-size") -> int:
    """Bytes, from a number of them or a text with a unit, such as `50GB` or `1.5 TB`.

    Raises:
        UsageError: it is something else; the message has `name`.
    """
    number, factor = size, 1
    if isinstance(size, str):  # without a unit it is refused: 50 may be meant as gigabytes
        number, factor = size.strip()[:-2], _UNITS.get(size.strip()[-2:].upper(), 0)
    try:
        if 1 <= float(number) * factor < 2**63:
            return int(float(number) * factor)
    except ValueError:
        pass
    raise UsageError(f"got {name} {size!r}, expected a size such as 50GB or 800MB")


@dataclass(frozen=True)
class CacheSettings:
    """Where copies are kept, and how many."""

    folder: Path
    max_bytes: int
    required: bool = True
    """Whether an option asks for it: then a store in a folder, of which no copies are made, is refused."""

    @classmethod
    def of_environment(cls) -> Self | None:
        """The user's, for all stores behind URLs; None if there are none."""
        folder = os.environ.get(FOLDER)
        return cls(_folder(folder, FOLDER), _size_of_environment(), required=False) if folder else None


def _folder(folder: str | os.PathLike[str], name: str) -> Path:
    if "://" in os.fspath(folder):
        raise UsageError(f"got {name} {folder}, expected a folder on this machine")
    return Path(folder)


def _size_of_environment() -> int:
    return parse_size(os.environ.get(SIZE) or DEFAULT_SIZE, SIZE)


_given: ContextVar[CacheSettings | None] = ContextVar("_given", default=None)


@contextmanager
def caching(folder: str | os.PathLike[str] | None, size: int | str | None) -> Iterator[None]:
    """Stores that are opened in the block use this cache; without a folder, that of the environment.

    Raises:
        UsageError: as `cache_settings`.
    """
    token = _given.set(cache_settings(folder, size))
    try:
        yield
    finally:
        _given.reset(token)


def cache_settings(folder: str | os.PathLike[str] | None, size: int | str | None) -> CacheSettings | None:
    """The given settings, completed by those of the surrounding `caching` or of the environment; None for no cache.

    Raises:
        UsageError: not a size, not a folder, or a size without any folder.
    """
    around = _given.get() or CacheSettings.of_environment()
    if folder is not None:
        return CacheSettings(_folder(folder, "--cache"), _size_of_environment() if size is None else parse_size(size))
    if size is None:
        return around
    if around is None:
        raise UsageError(f"got --cache-size {size} without a cache: name its folder, with --cache or {FOLDER}")
    return replace(around, max_bytes=parse_size(size))


class ShardCache:
    """The copies of one store's shards."""

    def __init__(
        self, files: Files, settings: StoreSettings, index: Index, cache: CacheSettings, *, opened_ns: int
    ) -> None:
        """Prepare the cache's folder, if an option names it: what is wrong with it is then said before any work.

        Args:
            files: the store's.
            settings: the store's.
            index: the store's.
            cache: which cache.
            opened_ns: a time before the index was read; copies last known to be right before it are compared again.

        Raises:
            StoreError, DiskFullError: the folder cannot be written to.
        """
        self.settings = cache
        self._files, self._index, self._opened_ns = files, index, opened_ns
        self._store = f"{files}\0".encode() + settings.to_document()
        self._damaged: set[int] = set()
        self._told: dict[type[Exception], Exception] = {}
        if cache.required:
            _ = self._folder

    @cached_property
    def _folder(self) -> BoundedFolder:
        """Made for the first clip: most commands read none, and the user's cache is for all of them."""
        return BoundedFolder(self.settings.folder / _BELOW, self.settings.max_bytes)

    def read_range(self, video_index: int, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a video's shard, from a copy; from the store if no copy can be kept.

        Raises:
            OSError: as `Files.read_range`.
            StoreError, DiskFullError: the cache's folder cannot be used.
        """
        descriptor = self._copy(video_index, self._name(video_index))
        if descriptor is None:
            return self._files.read_range(self._shard(video_index), start, stop)
        try:
            return self._folder.read(descriptor, start, stop)
        finally:
            os.close(descriptor)

    def forget(self, video_index: int) -> None:
        """Remove a copy whose bytes have changed, if there is one."""
        self._folder.remove(self._name(video_index))

    def _shard(self, video_index: int) -> str:
        return f"{array_name(self._index.video_id[video_index])}/{SHARD}"

    def _name(self, video_index: int) -> str:
        sizes = self._index.frame_bytes_of(video_index).tobytes()
        return sha256(self._store + self._index.video_id.encoded(video_index) + b"\0" + sizes).hexdigest()[:40]

    def _copy(self, video_index: int, name: str) -> int | None:
        """A descriptor of a copy of what the store has; None if none can be kept."""
        descriptor = self._folder.find(name)
        if descriptor is None:
            descriptor = self._fetched(video_index, name)
        if descriptor is None:
            return None
        end = int(self._index.frame_bytes_of(video_index).sum())

        def compare() -> bool:
            theirs = self._files.read_range(self._shard(video_index), end - CRC_BYTES, end)
            return theirs == self._folder.read(descriptor, end - CRC_BYTES, end)

        current = False
        try:
            current = self._folder.is_current(descriptor, self._opened_ns, compare)
            if not current:
                self._folder.remove(name, descriptor)
        finally:
            if not current:
                os.close(descriptor)
        return descriptor if current else self._fetched(video_index, name)

    def _fetched(self, video_index: int, name: str) -> int | None:
        """A descriptor of a new copy; None if none can be kept."""
        if video_index in self._damaged:
            return None
        edges = self._index.frame_offsets(video_index, int(self._index.num_frames[video_index]))

        def fetch(descriptor: int) -> bool:
            for first, stop in frame_runs(edges, _FETCHED_BYTES):
                start, end = int(edges[first]), int(edges[stop])
                data = memoryview(self._files.read_range(self._shard(video_index), start, end))
                if len(data) < end - start or first_wrong_chunk(data, edges[first : stop + 1] - start) is not None:
                    self._damaged.add(video_index)  # a clip of other frames can still be read
                    return False
                self._folder.write(descriptor, start, data)
            return True

        try:
            return self._folder.add(name, int(edges[-1]), fetch)
        except (NoRoomError, DiskFullError) as error:
            if self._told.setdefault(type(error), error) is error:
                warnings.warn(
                    f"{error}: clips of such videos are read from {self._files} each time", CacheWarning, stacklevel=2
                )
            return None
