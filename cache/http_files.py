"""Reading a store's files from a web server. Servers decode percent signs, may ignore ranges, and list no folders.

fsspec keeps the session, so its settings for `http` and `https` (headers, logins, proxies) apply here too. But it hides
the server's answer, and mistakes a whole file for the requested part. So requests are made here.
"""

import asyncio
import errno
import re
import warnings
from typing import Any
from urllib.parse import quote, urlsplit

from resact.cache.remote_files import RemoteFiles
from resact.errors import SlowServerWarning, UsageError

_RESERVED = "%/:?#[]@!$&'()*+,;="  # of an address that a person typed: none of it is changed
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class HttpFiles(RemoteFiles):
    """Files below an `http://` or `https://` URL; its query, such as a signature, is sent with every request.

    Args:
        url: of the store.
        system: fsspec's file system for it.
    """

    can_list = False

    def __init__(self, url: str, system: Any) -> None:
        parts = urlsplit(url)
        if "#" in url:
            raise UsageError(f"got {url}, expected a URL without #: write %23 where a folder's name has it")
        super().__init__(url, system, "")
        self._base = quote(f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/"), safe=_RESERVED)
        self._query = f"?{quote(parts.query, safe=_RESERVED)}" if parts.query else ""
        self._sends_parts = True

    def exists(self, name: str) -> bool:
        """Whether the server has such a file."""
        try:
            self.read_range(name, 0, 1)
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str) -> bytes:
        """A whole file, requested as a range: so the first file already shows whether the server supports ranges."""
        return self._get(name, 0, None)[0]

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """One request; if the server sends the whole file, the range is cut out of it."""
        return self._get(name, start, stop)[0] if start < stop else b""

    def size(self, name: str) -> int:
        """Bytes of a file."""
        size = self._get(name, 0, 1)[1]
        return len(self.read(name)) if size is None else size

    def list(self, name: str) -> "list[str]":
        """Web servers have no agreed way to list a folder."""
        raise OSError(errno.ENOTSUP, f"{self}/{name}: web servers list no folders")

    def _get(self, name: str, start: int, stop: int | None) -> tuple[bytes, int | None]:
        """Bytes [start, stop) of a file, and the size of all of it where the server says so."""
        import aiohttp
        from fsspec.asyn import sync

        try:
            data, size, whole = sync(self.system.loop, self._ask, name, start, stop)
        except TimeoutError as error:
            raise TimeoutError(errno.ETIMEDOUT, "no answer in time") from error
        except OSError:
            raise
        except aiohttp.TooManyRedirects as error:
            raise OSError(errno.ELOOP, "it redirects without end") from error
        except aiohttp.ClientError as error:
            words = " ".join(str(error).replace(self._query, "").split()) if self._query else str(error)
            raise OSError(errno.EIO, f"{type(error).__name__}: {words}") from error
        if whole and self._sends_parts:
            self._sends_parts = False
            warnings.warn(
                f"{self}: its server ignores byte ranges, so each read fetches a file from its start: serve the store "
                "with one that supports them (nginx, Apache, object stores), or copy it here",
                SlowServerWarning,
                stacklevel=2,
            )
        return data, size

    async def _ask(self, name: str, start: int, stop: int | None) -> tuple[bytes, int | None, bool]:
        """Also whether the server sent the whole file instead of a part."""
        from yarl import URL

        address = URL(f"{self._base}/{quote(name)}{self._query}", encoded=True)
        span = f"bytes={start}-{'' if stop is None else stop - 1}"
        options = dict(self.system.kwargs)
        headers = {**options.pop("headers", {}), "Range": span, "Accept-Encoding": "identity"}
        session = await self.system.set_session()
        async with session.get(address, headers=headers, **options) as answer:
            said = f"{answer.status} {answer.reason}"
            if answer.status in (404, 410):
                raise FileNotFoundError(errno.ENOENT, said, f"{self}/{name}")
            if answer.status in (401, 403):
                raise PermissionError(errno.EACCES, said)
            if answer.status == 416:  # it begins where the file has ended
                return b"", start, False
            if answer.status == 206:
                return await answer.read(), _size_of_all(answer.headers.get("Content-Range", ""), span, start), False
            if answer.status != 200:
                raise OSError(errno.EIO, said)
            data = await _begin(answer, stop)
            if answer.content_type == "text/html" and data.lstrip().startswith(b"<"):
                # Such as a login, or what is shown in place of what is not there.
                raise FileNotFoundError(errno.ENOENT, "its server gives a web page instead", f"{self}/{name}")
            return data[start:], len(data) if stop is None else int(answer.headers.get("Content-Length", -1)), True


def _size_of_all(content_range: str, span: str, start: int) -> int:
    match = _CONTENT_RANGE.fullmatch(content_range)
    if match is None or int(match[1]) != start:
        raise OSError(errno.EIO, f"asked for {span}, its server gives {content_range or 'a part without saying which'}")
    return int(match[2])


async def _begin(answer: Any, stop: int | None) -> bytes:
    """The first bytes of a file, or all of it; the rest is not waited for."""
    if stop is None:
        return bytes(await answer.read())
    try:
        return bytes(await answer.content.readexactly(stop))
    except asyncio.IncompleteReadError as error:
        return error.partial
