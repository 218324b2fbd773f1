"""A folder of files within a bound of bytes, shared by the threads and processes of one host.

No process is in charge. `bytes` holds the sum of all files' sizes, and its lock guards every change of the folder. The
sum is raised before a file grows and lowered after a file is gone, so a kill at any moment leaves it too high, never
too low; it is counted anew whenever room is needed. A file is written as `NAME.part`, under a lock of its own, and
renamed when it is complete: of those who want the same file, one writes and the others wait. A killed process loses its
locks, and a later one removes what it left.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from resact.cache.durable import DISK_FULL
from resact.cache.file_lock import is_at
from resact.cache.files import read_open_file
from resact.errors import DiskFullError, StoreError

_BYTES = "bytes"
_PART = ".part"
_SLACK = 20
"""Making room frees one part in so many more than is needed, since each time all files are looked at."""


class NoRoomError(Exception):
    """A file does not fit into the bound."""


class BoundedFolder:
    """Files by name, of which the longest unused give way to new ones.

    A file's access time says when it was used last, its modification time when its contents were last known to be right
    (`is_current`). A descriptor stays readable when its file gives way.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Create the folder where there is none, and remove what killed processes left.

        Raises:
            StoreError: the folder cannot be written to.
            DiskFullError: not even a few bytes fit on its disk.
        """
        self.folder, self.max_bytes = folder, max_bytes
        with self._own_errors(), self._ledger() as ledger:
            _write(ledger, self._make_room(0))

    def find(self, name: str) -> int | None:
        """A descriptor of a file, which counts as used now; None if there is none."""
        with self._own_errors():
            try:
                descriptor = os.open(self._path(name), os.O_RDONLY)
            except FileNotFoundError:
                return None
            os.utime(descriptor, ns=(time.time_ns(), os.fstat(descriptor).st_mtime_ns))
            return descriptor

    def add(self, name: str, num_bytes: int, fill: Callable[[int], bool]) -> int | None:
        """A descriptor of a file, which is made now unless another thread or process makes it first.

        Args:
            name: of the file.
            num_bytes: its size.
            fill: writes the file with `write`, given its descriptor; False if the file is not to be kept.

        Returns:
            The descriptor; None if `fill` gave False.

        Raises:
            NoRoomError: the file does not fit into the bound.
            DiskFullError: it does not fit on the disk.
            StoreError: the folder cannot be used.
        """
        path = self._path(name)
        part = path.with_name(path.name + _PART)
        with self._locked(part) as descriptor:
            complete = False
            try:
                if (found := self.find(name)) is not None:  # somebody else was first
                    return found
                began = time.time_ns()
                with self._own_errors():
                    self._reserve(descriptor, num_bytes)
                if not fill(descriptor):
                    return None
                self._mark_current(descriptor, began)
                with self._own_errors(), self._ledger():
                    if is_at(descriptor, part):  # unless a user has emptied the folder
                        part.rename(path)
                complete = True
                return os.dup(descriptor)
            finally:
                if not complete:
                    self._remove(part, descriptor)

    def read(self, descriptor: int, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of a file, fewer where it ends earlier."""
        with self._own_errors():
            return read_open_file(descriptor, start, stop)

    def write(self, descriptor: int, start: int, data: memoryview) -> None:
        """Write bytes of a new file, from `start` on."""
        with self._own_errors():
            while data:
                written = os.pwrite(descriptor, data, start)
                start, data = start + written, data[written:]

    def is_current(self, descriptor: int, since_ns: int, compare: Callable[[], bool]) -> bool:
        """Whether a file's contents are right: known since that time, or compared now, by one for all that wait."""

        def is_known() -> bool:
            # A time in the future is of a clock that has since been set back: it says nothing.
            return since_ns <= os.fstat(descriptor).st_mtime_ns <= time.time_ns()

        if is_known():
            return True
        with self._own_errors():
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            now = time.time_ns()
            if is_known():
                return True
            if not compare():
                return False
            self._mark_current(descriptor, now)
            return True
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    def remove(self, name: str, descriptor: int | None = None) -> bool:
        """Remove a file, or only the one that the descriptor is of; whether it was there."""
        return self._remove(self._path(name), descriptor)

    def _mark_current(self, descriptor: int, at_ns: int) -> None:
        with self._own_errors():
            os.utime(descriptor, ns=(time.time_ns(), at_ns))

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        """The system's errors in words that name this folder, not what its files are copied from."""
        try:
            yield
        except OSError as error:
            if error.errno in DISK_FULL:
                raise DiskFullError(f"the disk of the cache in {self.folder} is full") from error
            raise StoreError(
                f"cannot use the cache in {self.folder} ({error.strerror or error}): name another folder of your own"
            ) from error

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name[2:]

    @contextmanager
    def _locked(self, path: Path) -> Iterator[int]:
        """A file, created where there is none, that is this thread's alone until the block ends."""
        with self._own_errors():
            while True:
                try:
                    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
                except FileNotFoundError:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    continue
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if is_at(descriptor, path):
                    break
                os.close(descriptor)  # while this thread waited, it was renamed or removed
        try:
            yield descriptor
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a process forked meanwhile has the descriptor, too
            os.close(descriptor)

    @contextmanager
    def _ledger(self) -> Iterator[int]:
        with self._locked(self.folder / _BYTES) as ledger:
            if not os.fstat(ledger).st_size:
                _write(ledger, self._make_room(0))
            yield ledger

    def _reserve(self, descriptor: int, num_bytes: int) -> None:
        """Give a new file its size; others make room for it."""
        with self._ledger() as ledger:
            used = _read(ledger)
            if left := os.fstat(descriptor).st_size:  # by a killed process
                os.ftruncate(descriptor, 0)
                used = max(0, used - left)
            if used + num_bytes > self.max_bytes >= num_bytes:
                used = self._make_room(num_bytes)
                _write(ledger, used)
            if used + num_bytes > self.max_bytes:
                raise NoRoomError(f"{num_bytes:,} bytes do not fit into the {self.max_bytes:,} of {self.folder}")
            _write(ledger, used + num_bytes)
            try:
                os.posix_fallocate(descriptor, 0, num_bytes)
            except OSError:
                os.ftruncate(descriptor, 0)
                _write(ledger, used)
                raise

    def _remove(self, path: Path, descriptor: int | None = None) -> bool:
        with self._own_errors(), self._ledger() as ledger:
            if descriptor is not None and not is_at(descriptor, path):
                return False
            try:
                num_bytes = path.stat().st_size
                path.unlink()
            except FileNotFoundError:
                return False
            _write(ledger, max(0, _read(ledger) - num_bytes))
            return True

    def _make_room(self, num_bytes: int) -> int:
        """Remove what killed processes left, and files until so many bytes fit; the sum of all sizes then."""
        files, being_written = [], 0
        for path, found in self._files():
            if path.suffix != _PART:
                files.append((found.st_atime_ns, found.st_size, path))
            elif not _removed_if_abandoned(path):
                being_written += found.st_size
        total = being_written + sum(size for _, size, _ in files)
        if total + num_bytes > self.max_bytes >= being_written + num_bytes:
            files.sort(reverse=True)
            while files and total + num_bytes > self.max_bytes - self.max_bytes // _SLACK:
                _, size, oldest = files.pop()
                oldest.unlink(missing_ok=True)
                total -= size
        return total

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder in os.scandir(self.folder):
            if folder.is_dir():
                with suppress(FileNotFoundError):  # a user may empty the folder meanwhile
                    for entry in os.scandir(folder):
                        with suppress(FileNotFoundError):
                            yield Path(entry.path), entry.stat()


def _removed_if_abandoned(part: Path) -> bool:
    """Remove a file if nobody writes it any more: then nobody has its lock."""
    try:
        descriptor = os.open(part, os.O_RDWR)
    except FileNotFoundError:  # a user has emptied the folder
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink(missing_ok=True)  # under the lock, so that whoever has waited for it sees that it is gone
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def _read(ledger: int) -> int:
    return int.from_bytes(os.pread(ledger, 8, 0), "little")


def _write(ledger: int, used: int) -> None:
    os.pwrite(ledger, used.to_bytes(8, "little"), 0)
