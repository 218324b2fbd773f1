"""Reading a store's files, from a local path or from any fsspec URL."""

import errno
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from resact.errors import DamagedError


class Files(Protocol):
    """Names are relative to the store, with forward slashes; `str()` gives its address."""

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
        """A file of `length` numbers and `tail_bytes` as a read-only array of the former, mapped where it can be.

        Raises:
            DamagedError: the file has another size.
        """


def require_size(name: str, got: int, expected: int) -> None:
    """Refuse a column of the index that is cut or too long."""
    if got != expected:
        raise DamagedError(f"{name}: {got} bytes, expected {expected}: run `resact verify STORE --rebuild-index`")


class LocalFiles:
    """Files below a local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.root / name).exists()

    def read(self, name: str) -> bytes:
        """A whole file."""
        return (self.root / name).read_bytes()

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """One `pread`, unless the kernel gives less: over 2 GB, or where a network file system was interrupted."""
        descriptor = os.open(f"{self.root}/{name}", os.O_RDONLY)
        try:
            parts = [os.pread(descriptor, stop - start, start)]
            while parts[-1] and (missing := stop - start - sum(map(len, parts))):
                parts.append(os.pread(descriptor, missing, stop - missing))
        finally:
            os.close(descriptor)
        return parts[0] if len(parts) == 1 else b"".join(parts)

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


class RemoteFiles:
    """Files below an fsspec URL, such as `s3://bucket/ucf101.zarr`."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url.rstrip("/")
        self._system, self._root = fsspec.core.url_to_fs(self.url)

    def __str__(self) -> str:
        return self.url

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self._system.exists(f"{self._root}/{name}"))

    def read(self, name: str) -> bytes:
        """A whole file."""
        return self._cat(name)

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """One range request."""
        try:
            return self._cat(name, start=start, end=stop)
        except OSError as error:
            # S3 refuses a range that begins where the object has ended; files give nothing there.
            if error.errno == errno.EINVAL and self.size(name) <= start:
                return b""
            raise

    def _cat(self, name: str, **span: int) -> bytes:
        try:
            return bytes(self._system.cat_file(f"{self._root}/{name}", **span))
        except OSError:
            raise
        except Exception as error:  # each of fsspec's file systems may raise its own
            raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return int(self._system.size(f"{self._root}/{name}"))

    def list(self, name: str) -> "list[str]":
        """Names in a folder."""
        entries = self._system.ls(f"{self._root}/{name}".rstrip("/"), detail=False)
        return sorted(entry.rstrip("/").rpartition("/")[2] for entry in entries)

    def map(self, name: str, dtype: np.dtype[Any], length: int, tail_bytes: int) -> npt.NDArray[Any]:
        """Fetched whole."""
        data = self.read(name)
        require_size(name, len(data), length * dtype.itemsize + tail_bytes)
        return np.frombuffer(data, dtype, length)


def open_files(path: str | os.PathLike[str]) -> Files:
    """Local for a path or a `file://` URL, remote for every other URL."""
    text = os.fspath(path)
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "file":
        return RemoteFiles(text)
    return LocalFiles(Path(rest if separator else text))
