"""A web server on loopback for a folder. It decodes paths, as servers do; the rest is as it is told."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fsspec.implementations.http import HTTPFileSystem

Answer = Callable[[SimpleHTTPRequestHandler], bool]
"""Whether it has answered itself."""


@dataclass
class WebServer:
    """What it does, and what it was asked."""

    folder: Path
    ranges: bool = True
    """Whether it knows any; `python -m http.server` does not."""
    instead: Answer = lambda _: False
    """Asked first."""
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Path with query as it came, and the range."""
    address: str = ""
    gone: bool = False

    def take(self) -> list[tuple[str, str | None]]:
        """What was asked since the last time."""
        taken, self.asked = self.asked, []
        return taken


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: the second one would wait for the client's acknowledgement

    def __init__(self, server: WebServer, *arguments: Any, **options: Any) -> None:
        self.web = server
        super().__init__(*arguments, **options)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        span = self.headers.get("Range")
        self.web.asked.append((self.path, span))
        if self.web.gone or self.web.instead(self):
            self.close_connection |= self.web.gone
            return
        path = Path(self.translate_path(self.path))
        if not self.web.ranges or span is None or not path.is_file():
            super().do_GET()
            return
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", span)
        assert match, span
        data = path.read_bytes()
        start, stop = int(match[1]), min(int(match[2] or len(data)) + 1, len(data))
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        self.wfile.write(data[start:stop])


@contextmanager
def serve(folder: Path, **settings: Any) -> Iterator[WebServer]:
    """Until the block ends."""
    web = WebServer(folder, **settings)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, web, directory=str(folder)))
    server.daemon_threads = True
    web.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield web
    finally:
        web.gone = True  # for connections that are kept
        server.shutdown()
        thread.join()
        server.server_close()
        HTTPFileSystem.clear_instance_cache()  # whose sessions are with this server
