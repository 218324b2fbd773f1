"""Stores on web servers: what servers do to names and ranges, and each of their refusals as one line."""

import pickle
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler as Request
from pathlib import Path

import aiohttp
import fsspec
import numpy as np
import pytest
from fsspec.implementations.http import HTTPFileSystem
from tests.cache.conftest import VIDEOS, Built
from tests.cache.web_server import WebServer, serve

from resact.cache.layout import DOCUMENT, SHARD
from resact.cache.store import open_store
from resact.cache.verify import verify_store
from resact.errors import DamagedError, SlowServerWarning, StoreError, StoreNotFoundError, UsageError

SLASHED = "Jump/v_Jump_g01_c01"  # as in stores of a folder: `%2F` in its array's name
SIGNATURE = "sig=a%2Fb+c/&expires=9"


@pytest.fixture
def built(stores) -> Built:
    """Codecs are tested elsewhere."""
    return stores["jpeg"]


@pytest.fixture
def web(built) -> Iterator[WebServer]:
    with serve(built.path.parent) as server:
        yield server


def url(web: WebServer, built) -> str:
    return f"{web.address}/{built.path.name}"


def answer(status: int, body: bytes = b"", **headers: str):
    """An answer in place of the server's own."""

    def send(request: Request) -> bool:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)
        return True

    return send


def test_a_clip_is_one_request_whose_name_is_quoted(built, web: WebServer) -> None:
    store = open_store(url(web, built))
    assert list(store.index.video_id) == list(open_store(built.path).index.video_id)
    web.take()
    for video_id, pixels in built.pixels.items():
        for start, stop in [(0, 1), (0, len(pixels)), (len(pixels) - 1, len(pixels))]:
            assert np.array_equal(store.read(video_id, start, stop), pixels[start:stop])
    assert len(web.asked) == 3 * len(built.pixels)
    assert all(span for _, span in web.asked)
    assert {path.split("/")[2] for path, _ in web.take()} == {
        "Jump%252Fv_Jump_g01_c01", "one%20frame", "v_d%25E4maged.%25C3%25BC", "wide",
    }  # fmt: skip


@pytest.mark.parametrize("ending", ["", "//", f"?{SIGNATURE}", f"/?{SIGNATURE}"])
def test_slashes_and_queries_behind_the_address(ending: str, stores, tmp_path: Path) -> None:
    built = stores["jpeg"].copy(tmp_path / "my stör+e%.zarr")
    query = ending.partition("?")[2]

    def signed(request: Request) -> bool:
        return request.path.partition("?")[2] != query and answer(403)(request)

    with serve(tmp_path, instead=signed) as web:
        store = open_store(f"{web.address}/my st%C3%B6r+e%25.zarr{ending}")
        assert np.array_equal(store.read(SLASHED, 3, 6), built.pixels[SLASHED][3:6])
        again = pickle.loads(pickle.dumps(store))
        assert np.array_equal(again.read("wide", 0, 2), built.pixels["wide"][:2])
        assert str(store.files) == f"{web.address}/my st%C3%B6r+e%25.zarr"  # without what may be a secret
        assert verify_store(store.files.address, threads=1) == (len(VIDEOS), [])


def test_a_server_without_ranges_is_read_right_and_said_once(built) -> None:
    with serve(built.path.parent, ranges=False) as web:
        with pytest.warns(SlowServerWarning, match=f"{url(web, built)}: its server ignores byte ranges"):
            store = open_store(url(web, built))
        for video_id, pixels in built.pixels.items():  # another warning would be an error here
            for start, stop in [(0, 1), (0, len(pixels)), (len(pixels) - 1, len(pixels))]:
                assert np.array_equal(store.read(video_id, start, stop), pixels[start:stop])
        with pytest.warns(SlowServerWarning):
            assert verify_store(url(web, built), threads=1) == (len(VIDEOS), [])


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.filterwarnings("ignore::resact.errors.SlowServerWarning")
def test_damage_behind_a_web_server_is_named(ranges: bool, stores, tmp_path: Path) -> None:
    built = stores["zstd"].copy(tmp_path / "a.zarr")
    with serve(tmp_path, ranges=ranges) as web:
        store, shard = open_store(f"{web.address}/a.zarr"), built.path / "wide" / SHARD
        data, sizes = shard.read_bytes(), built.records["wide"].frame_bytes
        shard.write_bytes(data[: int(sizes[0]) + 7])
        assert np.array_equal(store.read("wide", 0, 1), built.pixels["wide"][:1])
        for start, stop, named in ((0, 3, 1), (1, 2, 1), (2, 3, 2)):
            with pytest.raises(DamagedError, match=f"wide: its shard ends before frame {named} does"):
                store.read("wide", start, stop)
        shard.write_bytes(data[:100] + bytes([data[100] ^ 4]) + data[101:])
        with pytest.raises(DamagedError, match=r"wide: frame 0 does not match its checksum: run `resact verify http"):
            store.read("wide", 0, 3)
        assert [p.video_id for p in verify_store(f"{web.address}/a.zarr", threads=1)[1]] == ["wide"]
        shard.unlink()
        with pytest.raises(DamagedError, match="wide: its shard is missing"):
            store.read("wide", 0, 1)
        ((problem),) = verify_store(f"{web.address}/a.zarr", threads=1)[1]
        assert (problem.video_id, problem.problem) == ("wide", f"wide/{SHARD}: missing")
        (built.path / DOCUMENT).unlink()
        with pytest.raises(StoreNotFoundError, match="the whole store is gone"):
            store.read("wide", 0, 1)


def test_a_missing_column_is_named(stores, tmp_path: Path) -> None:
    built = stores["zstd"].copy(tmp_path / "a.zarr")
    (column,) = built.path.glob("index/*/label/0")
    column.unlink()
    with serve(tmp_path) as web, pytest.raises(DamagedError, match=r"http.*/a\.zarr/index/\w+/label/0 is missing: run"):
        open_store(f"{web.address}/a.zarr")


def test_a_redirect_is_followed_and_a_circle_is_not(stores, tmp_path: Path) -> None:
    built = stores["lz4"].copy(tmp_path / "new" / "a.zarr")

    def moved(request: Request) -> bool:
        if request.path.startswith("/old/"):
            return answer(302, Location=request.path.replace("/old/", "/new/"))(request)
        return request.path.startswith("/circle/") and answer(302, Location=request.path)(request)

    with serve(tmp_path, instead=moved) as web:
        store = open_store(f"{web.address}/old/a.zarr")
        assert np.array_equal(store.read(SLASHED, 3, 6), built.pixels[SLASHED][3:6])
        with pytest.raises(StoreError, match=r"cannot read the store at http.* \(it redirects without end\)"):
            open_store(f"{web.address}/circle/a.zarr")


PAGE = answer(200, b"<!DOCTYPE html><p>Who are you?", Content_Type="text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("instead", "kind", "words"),
    [
        (answer(404), StoreNotFoundError, "no clip store at http.* (404 Not Found): check its address"),
        (answer(410), StoreNotFoundError, "no clip store at http.* (410 Gone): check its address"),
        (PAGE, StoreNotFoundError, "no clip store at http.* (its server gives a web page instead): check its address"),
        (answer(401), StoreError, "cannot read the store at http.* (401 Unauthorized): check its address, your rights"),
        (answer(403), StoreError, "cannot read the store at http.* (403 Forbidden): check its address, your rights"),
        (answer(503), StoreError, "cannot read the store at http.* (503 Service Unavailable): check"),
        (
            answer(206, b"x", Content_Range="bytes 7-7/9"),
            StoreError,
            "cannot read the store at http.* (asked for bytes=0-, its server gives bytes 7-7/9): check",
        ),
        (answer(206, b"x"), StoreError, "its server gives a part without saying which): check"),
        (answer(200, b"{}", Content_Type="text/html"), DamagedError, "its bytes have changed since they were written"),
    ],
)
@pytest.mark.filterwarnings("ignore::resact.errors.SlowServerWarning")
def test_refusals_are_one_line(built, web: WebServer, instead, kind: type[StoreError], words: str) -> None:
    web.instead = instead
    pattern = words.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(kind, match=pattern) as caught:
        open_store(f"{url(web, built)}?{SIGNATURE}")
    assert "\n" not in str(caught.value)
    assert "sig=" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::resact.errors.SlowServerWarning")
@pytest.mark.parametrize("lacking", [answer(403), PAGE])
def test_what_a_server_says_of_files_that_it_lacks(stores, tmp_path: Path, lacking) -> None:
    """403 where it may not be listed, or a page, in place of 404: a finished store has no journal."""
    built = stores["jpeg"].copy(tmp_path / "a.zarr")

    def instead(request: Request) -> bool:
        return not Path(request.translate_path(request.path)).is_file() and lacking(request)

    with serve(tmp_path, instead=instead) as web:
        store = open_store(f"{web.address}/a.zarr")
        assert np.array_equal(store.read(SLASHED, 3, 6), built.pixels[SLASHED][3:6])
        assert verify_store(f"{web.address}/a.zarr", threads=1) == (len(VIDEOS), [])


def test_a_server_that_does_not_answer_in_time(built, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep = threading.Event()
    web.instead = lambda _: asleep.wait(30)
    patience = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=0.05)}}
    monkeypatch.setitem(fsspec.config.conf, "http", patience)
    HTTPFileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match=r"cannot read the store at http.* \(no answer in time\): check"):
        open_store(url(web, built))
    asleep.set()


def test_a_server_that_is_gone(built) -> None:
    with serve(built.path.parent) as web:
        store = open_store(url(web, built))
    with pytest.raises(StoreError, match=r"wide: cannot read its shard from http.* \(Connect call failed"):
        store.read("wide", 0, 3)
    with pytest.raises(StoreError, match=r"cannot read the store at http.* \(Connect call failed"):
        open_store(url(web, built))


def test_a_server_that_fails_under_verify_is_no_damage(built, web: WebServer) -> None:
    web.instead = lambda request: SHARD in request.path and answer(500)(request)
    with pytest.raises(StoreError, match=r"500 Internal Server Error\), so it was not verified to its end"):
        verify_store(url(web, built), threads=1)


def test_a_body_that_breaks_off(built, web: WebServer) -> None:
    def cut(request: Request) -> bool:
        if SHARD not in request.path:
            return False
        request.send_response(206)
        request.send_header("Content-Range", "bytes 0-99/200")
        request.send_header("Content-Length", "100")
        request.end_headers()
        request.close_connection = True
        return True

    web.instead = cut
    with pytest.raises(StoreError, match=r"wide: cannot read its shard from http.*ClientPayloadError"):
        open_store(url(web, built)).read("wide", 0, 1)


def test_a_number_sign_has_to_be_escaped(built, web: WebServer) -> None:
    with pytest.raises(UsageError, match="expected a URL without #: write %23"):
        open_store(f"{web.address}/a#1.zarr")


def test_through_a_cache_of_fsspecs(built, web: WebServer) -> None:
    store = open_store(f"simplecache::{url(web, built)}")
    for video_id, pixels in built.pixels.items():
        assert np.array_equal(store.read(video_id, 0, 1), pixels[:1])
