"""A server on loopback that answers as it is told, and keeps account."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Files:
    """What the server has, and what happened."""

    content: dict[str, bytes]
    etag: str | None = '"one"'
    modified: str | None = None
    answers: list[str] = field(default_factory=list)
    """What to do with the next requests, one each; then `well`. `break N`: close after N bytes; `stall N`: fall silent
    after N bytes; `hold N`: wait for `release` after N bytes; `ignore`: send the whole file whatever was asked for;
    `short`, `long`: a Content-Length 10 bytes off; `endless`: no Content-Length, and more bytes than the file has;
    `wrong`: another range; a number: that status."""
    address: str = ""
    sent: list[int] = field(default_factory=list)
    """Bytes of the file, for each request."""
    ranges: list[str | None] = field(default_factory=list)
    """What was asked for."""
    held: threading.Event = field(default_factory=threading.Event)
    """Set when `hold` waits."""
    release: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serve(files: Files) -> Iterator[Files]:
    """Until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            answer, _, number = (files.answers.pop(0) if files.answers else "well").partition(" ")
            asked = self.headers.get("Range")
            files.ranges.append(asked)
            files.sent.append(0)
            self.close_connection = True
            content = files.content.get(self.path.lstrip("/"))
            if answer.isdigit() or content is None:
                self.send_response(int(answer) if answer.isdigit() else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            same = self.headers.get("If-Range") in (files.etag, files.modified)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and same and answer != "ignore" else 0
            body = content[start:]
            self.send_response(206 if start else 200)
            if start:
                said = start + 1 if answer == "wrong" else start
                self.send_header("Content-Range", f"bytes {said}-{len(content) - 1}/{len(content)}")
            if answer != "endless":
                off = {"short": -10, "long": 10}.get(answer, 0)
                self.send_header("Content-Length", str(len(body) + off))
            for name, value in (("ETag", files.etag), ("Last-Modified", files.modified)):
                if value:
                    self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            rest = body[int(number) :] if answer == "hold" else b""
            body = body[: int(number)] if number else body + b"more" if answer == "endless" else body
            files.sent[-1] = len(body)  # before the last byte: the client may be done before this thread goes on
            try:
                self.wfile.write(body)
                self.wfile.flush()
            except OSError:
                files.sent[-1] = 0
                return
            if answer == "stall":
                files.release.wait()
            if answer == "hold":
                files.held.set()
                files.release.wait()
                files.sent[-1] += len(rest)
                self.wfile.write(rest)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    files.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield files
    finally:
        files.release.set()
        server.shutdown()
        thread.join()
        server.server_close()
