"""Downloads one file over HTTP, completely or not at all: it resumes after a break, and never joins two files.

The bytes go to `NAME.part`; `NAME.part.json` beside it identifies their file (the server's ETag or date). If the file
on the server has changed, `If-Range` detects it, and the download starts again.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import file_digest
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from resact.cache.durable import sync_folder, write_synced
from resact.errors import SourceError

_CHUNK_BYTES = 1 << 20
_AGAIN = {408, 425, 429, 500, 502, 503, 504}
"""HTTP status codes after which another try may help."""

Progress = Callable[[int], None]
"""Called with the number of bytes of the file so far."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file whose content is known beforehand."""

    url: str
    bytes: int | None
    """Size in bytes; None if none is published: `with_size` asks the server."""
    checksum: str | None = None
    """Such as `sha256:5c0d...` or `md5:15e6...`; None if none is published."""

    @property
    def name(self) -> str:
        """The last part of its URL."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to try."""

    tries: int = 6
    """Number of tries in a row without a new byte."""
    wait_seconds: float = 2.0
    """Seconds to wait after the first of them; doubled after each further one."""
    stall_seconds: float = 60.0
    """Seconds without a byte after which a connection counts as broken."""


PATIENCE = Patience()


class _BrokenOffError(Exception):
    """There is no connection, or it ended; another try may help."""


def bytes_there(file: RemoteFile, folder: Path) -> int:
    """Number of a file's bytes that are already downloaded."""
    path = folder / file.name
    return (file.bytes or _size(path)) if path.exists() else _size(_part(path))


def with_size(file: RemoteFile, folder: Path, patience: Patience = PATIENCE) -> RemoteFile:
    """The file with its size: that of the local file, or as reported by the server.

    Raises:
        SourceError: the server does not have the file, does not report its size, or does not answer.
    """
    if file.bytes is not None:
        return file
    if (folder / file.name).exists():
        return replace(file, bytes=_size(folder / file.name))
    for failures in range(patience.tries):
        try:
            headers = {"User-Agent": "resact", "Accept-Encoding": "identity"}
            with _opened(file, headers, patience, method="HEAD") as response:
                said = response.headers.get("Content-Length", "")
            if not said.isdecimal():
                raise SourceError(f"{file.url} does not report its size: {_BY_HAND}")
            return replace(file, bytes=int(said))
        except _BrokenOffError as error:
            reason = str(error)
            if failures + 1 < patience.tries:
                time.sleep(patience.wait_seconds * 2**failures)
    raise SourceError(f"{file.url} does not answer ({reason}): run the same command again, or {_BY_HAND}")


def download(
    file: RemoteFile, folder: Path, *, progress: Progress = lambda _: None, patience: Patience = PATIENCE
) -> Path:
    """Download a file, or the missing part of it, and check its size and checksum.

    Args:
        file: the file and its URL.
        folder: existing folder to write to; no other process may write there at the same time.
        progress: called with the bytes so far.
        patience: when to give up.

    Returns:
        Its path, which exists only when the file is complete.

    Raises:
        SourceError: the server does not have that file, or does not answer; the part downloaded so far is kept.
    """
    path = folder / file.name
    assert file.bytes is not None, "with_size first"
    if path.exists():
        _check(file, path)
        progress(file.bytes)
        return path
    with _part(path).open("r+b" if _part(path).exists() else "w+b") as part:
        failures = 0
        while _length(part) < file.bytes:
            before = _length(part)
            try:
                _fetch_more(file, path, part, progress, patience)
            except _BrokenOffError as error:
                failures = 0 if _length(part) > before else failures + 1
                if failures >= patience.tries:
                    raise SourceError(
                        f"{file.url} broke off {failures} times without a new byte ({error}); {before:,} of "
                        f"{file.bytes:,} bytes are kept: run the same command again to continue"
                    ) from None
                time.sleep(patience.wait_seconds * 2 ** max(failures - 1, 0))
        os.fsync(part.fileno())
        _check(file, _part(path))
        _part(path).replace(path)
        _note(path).unlink(missing_ok=True)
        sync_folder(folder)
    return path


def _fetch_more(file: RemoteFile, path: Path, part: IO[bytes], progress: Progress, patience: Patience) -> None:
    """Download the missing part of the file over one connection, as far as it goes."""
    assert file.bytes is not None
    have, known = _length(part), _read_note(path)
    headers = {"User-Agent": "resact", "Accept-Encoding": "identity"}
    if have and known:
        headers |= {"Range": f"bytes={have}-", "If-Range": known}
    with _opened(file, headers, patience) as response:
        start = _start(file, response, have)
        if start == 0:
            part.truncate(0)
            note = {"url": file.url, "validator": _validator(response)}
            write_synced(_note(path), [json.dumps(note).encode()])
        part.seek(start)
        done = start
        while done <= file.bytes:
            try:
                chunk = response.read1(_CHUNK_BYTES)  # only what has arrived: a timeout would lose the rest
            except (OSError, HTTPException) as error:
                part.flush()
                raise _BrokenOffError(f"{type(error).__name__}: {error}") from None
            if not chunk:
                break
            part.write(chunk)
            done += len(chunk)
            progress(min(done, file.bytes))
        part.flush()
    if done > file.bytes:
        part.truncate(0)
        raise SourceError(f"{file.url} sends more than {file.bytes:,} bytes: it is another file; {_BY_HAND}")
    if done < file.bytes:
        raise _BrokenOffError(f"the connection ended after {done:,} bytes")


_BY_HAND = "fetch it by hand and put it there"


@contextmanager
def _opened(
    file: RemoteFile, headers: dict[str, str], patience: Patience, *, method: str = "GET"
) -> Iterator[HTTPResponse]:
    try:
        request = Request(file.url, headers=headers, method=method)  # noqa: S310 - https, and http in tests
        response = urlopen(request, timeout=patience.stall_seconds)  # noqa: S310 - likewise
    except HTTPError as error:
        if error.code in _AGAIN:
            raise _BrokenOffError(f"HTTP {error.code} {error.reason}") from None
        raise SourceError(f"{file.url} answers HTTP {error.code} {error.reason}: {_BY_HAND}") from None
    except URLError as error:
        if "CERTIFICATE" in str(error.reason):
            raise SourceError(f"{file.url} has no valid certificate ({error.reason}): {_BY_HAND}") from None
        raise _BrokenOffError(str(error.reason)) from None
    except (OSError, HTTPException) as error:
        raise _BrokenOffError(f"{type(error).__name__}: {error}") from None
    with response:
        yield response


def _start(file: RemoteFile, response: HTTPResponse, have: int) -> int:
    """Offset in the file at which the response starts, after checking it and the file's size."""
    start = 0  # the whole file: no range was asked for, the file has changed, or the server knows no ranges
    if response.status == 206:
        start, said = have, response.headers.get("Content-Range", "")
        if not said.startswith(f"bytes {have}-"):
            raise SourceError(f"{file.url} answers {said!r} to a request for bytes from {have:,} on: {_BY_HAND}")
    length = response.headers.get("Content-Length")
    if length is not None and start + int(length) != file.bytes:
        raise SourceError(
            f"{file.url} has {start + int(length):,} bytes, expected {file.bytes:,}: it is another file than the one "
            f"known to resact; {_BY_HAND} if that is right"
        )
    return start


def _check(file: RemoteFile, path: Path) -> None:
    """Check size and checksum.

    Raises:
        SourceError: they differ. A download with a wrong checksum is removed; a file of the user is not.
    """
    if _size(path) != file.bytes:
        raise SourceError(f"{path} has {_size(path):,} bytes, expected {file.bytes:,}: remove it and run this again")
    if file.checksum is not None:
        kind, _, expected = file.checksum.partition(":")
        with path.open("rb") as opened:
            found = file_digest(opened, kind).hexdigest()
        if found != expected:
            if path.suffix == ".part":
                path.unlink()
            raise SourceError(f"{path} has {kind} {found}, expected {expected}: remove it and run this again")


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.json")


def _validator(response: HTTPResponse) -> str | None:
    """The validator for `If-Range`; a weak ETag does not guarantee that all bytes are the same."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _read_note(path: Path) -> str | None:
    """The validator of the partial file; None if unknown: then the download must start again."""
    try:
        validator = json.loads(_note(path).read_bytes())["validator"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return validator if isinstance(validator, str) else None


def _length(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
