"""Output files of commands: checked before the work, and written atomically."""

from pathlib import Path

from resact.errors import UsageError


def require_writable(path: Path, option: str = "--output") -> None:
    """Refuse an output file that cannot be written, before any work; the disk may still become full.

    Raises:
        UsageError: it is a folder, or its parent folder is missing or not writable.
    """
    if problem := write_problem(path):
        raise UsageError(f"got {option} {path}, expected a file in a writable folder ({problem})")


def write_problem(path: Path) -> str | None:
    """Why a file cannot be written, in words; None if it can. Nothing is written."""
    from tempfile import TemporaryFile

    if _is_special(path):
        return None
    try:
        with TemporaryFile(dir=path.resolve().parent):
            return "a folder has that name" if path.is_dir() else None
    except OSError as error:
        return error.strerror


def write_output(path: Path, data: bytes) -> None:
    """Write the file atomically, or leave the old one unchanged. A link keeps pointing to its file.

    Raises:
        DiskFullError: the disk is full.
    """
    from uuid import uuid4

    from resact.cache.durable import disk_failure_as_error, write_replacing

    if _is_special(path):
        path.write_bytes(data)
        return
    target = path.resolve()
    with disk_failure_as_error(target.parent):
        # Of its own, as two commands may write the same file; and short, as the file's name may be as long as can be.
        write_replacing(target, data, attempt=target.with_name(f".{uuid4().hex}.partial"))


def _is_special(path: Path) -> bool:
    """Whether it is a device or a pipe, such as /dev/stdout, which cannot be replaced atomically."""
    return path.exists() and not path.is_file() and not path.is_dir()
