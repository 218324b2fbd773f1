"""Locks on files that others may create, rename or remove at any moment: `flock`, which ends with the process."""

import fcntl
import os
import time
from pathlib import Path
from typing import IO

_POLL_SECONDS = 0.01


def open_locked(path: Path, *, wait_seconds: float = 0.0) -> IO[bytes] | None:
    """Open a file to read and write, and lock it; it is created if there is none, and keeps its content if there is.

    Args:
        path: the file, in a folder that exists.
        wait_seconds: how long to try.

    Returns:
        The file, which unlocks it when closed; None if another process holds the lock all this time.
    """
    end = time.monotonic() + wait_seconds
    while True:
        # For writing, because NFS grants exclusive locks only then; not emptied, as it may be another's.
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(file.fileno(), path):
                return file
        except BlockingIOError:
            if time.monotonic() > end:
                file.close()
                return None
            time.sleep(_POLL_SECONDS)
        except BaseException:
            file.close()
            raise
        file.close()  # locked too late: others will open the one that has taken its place


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
