"""Writing into a run's folder: a whole file or nothing, and one clear error where it cannot be."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resact.cache.durable import write_replacing
from resact.errors import RunWriteError

_GO_ON = "and continue with `resact train ... --resume`"


@contextmanager
def write_failure_as_error(path: Path, *, what_next: str = _GO_ON) -> Iterator[None]:
    """Say which file could not be written, and what then.

    Args:
        path: of the file.
        what_next: what to do once there is room, or the folder can be written to.

    Raises:
        RunWriteError: the disk is full, the file system is read-only, a limit is reached ...
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = f"make room ({_free(path)} bytes free)" if full else f"make {path.parent} writable"
        raise RunWriteError(
            f"{path} could not be written ({error.strerror}): what was saved before is intact; {remedy}, {what_next}"
        ) from None


def write_whole(path: Path, data: bytes, *, attempt: Path | None = None, what_next: str = _GO_ON) -> None:
    """Put a file there, whole and on the disk, or leave what was there.

    Args:
        path: one writer at a time, unless each has an `attempt` of its own.
        data: all of it.
        attempt: where it is written first, in the same folder.
        what_next: as for `write_failure_as_error`.

    Raises:
        RunWriteError: it could not be written.
    """
    with write_failure_as_error(path, what_next=what_next):
        write_replacing(path, data, attempt=attempt or path.with_name(f".{path.name}.partial"))


def _free(path: Path) -> str:
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    return f"{shutil.disk_usage(folder).free:,}"
