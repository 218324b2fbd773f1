"""The interface for reading a store's files, and its implementation for a local folder."""

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from resact.errors import DamagedError


class Files(Protocol):
    """A store's files. Names are relative to it, with forward slashes; `str()` gives its address without secrets."""

    @property
    def can_list(self) -> bool:
        """Whether `list` works."""

    @property
    def address(self) -> str:
        """The address with secrets, which `open_files` can open again."""

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    def read(self, name: str) -> bytes:
        """A whole file.

        Raises:
            FileNotFoundError: there is none.
        """

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop) in one request; fewer where the file ends earlier.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: the file system or server does not answer, or refuses.
        """

    def size(self, name: str) -> int:
        """Bytes of a file."""

    def list(self, name: str) -> "list[str]":
        """Names in a folder, sorted."""

    def map(self, name: str, dtype: np.dtype[Any], length: int, tail_bytes: int) -> npt.NDArray[Any]:
        """The `length` numbers of a file that ends in `tail_bytes` more bytes, read-only, memory-mapped if possible.

        Raises:
            DamagedError: the file has another size.
        """


def require_size(name: str, got: int, expected: int) -> None:
    """Refuse an index column that is truncated or too long."""
    if got != expected:
        raise DamagedError(f"{name}: {got} bytes, expected {expected}: run `resact verify STORE --rebuild-index`")


class LocalFiles:
    """Files below a local folder."""

    can_list = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = str(root)

    def __str__(self) -> str:
        return str(self.root)

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.root / name).exists()

    def read(self, name: str) -> bytes:
        """A whole file."""
        return (self.root / name).read_bytes()

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """One `pread`, or more if the kernel returns less."""
        descriptor = os.open(f"{self.root}/{name}", os.O_RDONLY)
        try:
            return read_open_file(descriptor, start, stop)
        finally:
            os.close(descriptor)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return (self.root / name).stat().st_size

    def list(self, name: str) -> "list[str]":
        """Names in a folder."""
        return sorted(path.name for path in (self.root / name).iterdir())

    def map(self, name: str, dtype: np.dtype[Any], length: int, tail_bytes: int) -> npt.NDArray[Any]:
        """Memory-mapped."""
        path = self.root / name
        require_size(name, path.stat().st_size, length * dtype.itemsize + tail_bytes)
        # As a plain array: slicing a `memmap` takes ten times as long, and every clip does.
        return np.memmap(path, dtype, "r", shape=(length,)).view(np.ndarray)


def read_open_file(descriptor: int, start: int, stop: int) -> bytes:
    """Bytes [start, stop), fewer where the file ends earlier.

    One `pread`, or more if the kernel returns less: over 2 GB, or after an interrupted network file system.
    """
    parts = [os.pread(descriptor, stop - start, start)]
    while parts[-1] and (missing := stop - start - sum(map(len, parts))):
        parts.append(os.pread(descriptor, missing, stop - missing))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_if_there(files: Files, name: str) -> bytes | None:
    """An optional file of a store; None if it does not exist."""
    try:
        return files.read(name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        if isinstance(files, LocalFiles):
            raise
        return None  # as buckets say of what they do not hold to those who may not list it
