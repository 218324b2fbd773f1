"""Atomic writes of a run's files, with one clear error if a file cannot be written."""

import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from resact.cache.durable import DISK_FULL, UNSUPPORTED, sync_folder, write_replacing
from resact.errors import RunWriteError

_GO_ON = "and continue with `resact train ... --resume`"


@contextmanager
def write_failure_as_error(path: Path, *, what_next: str = _GO_ON) -> Iterator[None]:
    """Turn a failed write into an error that names the file and what to do next.

    Args:
        path: path of the file.
        what_next: what to do once there is space, or the folder is writable.

    Raises:
        RunWriteError: the disk is full, the file system is read-only, a limit is reached, or the like.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            remedy = f"make room ({_free(path)} bytes free)"
        elif error.errno in UNSUPPORTED:
            remedy = f"choose a file system that can do it (`resact doctor {shlex.quote(str(path.parent))}` names it)"
        else:
            remedy = f"make {path.parent} writable"
        raise RunWriteError(
            f"{path} could not be written ({error.strerror}): what was saved before is intact; {remedy}, {what_next}"
        ) from None


def write_whole(path: Path, data: bytes, *, attempt: Path | None = None, what_next: str = _GO_ON) -> None:
    """Replace a file atomically and sync it, or leave it unchanged.

    Args:
        path: the file; one writer at a time, unless each has its own `attempt`.
        data: contents of the file.
        attempt: path that is written first, in the same folder.
        what_next: as in `write_failure_as_error`.

    Raises:
        RunWriteError: it could not be written.
    """
    with write_failure_as_error(path, what_next=what_next):
        write_replacing(path, data, attempt=attempt or path.with_name(f".{path.name}.partial"))


@contextmanager
def put_in_place(path: Path, *, what_next: str) -> Iterator[Path]:
    """A path beside `path`, for what is too large to be held in memory: a file, or a folder where there is none yet.

    It takes its place once it is whole, without an error, and on the disk; until then what was there stays.

    Args:
        path: where it is to be.
        what_next: as in `write_failure_as_error`.

    Raises:
        RunWriteError: it could not be written.
    """
    attempt = path.with_name(f".{uuid4().hex}.partial{path.suffix}")
    try:
        with write_failure_as_error(path, what_next=what_next):
            yield attempt
            for inside in (*attempt.rglob("*"), attempt):
                if inside.is_dir():
                    sync_folder(inside)
                else:
                    _sync_file(inside)
            attempt.replace(path)
            sync_folder(path.parent)
    finally:
        if attempt.is_dir():
            shutil.rmtree(attempt)
        else:
            attempt.unlink(missing_ok=True)


def _sync_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _free(path: Path) -> str:
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    return f"{shutil.disk_usage(folder).free:,}"
