"""Searches a folder of videos: its classes, its videos, and what is left out and why."""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from resact.cache.layout import DOCUMENT
from resact.errors import SourceError
from resact.pipeline.datasets.dataset import some
from resact.pipeline.datasets.sides import may_be_lists

_CLUTTER = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information"}
_SUFFIXES = (
    ".txt .csv .tsv .json .jsonl .xml .yaml .yml .toml .ini .cfg .log .md .rst .html .htm .pdf .doc .docx .xls .xlsx "
    ".srt .vtt .ass .sub .nfo .url .py .ipynb .m .sh .bat .npy .npz .pkl .pt .mat .h5 .hdf5 .parquet .md5 .sha256 "
    ".jpg .jpeg .png .bmp .tif .tiff .svg .webp .heic .wav .mp3 .m4a .aac .flac .zip .tar .gz .tgz .bz2 .xz .7z .rar "
    ".part .crdownload .download .tmp .partial"
)
_NO_VIDEO = frozenset(_SUFFIXES.split())
"""Suffixes of other files. ffmpeg would decode some of them as videos, such as pictures and partial downloads."""
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP}

BESIDE, NO_VIDEO = "files outside the class folders", "files that are not videos"
_EMPTY = "folders without videos, which are not classes"
_AGAIN = "folders reached by a second link"  # within a class: the same videos again, or an endless loop
_STORES = "Zarr stores"
_REASONS = (BESIDE, NO_VIDEO, _EMPTY, _AGAIN, _STORES)

SPECIAL = "not a regular file"
"""Problem text for a pipe, a socket or a device."""

Identity = tuple[int, ...]
"""Equal for two names of one file or folder."""


@dataclass
class FolderSearch:
    """The contents of a root folder, as paths with forward slashes."""

    root: Path
    csv: Path | None
    """The user's CSV, which may be in the same folder."""
    identities: dict[str, Identity] = field(default_factory=dict)
    """Identities of the videos, except broken links."""
    special: set[str] = field(default_factory=set)
    """Pipes, sockets and devices, which nothing should open."""
    left_out: dict[str, list[str]] = field(default_factory=lambda: {reason: [] for reason in _REASONS})
    """Reason -> files and folders that are not used."""

    def search(self) -> dict[str, list[str]]:
        """Class -> its videos, both sorted; classes without videos are left out.

        A folder that belongs to two classes is searched for both: `twins` finds its videos in both.

        Raises:
            SourceError: a folder cannot be read.
        """
        with self._searching():
            top = _status(self.root) or self.root.stat()
            by_class = {}
            for name in self._entries(""):
                status = _status(self.root / name)
                if status is None or not stat.S_ISDIR(status.st_mode):
                    self.left_out[BESIDE].append(name)
                else:
                    seen = {_identity(top)}
                    if self._is_to_search(name, status, seen):
                        by_class[name] = sorted(self._below(name, seen))
        self.left_out[_EMPTY] += [name for name, videos in by_class.items() if not videos]
        return {name: videos for name, videos in by_class.items() if videos}

    def search_all(self) -> list[str]:
        """Videos at any depth, also outside class folders; sorted.

        Raises:
            SourceError: a folder cannot be read.
        """
        with self._searching():
            return sorted(n for n in self._below("", {_identity(self.root.stat())}) if not self.is_own(n))

    @contextmanager
    def _searching(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = os.fsdecode(error.filename or self.root)
            raise SourceError(f"{where!a} cannot be searched for videos: {error.strerror}") from None

    def _below(self, class_name: str, seen: set[Identity]) -> Iterator[str]:
        folders = [class_name]  # no recursion: a tree may be deeper than Python's limit
        while folders:
            for name in self._entries(folders.pop()):
                status = _status(self.root / name)
                if status is not None and stat.S_ISDIR(status.st_mode):
                    folders += [name] if self._is_to_search(name, status, seen) else []
                elif PurePosixPath(name).suffix.lower() in _NO_VIDEO:
                    self.left_out[NO_VIDEO].append(name)
                else:
                    if status is not None:
                        # Size and time as well: on some file systems inode numbers are not unique.
                        self.identities[name] = (*_identity(status), status.st_size, status.st_mtime_ns)
                        self.special |= set() if stat.S_ISREG(status.st_mode) else {name}
                    yield name

    def _entries(self, folder: str) -> list[str]:
        entries = sorted(entry.name for entry in (self.root / folder).iterdir() if not is_clutter(entry.name))
        return [f"{folder}/{entry}" if folder else entry for entry in entries]

    def _is_to_search(self, name: str, status: os.stat_result, seen: set[Identity]) -> bool:
        if (self.root / name / DOCUMENT).exists():
            self.left_out[_STORES].append(name)
        elif _identity(status) in seen:
            self.left_out[_AGAIN].append(name)
        else:
            seen.add(_identity(status))
            return True
        return False

    def twins(self, names: Sequence[str]) -> list[list[str]]:
        """The names of each file that has several; names without links come first, then sorted by name."""
        of_file: dict[Identity, list[str]] = {}
        for name in names:
            if name in self.identities:
                of_file.setdefault(self.identities[name], []).append(name)
        return [sorted(same, key=lambda name: (self._is_linked(name), name)) for same in of_file.values() if same[1:]]

    def _is_linked(self, name: str) -> bool:
        return os.path.realpath(self.root / name) != os.path.join(os.path.realpath(self.root), name)  # noqa: PTH118

    def is_own(self, name: str) -> bool:
        """Whether a file is the user's list."""
        return self.csv is not None and (self.root / name).resolve() == self.csv.resolve()

    def notes(self) -> list[str]:
        """What was skipped, and why."""
        left_out = {reason: [n for n in names if not self.is_own(n)] for reason, names in self.left_out.items()}
        notes = [f"left out: {reason}: {len(names):,} ({some(names)})" for reason, names in left_out.items() if names]
        if self.csv is None and (lists := may_be_lists(left_out[BESIDE] + left_out[_EMPTY])):
            notes.append(
                f"not read: {some(lists)}; if that says which videos are for test, give it to --splits as a CSV"
            )
        return notes


def is_clutter(entry: str) -> bool:
    """Whether an operating system or a program put a file or folder of that name beside the videos."""
    return entry.startswith(".") or entry.lower() in _CLUTTER


def _status(path: Path) -> os.stat_result | None:
    """None if nothing is there, for example behind a broken link."""
    try:
        return path.stat()
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino
