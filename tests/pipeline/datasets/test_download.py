"""Downloads that break off, lie, change and stall: the file that comes out is the right one, or none."""

import random
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from tests.conftest import PATIENCE_SECONDS
from tests.pipeline.file_server import Files, serve

from resact.errors import SourceError
from resact.pipeline.datasets.download import Patience, RemoteFile, bytes_there, download

SIZE = 300_000
QUICK = Patience(tries=3, wait_seconds=0.01, stall_seconds=PATIENCE_SECONDS)


@pytest.fixture
def content(seed: int) -> bytes:
    return random.Random(seed).randbytes(SIZE)


@pytest.fixture
def server(content: bytes) -> Iterator[Files]:
    with serve(Files({"a.rar": content})) as files:
        yield files


@pytest.fixture
def file(server: Files, content: bytes) -> RemoteFile:
    return RemoteFile(url=f"{server.address}/a.rar", bytes=SIZE, checksum=f"sha256:{sha256(content).hexdigest()}")


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_whole_and_is_not_fetched_twice(
    tmp_path: Path, server: Files, file: RemoteFile, content: bytes
) -> None:
    told: list[int] = []
    path = download(file, tmp_path, progress=told.append)
    assert path.read_bytes() == content
    assert left(tmp_path) == ["a.rar"]
    assert told[-1] == SIZE
    assert told == sorted(told)
    assert download(file, tmp_path) == path
    assert server.sent == [SIZE]
    assert bytes_there(file, tmp_path) == SIZE


def test_it_goes_on_after_breaks(tmp_path: Path, server: Files, file: RemoteFile, content: bytes) -> None:
    server.answers = ["break 100000", "break 50000", "break 0", "503", "well"]
    assert download(file, tmp_path, patience=QUICK).read_bytes() == content
    assert server.sent == [100_000, 50_000, 0, 0, 150_000]
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-", "bytes=150000-"]


def test_it_gives_up_in_time_and_goes_on_in_the_next_process(
    tmp_path: Path, server: Files, file: RemoteFile, content: bytes
) -> None:
    server.answers = ["break 120000", "break 0", "429", "break 0"]
    with pytest.raises(
        SourceError, match=r"broke off 3 times without a new byte .*; 120,000 of 300,000 bytes are kept"
    ):
        download(file, tmp_path, patience=QUICK)
    assert bytes_there(file, tmp_path) == 120_000
    server.answers.clear()
    assert download(file, tmp_path, patience=QUICK).read_bytes() == content
    assert server.sent[-1] == 180_000


def test_a_server_that_falls_silent_counts_as_broken(
    tmp_path: Path, server: Files, file: RemoteFile, content: bytes
) -> None:
    server.answers = ["stall 70000"]
    # On a slow machine, other answers may also count as silence; then it tries again.
    restless = Patience(tries=10_000, wait_seconds=0, stall_seconds=0.3)
    assert download(file, tmp_path, patience=restless).read_bytes() == content
    assert server.ranges[0] is None
    assert "bytes=70000-" in server.ranges


def test_a_server_without_ranges_sends_all_of_it_again(
    tmp_path: Path, server: Files, file: RemoteFile, content: bytes
) -> None:
    server.answers = ["break 100000", "ignore"]
    assert download(file, tmp_path, patience=QUICK).read_bytes() == content
    assert server.sent == [100_000, SIZE]


@pytest.mark.parametrize(("etag", "modified"), [(None, None), ('W/"weak"', None)])
def test_pieces_of_which_nothing_is_known_are_not_joined(
    tmp_path: Path, server: Files, file: RemoteFile, content: bytes, etag: str | None, modified: str | None
) -> None:
    server.etag, server.modified = etag, modified
    server.answers = ["break 100000"]
    assert download(file, tmp_path, patience=QUICK).read_bytes() == content
    assert server.ranges == [None, None]


def test_a_date_will_do_for_a_validator(tmp_path: Path, server: Files, file: RemoteFile, content: bytes) -> None:
    server.etag, server.modified = None, "Thu, 17 Oct 2013 12:00:00 GMT"
    server.answers = ["break 100000"]
    assert download(file, tmp_path, patience=QUICK).read_bytes() == content
    assert server.ranges == [None, "bytes=100000-"]


def test_a_file_that_changed_meanwhile_is_fetched_anew(tmp_path: Path, server: Files, content: bytes) -> None:
    known = RemoteFile(url=f"{server.address}/a.rar", bytes=SIZE)
    server.answers = ["break 100000", "break 0", "break 0", "break 0"]
    with pytest.raises(SourceError, match="100,000 of 300,000 bytes are kept"):
        download(known, tmp_path, patience=QUICK)
    server.answers.clear()
    other = bytes(reversed(content))
    server.content["a.rar"], server.etag = other, '"two"'
    assert download(known, tmp_path, patience=QUICK).read_bytes() == other
    assert server.ranges[-1] == "bytes=100000-"
    assert server.sent[-1] == SIZE, "nothing of the first file was kept"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("long", "has 300,010 bytes, expected 300,000: it is another file"),
        ("short", "has 299,990 bytes, expected 300,000: it is another file"),
        ("endless", "sends more than 300,000 bytes: it is another file"),
        ("404", "answers HTTP 404 Not Found: fetch it by hand"),
        ("403", "answers HTTP 403 Forbidden: fetch it by hand"),
    ],
)
def test_a_server_that_has_another_file_is_told_at_once(
    tmp_path: Path, server: Files, file: RemoteFile, answer: str, words: str
) -> None:
    server.answers = [answer]
    with pytest.raises(SourceError, match=words):
        download(file, tmp_path, patience=QUICK)
    assert len(server.sent) == 1
    assert not (tmp_path / "a.rar").exists()
    assert bytes_there(file, tmp_path) == 0


def test_another_range_than_the_one_asked_for_is_refused(tmp_path: Path, server: Files, file: RemoteFile) -> None:
    server.answers = ["break 100000", "wrong"]
    with pytest.raises(
        SourceError, match=r"answers 'bytes 100001-299999/300000' to a request for bytes from 100,000 on"
    ):
        download(file, tmp_path, patience=QUICK)
    assert bytes_there(file, tmp_path) == 100_000


def test_what_does_not_match_its_checksum_is_not_kept(tmp_path: Path, server: Files, file: RemoteFile) -> None:
    server.content["a.rar"] = bytes(SIZE)
    with pytest.raises(
        SourceError, match=f"has sha256 {sha256(bytes(SIZE)).hexdigest()}, expected {str(file.checksum)[7:]}"
    ):
        download(file, tmp_path)
    assert not (tmp_path / "a.rar").exists()
    assert bytes_there(file, tmp_path) == 0


def test_what_a_user_put_there_is_checked_and_kept(tmp_path: Path, server: Files, file: RemoteFile) -> None:
    (tmp_path / "a.rar").write_bytes(b"mine")
    with pytest.raises(SourceError, match=r"a\.rar has 4 bytes, expected 300,000: remove it"):
        download(file, tmp_path)
    assert (tmp_path / "a.rar").read_bytes() == b"mine"
    assert server.sent == []


def test_no_server_is_a_clear_error(tmp_path: Path) -> None:
    file = RemoteFile(url="http://127.0.0.1:9/a.rar", bytes=SIZE)
    with pytest.raises(SourceError, match=r"broke off 3 times without a new byte .*refused"):
        download(file, tmp_path, patience=QUICK)
