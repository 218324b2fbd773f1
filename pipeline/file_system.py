"""Checks by trying whether a folder's file system can do what stores and runs need; its speed and its room.

docs/filesystems.md lists which promise needs which of these.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resact.cache.check import Check
from resact.cache.durable import sync_folder

_MEASURED_BYTES = 64 << 20
_MEASURED_SECONDS = 1.0  # a slow disk is known for one by then
_CHUNK_BYTES = 4 << 20
_SLOW_WRITE = 20e6  # bytes a second: about what one core of prep writes as zstd
_SLOW_READ = 50e6
_WHOLE_UCF101 = 40e9  # bytes, as jpeg
LEAST_FREE = 1e9
_WHOLE_UCF101_FILES = 3 * 13_320  # a video has a folder with two files
_LEAST_FILES = 1_000

_HIDDEN_LOCKS = {"nolock", "local_lock=all", "local_lock=flock", "localflock"}
"""Mount options of NFS and Lustre with which no other host sees a lock."""
_OBJECT_STORES = re.compile(r"fuse\.(rclone|s3fs|gcsfuse|mountpoint-s3|mount-s3|goofys|geesefs|blobfuse2?)")
"""File systems that rename a folder by copying each object in it."""

_TRY_LOCK = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        sys.stdout.write("taken")
    except BlockingIOError:
        sys.stdout.write("refused")
"""


def check_folder(folder: Path) -> Iterator[Check]:
    """The folder for sources and stores: writable, what its file system can do, its speed and its room."""
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    shown = str(folder) if place == folder.absolute() else f"{folder} (not there yet: measured in {place})"
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".resact-doctor-") as name:
            scratch = Path(name)
            yield Check("data folder", "ok", f"{shown}, writable")
            yield check_mount(scratch)
            yield _check_lock(scratch)
            for line in _LINES:
                yield (check := line.check(scratch))
                if line.name == "syncing" and check.state == "ok":  # the speed is that of synced writes
                    yield _check_speed(scratch)
    except OSError as error:
        advice = "name a writable folder: `resact doctor FOLDER`, or $RESACT_DATA"
        yield Check("data folder", "bad", f"{shown}: {error.strerror or error}", advice)
    yield _check_space(place)
    yield _check_inodes(place)


def check_mount(place: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> Check:
    """The kind of the file system, and what its mount options say of it that a trial on one host cannot show."""
    kind, options = _mount_of(place.resolve(), mountinfo)
    if hidden := sorted(_HIDDEN_LOCKS & options):
        advice = "mount it with locks that all hosts see (NFS: without this option; Lustre: flock)"
        return Check("file system", "warning", f"{kind}, {hidden[0]}: locks do not keep out other hosts", advice)
    if _OBJECT_STORES.fullmatch(kind):
        found = f"{kind}: it renames a folder object by object, so a kill can leave half a video"
        return Check("file system", "warning", found, "make stores on a disk, then `resact copy` them to its URL")
    return Check("file system", "ok", kind)


def _mount_of(place: Path, mountinfo: Path) -> tuple[str, set[str]]:
    """Kind and options of the file system that a path is on (proc(5), /proc/pid/mountinfo)."""
    deepest: tuple[int, str, set[str]] = (0, "unknown", set())
    for line in mountinfo.read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        top = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split()[4]))
        kind, _, of_super_block = after.split(" ", 2)  # the one in the middle may be empty
        depth = len(top.parts)
        if place.is_relative_to(top) and depth >= deepest[0]:  # of two on one folder, the later one is seen
            deepest = depth, kind, {*before.split()[5].split(","), *of_super_block.split(",")}
    return deepest[1:]


def _check_lock(scratch: Path) -> Check:
    """Between processes, as two preps of one store are; on some file systems locks hold within a process only."""
    advice = "keep stores on another file system, or mount this one with locks (NFS: nfsvers=4; Lustre: flock)"
    path = scratch / "lock"
    with path.open("w+b") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return Check("file locks", "bad", f"flock does not work: {error.strerror}", advice)
        while_held = _try_lock(path)
    afterwards = _try_lock(path)
    if while_held == "taken":
        return Check("file locks", "bad", "flock lets two writers in at once", advice)
    if (while_held, afterwards) != ("refused", "taken"):
        found = f"another process, while a lock was held: {while_held}; once it was free: {afterwards}"
        return Check("file locks", "bad", found, advice)
    return Check("file locks", "ok", "flock keeps out a second process")


def _try_lock(path: Path) -> str:
    """What another process meets that takes the lock: `taken`, `refused`, or an error."""
    command = [sys.executable, "-I", "-S", "-c", _TRY_LOCK, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return run.stdout or run.stderr.strip().rpartition("\n")[2]


@dataclass(frozen=True)
class _Line:
    """A line of the diagnosis: several trials, of which each does what stores or runs do."""

    name: str
    trials: dict[str, Callable[[Path], None]]
    """What is tried, in words -> the trial in a folder of its own; it raises an OSError if it fails."""
    ok: str
    advice: str

    def check(self, scratch: Path) -> Check:
        """Try all; the result names each that fails."""
        failed = []
        for number, (what, trial) in enumerate(self.trials.items()):
            folder = scratch / f"{self.name}-{number}"
            folder.mkdir()
            try:
                trial(folder)
            except OSError as error:
                failed.append(f"{what} ({error.strerror or error})")
        if failed:
            return Check(self.name, "bad", f"it cannot {', '.join(failed)}", self.advice)
        return Check(self.name, "ok", self.ok)


def _written(path: Path, data: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


def _require(path: Path, data: bytes) -> None:
    if path.read_bytes() != data:
        raise OSError("it gives other bytes than were written")


def _rename_folder(folder: Path) -> None:
    """As a video is committed."""
    _written(folder / "attempt" / "file", b"whole")
    (folder / "attempt").rename(folder / "place")
    _require(folder / "place" / "file", b"whole")


def _rename_over_file(folder: Path) -> None:
    """As the index and a run's checkpoint are switched."""
    old, new = _written(folder / "file", b"old"), _written(folder / "attempt", b"new")
    new.replace(old)
    _require(old, b"new")


def _keep_full_folder(folder: Path) -> None:
    """As the second of two workers with one video must not take the first one's place."""
    kept = _written(folder / "place" / "file", b"first")
    _written(folder / "attempt" / "file", b"second")
    try:
        (folder / "attempt").rename(folder / "place")
    except OSError:
        _require(kept, b"first")
    else:
        raise OSError("it was replaced")


def _link(folder: Path) -> None:
    """As a store is made: of two preps that make it, one wins."""
    os.link(_written(folder / "attempt", b"whole"), folder / "place")
    _require(folder / "place", b"whole")


def _sync_file(folder: Path) -> None:
    with (folder / "file").open("wb") as file:
        file.write(b"whole")
        file.flush()
        os.fsync(file.fileno())


def _append(folder: Path) -> None:
    """As the journal grows; its torn last line is cut off."""
    path = _written(folder / "journal", b"one\n")
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, b"two\ntorn")
        os.ftruncate(descriptor, len(b"one\ntwo\n"))
        os.write(descriptor, b"three\n")
    finally:
        os.close(descriptor)
    _require(path, b"one\ntwo\nthree\n")


def _map(folder: Path) -> None:
    """As the index is read."""
    if np.memmap(_written(folder / "column", b"whole"), np.uint8, "r").tobytes() != b"whole":
        raise OSError("it gives other bytes than were written")


_LINES = (
    _Line(
        "renames, links",
        {
            "rename a folder": _rename_folder,
            "rename a file over another": _rename_over_file,
            "keep a folder from being replaced": _keep_full_folder,
            "link a file": _link,
        },
        "folders and files can be renamed, files linked",
        "make stores on another file system, and copy them here with `cp -r`: reading needs none of this",
    ),
    _Line(
        "syncing",
        {"sync a file": _sync_file, "sync a folder": sync_folder},
        "files and folders can be synced to the disk",
        "make stores on another file system, and copy them here with `cp -r`: here a power cut could undo a commit",
    ),
    _Line(
        "appending, mapping",
        {"append to a file and cut it": _append, "map a file into memory": _map},
        "files can be appended to, cut and mapped into memory",
        "use another file system; of an object store, read the store by its URL (s3://...) instead of a mount",
    ),
)


def _check_speed(scratch: Path) -> Check:
    """Fewer bytes where the disk is slow."""
    path, chunk = scratch / "measured", os.urandom(_CHUNK_BYTES)

    def write() -> Generator[int]:
        with path.open("wb", buffering=0) as file:
            for _ in range(_MEASURED_BYTES // _CHUNK_BYTES):
                file.write(chunk)
                os.fsync(file.fileno())
                yield _CHUNK_BYTES

    def read() -> Generator[int]:
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # from the disk, not from memory
            while data := file.read(_CHUNK_BYTES):
                yield len(data)

    writes, reads = _bytes_a_second(write), _bytes_a_second(read)
    found = f"writes {writes / 1e6:,.0f} MB/s (synced), reads {reads / 1e6:,.0f} MB/s"
    if writes < _SLOW_WRITE or reads < _SLOW_READ:
        return Check(
            "disk speed", "warning", found, "prep and training will wait for it: use a local disk if there is one"
        )
    return Check("disk speed", "ok", found)


def _bytes_a_second(steps: Callable[[], Generator[int]]) -> float:
    start, done = time.perf_counter(), 0
    with closing(steps()) as running:
        for count in running:
            done += count
            if time.perf_counter() - start > _MEASURED_SECONDS:
                break
    return done / (time.perf_counter() - start)


def _check_space(place: Path) -> Check:
    free = shutil.disk_usage(place).free
    room = f"{free / 1e9:,.1f} GB free"
    if free < LEAST_FREE:
        return Check("disk space", "bad", room, "make room, or set $RESACT_DATA to a folder on a larger disk")
    if free < _WHOLE_UCF101:
        advice = f"the whole of UCF101 takes about {_WHOLE_UCF101 / 1e9:.0f} GB as jpeg; a part of it, less"
        return Check("disk space", "warning", room, advice)
    return Check("disk space", "ok", room)


def _check_inodes(place: Path) -> Check:
    status = os.statvfs(place)
    free = status.f_favail
    if not status.f_files or not free:  # Btrfs and object stores count none; where none are left, nothing was writable
        return Check("inodes", "ok", "the file system counts none")
    found = f"room for {free:,} more files and folders"
    if free < _LEAST_FILES:
        return Check("inodes", "bad", found, "remove some, or set $RESACT_DATA to a folder on another file system")
    if free < _WHOLE_UCF101_FILES:
        advice = f"the whole of UCF101 takes about {_WHOLE_UCF101_FILES:,}: three a video"
        return Check("inodes", "warning", found, advice)
    return Check("inodes", "ok", found)
