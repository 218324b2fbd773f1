"""Reading a store's files, from a local path or from any fsspec URL."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from resact.errors import DamagedError, StoreError, ToolError, UsageError


class Files(Protocol):
    """Names are relative to the store, with forward slashes; `str()` gives its address, without secrets."""

    @property
    def can_list(self) -> bool:
        """Whether `list` works."""

    @property
    def address(self) -> str:
        """What `open_files` opens again, secrets included."""

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
    """Files of one of fsspec's file systems, such as those below `s3://bucket/ucf101.zarr`.

    Args:
        url: of the store.
        system: the file system.
        root: the store's path in it.
    """

    can_list = True

    def __init__(self, url: str, system: Any, root: str) -> None:
        self.address, self._system, self._root = url, system, root
        # Web servers decode percent signs, of which names have some; such as `simplecache::https://...` ends at one.
        self._quoted = root.startswith(("http://", "https://"))

    def __str__(self) -> str:
        return _without_secrets(self.address)

    def _path(self, name: str) -> str:
        return f"{self._root}/{quote(name) if self._quoted else name}"

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        with self._one_line(name):
            return bool(self._system.exists(self._path(name)))

    def read(self, name: str) -> bytes:
        """A whole file."""
        with self._one_line(name):
            return bytes(self._system.cat_file(self._path(name)))

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """One range request."""
        try:
            with self._one_line(name):
                return bytes(self._system.cat_file(self._path(name), start=start, end=stop))
        except OSError as error:
            # S3 refuses a range that begins where the object has ended; files give nothing there.
            if error.errno == errno.EINVAL and self.size(name) <= start:
                return b""
            raise

    def size(self, name: str) -> int:
        """Bytes of a file."""
        with self._one_line(name):
            return int(self._system.size(self._path(name)))

    def list(self, name: str) -> "list[str]":
        """Names in a folder, as it is now."""
        folder = self._path(name).rstrip("/")
        with self._one_line(name):
            self._system.invalidate_cache(folder)
            entries = [entry.rstrip("/") for entry in self._system.ls(folder, detail=False)]
        # Some tools make an empty object in a folder's place.
        return sorted(entry.rpartition("/")[2] for entry in entries if entry.strip("/") != folder.strip("/"))

    def map(self, name: str, dtype: np.dtype[Any], length: int, tail_bytes: int) -> npt.NDArray[Any]:
        """Fetched whole."""
        data = self.read(name)
        require_size(name, len(data), length * dtype.itemsize + tail_bytes)
        return np.frombuffer(data, dtype, length)

    @contextmanager
    def _one_line(self, name: str) -> Iterator[None]:
        """Each of fsspec's file systems raises its own: an OSError with a name or with words, whatever it was."""
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self}/{name}") from error
        except OSError as error:
            if str(error):
                raise
            raise OSError(errno.EIO, type(error).__name__) from error
        except Exception as error:
            words = " ".join(f"{type(error).__name__}: {error}".split())
            raise OSError(errno.EIO, words) from error


def read_if_there(files: Files, name: str) -> bytes | None:
    """A whole file that a store need not have; None where it is not there."""
    try:
        return files.read(name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        if isinstance(files, LocalFiles):
            raise
        return None  # as buckets say of what they do not hold to those who may not list it


def open_files(path: str | os.PathLike[str]) -> Files:
    """Local for a path or a `file://` URL, remote for every other URL.

    Raises:
        UsageError: no URL of a file system that fsspec knows.
        ToolError: the package for it is not installed.
        StoreError: it cannot be reached as it is set up.
    """
    local = local_path(path)
    if local is not None:
        return LocalFiles(local)
    import fsspec

    url = os.fspath(path)
    if "?" not in url:  # what follows it may be a signature
        scheme, _, rest = url.partition("://")
        url = f"{scheme}://{rest.rstrip('/')}"
    shown = _without_secrets(url)
    try:
        system, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ToolError(f"{shown} needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise UsageError(f"got {shown}, expected a path or a URL such as s3://, gs:// or https://: {error}") from error
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise StoreError(f"cannot reach {shown} ({words}): check its address and your settings for it") from error
    if root.startswith(("http://", "https://")) and root == url:
        from resact.cache.http_files import HttpFiles

        return HttpFiles(url, system)
    return RemoteFiles(url, system, root)


def local_path(path: str | os.PathLike[str]) -> Path | None:
    """The folder that a path or a `file://` URL names; None for every other URL."""
    text = os.fspath(path)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Path(text)
    return Path(rest) if scheme in ("file", "local") else None


def _without_secrets(url: str) -> str:
    """Without password and query, which may be a signature: it is printed, and kept in runs."""
    bare = re.sub(r"(https?://[^?]*)\?.*", r"\1", url)
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1@", bare).rstrip("/")
