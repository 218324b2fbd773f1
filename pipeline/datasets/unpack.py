"""Unpacks ZIP and RAR archives into a folder: every file is checked, none lies outside, and it can be resumed.

Each file gets its name only when it is complete, so existing files do not have to be unpacked again.
"""

import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from resact.cache.layout import printable
from resact.errors import SourceError, ToolError

Progress = Callable[[int], None]
"""Called with the number of bytes just unpacked."""

_TINY_RAR = bytes.fromhex(  # one stored file `x` of two bytes
    "526172211a0700cf907300000d00000000000000750f740080210002000000020000000347dddc790000000014300100a4810000786f6b"
    "c43d7b00400700"
)
_COPY_BYTES = 1 << 20
_ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


@dataclass(frozen=True)
class _Member:
    """A file in an archive."""

    name: str
    size: int
    """Bytes, unpacked."""
    is_link: bool
    copy: Callable[[IO[bytes]], None]
    """Writes its bytes; raises `SourceError` if they do not match their checksum."""
    skip: Callable[[], None]


def unpack(archive: Path, folder: Path, *, progress: Progress = lambda _: None) -> int:
    """Unpack a `.zip` or `.rar`.

    Args:
        archive: the file.
        folder: destination, created if needed. Existing files of the right size are kept.
        progress: called with the number of bytes just unpacked.

    Returns:
        The number of files in the archive.

    Raises:
        SourceError: the archive is damaged, or has a path that leads out of the folder, or a link.
        ToolError: RAR files cannot be read here.
    """
    members = _rar if archive.suffix.lower() == ".rar" else _zip
    for member in members(archive, listing=True):  # before anything is written
        _inside(archive, member)
        member.skip()
    files = 0
    for member in members(archive, listing=False):
        target = folder / _inside(archive, member)
        files += 1
        if target.is_file() and target.stat().st_size == member.size:
            member.skip()
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_name(f"{target.name}.unpacking")
            with unfinished.open("wb") as file:
                member.copy(file)
                file.flush()
                os.fsync(file.fileno())
            if unfinished.stat().st_size != member.size:
                raise SourceError(f"{archive}: {printable(member.name)} ends early: the archive is damaged")
            unfinished.replace(target)
        progress(member.size)
    return files


def unpack_nested(archive: Path, folder: Path, *, progress: Progress = lambda _: None) -> int:
    """Unpack an archive of archives, and the inner archives into one folder.

    Args:
        archive: the file; other files in it than archives are ignored.
        folder: as in `unpack`. `FOLDER.archives` beside it keeps the inner archives until all are unpacked.
        progress: as in `unpack`.

    Returns:
        The number of files in the inner archives.

    Raises:
        SourceError: an archive is damaged, or has a path that leads out of the folder, or a link, or the outer one
            has no archives.
        ToolError: nothing here can read RAR.
    """
    within = folder.with_name(f"{folder.name}.archives")
    unpack(archive, within)
    inner = sorted(path for path in within.rglob("*") if path.suffix.lower() in (".rar", ".zip"))
    if not inner:
        raise SourceError(f"{archive} holds no archives, so it is not the expected file: fetch it again")
    files = sum(unpack(path, folder, progress=progress) for path in inner)
    shutil.rmtree(within)
    return files


def require_rar() -> None:
    """Check that RAR archives can be read here, by reading one.

    Raises:
        ToolError: they cannot be read.
    """
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch, "tiny.rar")
        archive.write_bytes(_TINY_RAR)
        try:
            unpack(archive, Path(scratch, "out"))
            works = Path(scratch, "out", "x").read_bytes() == b"ok"
        except (SourceError, OSError) as error:
            raise ToolError(f"RAR archives cannot be read here ({error}): reinstall unrar2-cffi") from None
    if not works:
        raise ToolError("RAR archives are not read correctly here: reinstall unrar2-cffi")


def _inside(archive: Path, member: _Member) -> PurePosixPath:
    """The member's path below the folder.

    Raises:
        SourceError: it would lie outside the folder, or is a link.
    """
    path = PurePosixPath(member.name.replace("\\", "/"))
    parts = path.parts
    if path.is_absolute() or not parts or ".." in parts or ":" in parts[0] or "\0" in member.name or member.is_link:
        kind = "a link" if member.is_link else "a path that leads out of its folder"
        raise SourceError(
            f"{archive} has {kind}, {printable(member.name)!r}: nothing of it was written; fetch it again"
        )
    return path


def _zip(archive: Path, *, listing: bool) -> Iterator[_Member]:  # noqa: ARG001 - a ZIP is opened alike for both
    with _damage_as_error(archive, *_ZIP_DAMAGE):
        opening = zipfile.ZipFile(archive)
    with opening as opened:
        for info in opened.infolist():
            if not info.is_dir():
                is_link = stat.S_ISLNK(info.external_attr >> 16)
                copy = partial(_copy_zip, archive, opened, info)
                yield _Member(info.filename, info.file_size, is_link, copy, lambda: None)


def _copy_zip(archive: Path, opened: zipfile.ZipFile, info: zipfile.ZipInfo, file: IO[bytes]) -> None:
    with _damage_as_error(archive, *_ZIP_DAMAGE), opened.open(info) as source:
        shutil.copyfileobj(source, file, _COPY_BYTES)


def _rar(archive: Path, *, listing: bool) -> Iterator[_Member]:
    try:
        from unrar.cffi import unrarlib  # type: ignore[import-untyped]
    except ImportError as error:
        raise ToolError(f"nothing here can read RAR archives ({error}): `pip install unrar2-cffi`") from None
    opener = unrarlib.RarArchive.open_for_metadata if listing else unrarlib.RarArchive.open_for_processing
    with _damage_as_error(archive, unrarlib.BadRarFile):
        opening = opener(archive)
    with opening as opened:
        for header in opened.iterate_headers():
            if header.Flags & unrarlib.FLAGS_RHDF_DIRECTORY:
                header.skip()
                continue
            size = header.UnpSize + (header.UnpSizeHigh << 32)
            copy = partial(_copy_rar, archive, header, unrarlib.BadRarFile)
            yield _Member(header.FileNameW, size, _is_rar_link(header), copy, header.skip)


def _is_rar_link(header: Any) -> bool:
    data = header.headerDataEx
    return bool(data.RedirType) or (data.HostOS == 3 and stat.S_ISLNK(data.FileAttr))  # 3: made on Unix


def _copy_rar(archive: Path, header: Any, damage: type[Exception], file: IO[bytes]) -> None:
    """The library only prints exceptions of its callback, so they are kept and raised afterwards."""
    failures: list[BaseException] = []

    def write(chunk: bytes) -> None:
        try:
            if not failures:
                file.write(chunk)
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    with _damage_as_error(archive, damage):
        header.test(write)
    if failures:
        raise failures[0]


@contextmanager
def _damage_as_error(archive: Path, *kinds: type[Exception]) -> Iterator[None]:
    try:
        yield
    except kinds as error:
        raise SourceError(f"{archive} is damaged ({error}): remove it and run this again") from None
