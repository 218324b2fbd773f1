"""Where `resact copy` writes: a folder or a bucket. A file is put in its place whole, or not at all."""

import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from hashlib import md5

from resact.cache.address import open_files
from resact.cache.durable import disk_failure_as_error, link, store_lock, sync_folder, write_file
from resact.cache.files import Files, LocalFiles
from resact.cache.http_files import HttpFiles
from resact.cache.layout import DOCUMENT, FAILED, INDEX, PARTIAL, POINTER
from resact.cache.remote_files import RemoteFiles
from resact.cache.verify import PART_BYTES
from resact.errors import StoreError, UsageError

_MD5 = re.compile("[0-9a-f]{32}")


class Target(ABC):
    """A place for a store. Names are relative to it."""

    def __init__(self, files: Files) -> None:
        self.files = files

    @contextmanager
    def working(self) -> Iterator[None]:
        """A context in which what a file system or server refuses is one clear error.

        Raises:
            StoreError, DiskFullError: in place of each OSError.
        """
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"the copy to {self.files} stopped ({error.strerror or error}): check your rights, and that the file "
                "system or server answers; the same command continues"
            ) from error

    @abstractmethod
    def held(self, pointer: bytes) -> AbstractContextManager[None]:
        """A context in which no other process of this machine writes there; an empty place gets this pointer first."""

    @abstractmethod
    def size_and_md5(self, name: str) -> tuple[int, str | None] | None:
        """Bytes of a file and its MD5, if that is known without reading it; None without such a file."""

    @abstractmethod
    def put(self, name: str, parts: Iterable[bytes | memoryview], size: int) -> str | None:
        """Write a file, or replace it. If the parts end in an exception, it is not touched.

        Args:
            name: of the file.
            parts: its bytes.
            size: their number.

        Returns:
            Its MD5, if all of it was in memory.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file or folder, if it is there."""

    @abstractmethod
    def settle(self) -> None:
        """Return once all that was put survives a power cut."""


def open_target(path: str | os.PathLike[str]) -> Target:
    """A folder for a path or a `file://` URL, a bucket for any other URL.

    Raises:
        UsageError: a file, or a web server.
        UsageError, ToolError, StoreError: as in `open_files`.
    """
    files = open_files(path)
    if isinstance(files, LocalFiles):
        if files.root.exists() and not files.root.is_dir():
            raise UsageError(f"got {files}, expected a folder or a new name: it is a file")
        return FolderTarget(files)
    if isinstance(files, HttpFiles) or not isinstance(files, RemoteFiles):
        raise UsageError(
            f"got {files} to copy to, expected a folder or a bucket such as s3://: web servers take no files"
        )
    return BucketTarget(files)


class FolderTarget(Target):
    """A folder of this machine: each file is synced before it gets its name."""

    files: LocalFiles

    @contextmanager
    def working(self) -> Iterator[None]:
        """As in `Target`."""
        with super().working(), disk_failure_as_error(self.files.root):
            yield

    @contextmanager
    def held(self, pointer: bytes) -> Iterator[None]:
        """As in `Target`: `flock` on the root document, or on the pointer of a copy that is not finished."""
        root = self.files.root
        if not self.files.exists(DOCUMENT) and not self.files.exists(POINTER):
            with self.working():
                (root / PARTIAL).mkdir(parents=True, exist_ok=True)
                with suppress(FileExistsError):  # another copy was first: which of the two, the caller looks
                    write_file(root, POINTER, [pointer], publish=link)
                sync_folder(root.parent)
        with store_lock(root, DOCUMENT if self.files.exists(DOCUMENT) else POINTER):
            yield

    def size_and_md5(self, name: str) -> tuple[int, str | None] | None:
        """As in `Target`; no file system knows a file's MD5."""
        try:
            return self.files.size(name), None
        except (FileNotFoundError, NotADirectoryError):
            return None

    def put(self, name: str, parts: Iterable[bytes | memoryview], size: int) -> str | None:  # noqa: ARG002
        """As in `Target`; no part is kept in memory."""
        with self.working():
            (self.files.root / name).parent.mkdir(parents=True, exist_ok=True)
            write_file(self.files.root, name, parts)
        return None

    def remove(self, name: str) -> None:
        """As in `Target`."""
        path = self.files.root / name
        with self.working():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            sync_folder(path.parent)

    def settle(self) -> None:
        """As in `Target`: the files are synced, and so are the names of their folders now."""
        with self.working():
            for name in ("", INDEX, FAILED):
                sync_folder(self.files.root / name)


class BucketTarget(Target):
    """A bucket, or whatever fsspec writes to. Nothing is locked there: two copies of one store write the same bytes."""

    files: RemoteFiles

    @contextmanager
    def held(self, pointer: bytes) -> Iterator[None]:
        """As in `Target`."""
        if not self.files.exists(DOCUMENT) and not self.files.exists(POINTER):
            self.put(POINTER, [pointer], len(pointer))
        yield

    def size_and_md5(self, name: str) -> tuple[int, str | None] | None:
        """As in `Target`: what the bucket says of an object."""
        try:
            return size_and_md5(self.files, name)
        except FileNotFoundError:
            return None

    def put(self, name: str, parts: Iterable[bytes | memoryview], size: int) -> str | None:
        """As in `Target`: one request, or for large files one per part and one that makes them an object."""
        path = self.files.path_of(name)
        if size <= 2 * PART_BYTES:
            data = b"".join(parts)
            with self._writing(name):
                self.files.system.pipe_file(path, data)
            return md5(data, usedforsecurity=False).hexdigest()
        with self._writing(name):
            file = self.files.system.open(path, "wb", block_size=PART_BYTES, autocommit=False)
        try:
            for part in parts:
                with self._writing(name):
                    file.write(part)
            with self._writing(name):
                file.close()
                file.commit()
        except BaseException:
            with suppress(Exception):  # what was wrong before is what counts
                file.close()
            with suppress(Exception):
                file.discard()
            raise
        return None

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            with self.working(), self.files.in_one_line(name):
                yield
        except StoreError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise StoreError(f"cannot write to {self.files}, as its bucket does not exist: make it first") from None
            raise

    def remove(self, name: str) -> None:
        """As in `Target`."""
        path = self.files.path_of(name)
        with self.working(), suppress(FileNotFoundError), self.files.in_one_line(name):
            self.files.system.invalidate_cache(path)
            for found in self.files.system.find(path):  # `rm` would take brackets in a name for a pattern
                self.files.system.rm_file(found)

    def settle(self) -> None:
        """As in `Target`: an object that a bucket has taken is safe."""


def size_and_md5(files: RemoteFiles, name: str) -> tuple[int, str | None]:
    """Bytes of an object and, if its ETag looks like one, its MD5; buckets that encrypt have another number there.

    Raises:
        FileNotFoundError: there is no such object.
    """
    with files.in_one_line(name):
        entry = files.system.info(files.path_of(name))
    etag = str(entry.get("ETag", "")).strip('"')
    return int(entry["size"]), etag if _MD5.fullmatch(etag) else None
