"""Reads a store's files through fsspec."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from resact.cache.files import require_size


class RemoteFiles:
    """Files of one of fsspec's file systems, such as those below `s3://bucket/ucf101.zarr`.

    Args:
        url: URL of the store.
        system: fsspec's file system.
        root: the store's path in it.
    """

    can_list = True

    def __init__(self, url: str, system: Any, root: str) -> None:
        self.address, self._opened, self._root, self._pid = url, system, root, os.getpid()
        # Web servers decode percent signs, of which names have some; such as `simplecache::https://...` ends at one.
        self._quoted = root.startswith(("http://", "https://"))

    def __str__(self) -> str:
        return without_secrets(self.address)

    @property
    def system(self) -> Any:
        """Fsspec's file system; a forked process, such as a loader's worker, needs its own."""
        if self._pid != os.getpid():
            import fsspec

            self._opened, self._pid = fsspec.core.url_to_fs(self.address)[0], os.getpid()
        return self._opened

    def path_of(self, name: str) -> str:
        """A file's path in fsspec's file system."""
        return f"{self._root}/{quote(name) if self._quoted else name}"

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        with self.in_one_line(name):
            return bool(self.system.exists(self.path_of(name)))

    def read(self, name: str) -> bytes:
        """A whole file."""
        with self.in_one_line(name):
            return bytes(self.system.cat_file(self.path_of(name)))

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """One range request."""
        try:
            with self.in_one_line(name):
                return bytes(self.system.cat_file(self.path_of(name), start=start, end=stop))
        except OSError as error:
            # S3 refuses a range that begins where the object has ended; files give nothing there.
            if error.errno == errno.EINVAL and self.size(name) <= start:
                return b""
            raise

    def size(self, name: str) -> int:
        """Bytes of a file."""
        with self.in_one_line(name):
            return int(self.system.size(self.path_of(name)))

    def list(self, name: str) -> "list[str]":
        """Current names in a folder."""
        folder = self.path_of(name).rstrip("/")
        with self.in_one_line(name):
            self.system.invalidate_cache(folder)
            entries = [entry.rstrip("/") for entry in self.system.ls(folder, detail=False)]
        # Some tools make an empty object in a folder's place.
        return sorted(entry.rpartition("/")[2] for entry in entries if entry.strip("/") != folder.strip("/"))

    def map(self, name: str, dtype: np.dtype[Any], length: int, tail_bytes: int) -> npt.NDArray[Any]:
        """Downloads the whole file."""
        data = self.read(name)
        require_size(name, len(data), length * dtype.itemsize + tail_bytes)
        return np.frombuffer(data, dtype, length)

    @contextmanager
    def in_one_line(self, name: str) -> Iterator[None]:
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


def without_secrets(url: str) -> str:
    """A URL without password and query (which may be a signature), to be printed and stored in runs."""
    bare = re.sub(r"(https?://[^?]*)\?.*", r"\1", url)
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1@", bare).rstrip("/")
