"""Downloads a data set from its makers: archives, which are checked, unpacked and removed."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from resact.cache.durable import disk_failure_as_error, sync_folder
from resact.cache.file_lock import open_locked
from resact.cache.layout import fps_value
from resact.cache.settings import DecodeSettings
from resact.errors import DiskFullError, Interrupted, SourceError
from resact.pipeline.datasets.download import PATIENCE, Patience, RemoteFile, bytes_there, download, with_size
from resact.pipeline.datasets.unpack import require_rar, unpack, unpack_nested
from resact.progress import PlainLines, ProgressLine

_MARGIN = 1.02
_PLAIN_LINE_SECONDS = 15.0
_FPS_OF_MOST_VIDEOS = 25.0
_FRAME_BYTES = {"jpeg": 25_200, "zstd": 150_600, "lz4": 188_400}
"""Bytes of a frame with short side 256, measured on six complete classes of UCF101 (docs/performance.md)."""
_OTHER_CLASSES = 1.1
"""Reserve, because other classes may be larger: the mean of those six has a standard error of 5 % to 8 %."""


@dataclass(frozen=True, kw_only=True)
class WholeSize:
    """The size of a data set."""

    videos: int
    classes: int
    frames: int
    """Number of frames at 15 frames per second."""


def store_bytes(whole: WholeSize, codec: str, decode: DecodeSettings, *, classes: int | None, limit: int | None) -> int:
    """Estimated size of the store of a data set.

    Args:
        whole: size of the whole data set.
        codec: as in `prep`.
        decode: how its videos are decoded.
        classes: number of classes to use; None for all.
        limit: most videos to use; None for all.
    """
    videos = whole.videos if classes is None else min(whole.videos, round(whole.videos / whole.classes * classes))
    videos = videos if limit is None else min(videos, limit)
    frames_per_second = _FPS_OF_MOST_VIDEOS if decode.fps == "source" else fps_value(decode.fps)
    frames = whole.frames / whole.videos * frames_per_second / 15
    if decode.max_seconds is not None:
        frames = min(frames, decode.max_seconds * frames_per_second)
    return round(videos * frames * _FRAME_BYTES[codec] * (decode.short_side / 256) ** 2)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One archive and its contents."""

    what: str
    file: RemoteFile
    folder: str
    """Name of the folder that it becomes: the archive's only folder, or a new one for its files."""
    unpacked_bytes: int
    """Estimated size when unpacked."""
    nested: bool = False
    """Whether it holds inner archives, each with a part of the folder."""


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """The missing parts of a data set, and their destination."""

    name: str
    """Name of the data set in messages."""
    whole: WholeSize
    home: Path
    parts: tuple[Part, ...]

    @property
    def bytes(self) -> int:
        """Number of bytes to download; estimated if only the server knows it."""
        return sum(
            max(0, (part.file.bytes or part.unpacked_bytes) - bytes_there(part.file, self.home)) for part in self.parts
        )

    @property
    def question(self) -> str:
        """Question to a user who has not passed `--download`."""
        source = self.parts[0].file.url.rpartition("/")[0]
        return f"{self.name} is not in {self.home}. Fetch {self.bytes / 1e9:.2f} GB from {source}?"

    def run(self, *, store: Path, planned_bytes: int, console: Console, patience: Patience = PATIENCE) -> None:
        """Download and unpack it. If it is stopped at any moment, the same call continues.

        Args:
            store: path of the store to make from it.
            planned_bytes: estimated size of that store; its space is checked before the first byte, too.
            console: where to print.
            patience: how long to try.

        Raises:
            DiskFullError: not enough space for archives, videos and store.
            ToolError: RAR files cannot be read here.
            SourceError: the server has another file, or does not answer, or an archive is damaged, or another process
                downloads to the same folder.
            Interrupted: ctrl-C.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        require_rar()
        try:
            with disk_failure_as_error(self.home), _alone_in(self.home):
                for part in self.parts:
                    _require_place(part, self.home / part.folder)
                parts = tuple(replace(part, file=with_size(part.file, self.home, patience)) for part in self.parts)
                replace(self, parts=parts)._require_room(store, planned_bytes, console)
                for part in parts:
                    self._obtain(part, console, patience)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped; {self.home} keeps the partial download: the same command continues from here"
            ) from None

    def _obtain(self, part: Part, console: Console, patience: Patience) -> None:
        with _shown(console, f"fetching {part.file.name}", part.file.bytes or part.unpacked_bytes) as show:
            archive = download(part.file, self.home, progress=show, patience=patience)
        staging = self.home / f"{part.folder}.unpacking"
        done = 0
        with _shown(console, f"unpacking {part.file.name}", part.unpacked_bytes) as show:

            def add(fresh: int) -> None:
                nonlocal done
                done += fresh
                show(done)

            files = (unpack_nested if part.nested else unpack)(archive, staging, progress=add)
        inner = staging / part.folder
        (inner if inner.is_dir() else staging).rename(self.home / part.folder)
        shutil.rmtree(staging, ignore_errors=True)
        sync_folder(self.home)
        archive.unlink()
        console.print(f"{self.home / part.folder}: {files:,} files, each checked")

    def _require_room(self, store: Path, planned_bytes: int, console: Console) -> None:
        """Raises DiskFullError if archives, videos and store do not fit on the disk."""
        unpacked = sum(part.unpacked_bytes * (2 if part.nested else 1) for part in self.parts)
        own = f"{self.bytes / 1e9:.1f} GB of archives, {unpacked / 1e9:.1f} GB of videos"
        its = f"about {planned_bytes / 1e9:.0f} GB of store, plus or minus 10 %"
        fetched, stored = (self.bytes + unpacked) * _MARGIN, planned_bytes * _OTHER_CLASSES
        place = next(folder for folder in (store.absolute(), *store.absolute().parents) if folder.exists())
        if self.home.stat().st_dev == place.stat().st_dev:
            needs = [(self.home, f"{own} and {its}", fetched + stored)]
        else:
            needs = [(self.home, own, fetched), (place, its, stored)]
        for folder, words, needed in needs:
            free = shutil.disk_usage(folder).free
            console.print(f"{folder}: {words}; {free / 1e9:.1f} GB free")
            if needed > free:
                raise DiskFullError(
                    f"{folder} needs {words}, {round(needed):,} bytes at most, and {free:,} are free: make room, "
                    "choose another --root or --store, or a smaller --codec, --short-side or --fps"
                )


def _require_place(part: Part, target: Path) -> None:
    """Raises SourceError if a file or a folder with something in it is where an archive's folder belongs."""
    taken = any(target.iterdir()) if target.is_dir() else target.exists()
    if taken:
        raise SourceError(
            f"{target} is where {part.file.name} belongs: if another download has just put it there, run the same "
            "command again; otherwise move it away"
        )


@contextmanager
def _alone_in(home: Path) -> Iterator[None]:
    """Only one process at a time downloads to a folder and unpacks there.

    Raises:
        SourceError: another one does.
    """
    path = home / "download.lock"
    lock = open_locked(path)
    if lock is None:
        raise SourceError(f"another download is writing to {home}: wait for it or stop it, then run this again")
    with lock:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _shown(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; elsewhere, a plain line every few seconds."""
    plain = PlainLines(_PLAIN_LINE_SECONDS)
    with ProgressLine(console, what, total / 1e6, unit="MB") as line:

        def show(done: int) -> None:
            line.update(min(done, total) / 1e6)
            if not line.live and plain.due():
                console.print(f"{what}: {done / 1e9:.2f} of {total / 1e9:.2f} GB")

        yield show
