"""A bucket on loopback, as slow as a real one: S3's requests for reading, a bandwidth, a latency, and counters."""

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"
_BLOCK_BYTES = 64 << 10
_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'


@dataclass
class ObjectServer:
    """Files of a folder as objects of the bucket `bucket`."""

    folder: Path
    bytes_per_second: float
    """Of all connections together."""
    latency_seconds: float
    """Between each request and its answer."""
    address: str = ""
    requests: int = 0
    sent_bytes: int = 0
    """Of objects, without heads."""
    _free_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables by which clients find it: boto3 and s3fs, LitData's obstore, MosaicML Streaming."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "S3_ENDPOINT_URL": self.address,
        }

    def count_request(self) -> None:
        """Count a request, and let it wait."""
        with self._lock:
            self.requests += 1
        time.sleep(self.latency_seconds)

    def count_block(self, num_bytes: int) -> None:
        """Count bytes, and wait until the line has room for them."""
        with self._lock:
            self.sent_bytes += num_bytes
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + num_bytes / self.bytes_per_second
            wait = self._free_at - now
        time.sleep(wait)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: the second one would wait for the client's acknowledgement

    def __init__(self, bucket: ObjectServer, *arguments: Any) -> None:
        self.bucket = bucket
        super().__init__(*arguments)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        self.bucket.count_request()
        if bucket == BUCKET and not key:
            self._list(parse_qs(parts.query))
            return
        path = self.bucket.folder / key
        if bucket != BUCKET or ".." in path.parts or not path.is_file():
            self.send_error(404)
            return
        self._object(path)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _list(self, query: dict[str, list[str]]) -> None:
        prefix = query.get("prefix", [""])[0]
        folder = self.bucket.folder / prefix.rpartition("/")[0]
        found = sorted(folder.rglob("*")) if folder.is_dir() else []
        keys = [str(path.relative_to(self.bucket.folder)) for path in found if path.is_file()]
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{(self.bucket.folder / key).stat().st_size}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key in keys
            if key.startswith(prefix)
        )
        body = f"{_XML}<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()
        self.send_response(200)
        self._head("application/xml", len(body))
        if self.command == "GET":
            self.wfile.write(body)

    def _object(self, path: Path) -> None:
        size = path.stat().st_size
        span = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "bytes=0-"))
        if span is None or not (span[1] or span[2]):
            self.send_error(400)
            return
        start = int(span[1]) if span[1] else max(0, size - int(span[2]))
        stop = min(int(span[2]) + 1, size) if span[1] and span[2] else size
        if start >= size > 0:
            self.send_error(416)
            return
        self.send_response(206 if "Range" in self.headers else 200)
        if "Range" in self.headers:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self._head("application/octet-stream", stop - start)
        if self.command == "GET":
            with path.open("rb") as file:
                file.seek(start)
                while start < stop:
                    block = file.read(min(_BLOCK_BYTES, stop - start))
                    self.bucket.count_block(len(block))
                    self.wfile.write(block)
                    start += len(block)

    def _head(self, content_type: str, length: int) -> None:
        for name, value in {
            "Content-Type": content_type,
            "Content-Length": str(length),
            "Accept-Ranges": "bytes",
            "ETag": '"0"',
            "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
        }.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serve_bucket(folder: Path, *, bytes_per_second: float, latency_seconds: float) -> Iterator[ObjectServer]:
    """Until the block ends; clients of this process and its children find it through the environment."""
    bucket = ObjectServer(folder, bytes_per_second, latency_seconds)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, bucket))
    server.daemon_threads = True
    bucket.address = f"http://127.0.0.1:{server.server_port}"
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients may leave in the middle
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        with patch.dict(os.environ, bucket.environment):
            yield bucket
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
