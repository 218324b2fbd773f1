"""`resact copy` as people use it: stopped at any moment, and of a part that can be trained on."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from tests.cache.conftest import Place, snapshot
from tests.cache.web_server import WebServer, serve
from tests.conftest import wait_until
from tests.test_remote_stores import call
from tests.train.runs.conftest import arguments, build_store

from resact.cache.files import LocalFiles
from resact.cache.layout import DOCUMENT, SHARD
from resact.cache.store import open_store
from resact.errors import StoreNotFoundError
from resact.progress import PlainLines
from resact.train.clips.measurement import measure_normalisation
from resact.train.runs.training import train

VIDEOS = 24
HELD = f"v_Run_g02_c01/{SHARD}"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    folder = tmp_path_factory.mktemp("served")
    build_store(folder / "tiny.zarr")
    with serve(folder) as server:
        yield server


@pytest.fixture
def holding(web: WebServer) -> Iterator[Callable[[], None]]:
    """The server answers nothing for one shard, until it is let go."""
    let_go = threading.Event()

    def instead(request: SimpleHTTPRequestHandler) -> bool:
        if request.path.endswith(HELD):
            let_go.wait()
        return False

    web.instead = instead
    yield let_go.set
    let_go.set()
    web.instead = lambda _: False


def start(web: WebServer, target: str) -> "subprocess.Popen[str]":
    """Copy until all videos are there but the one that the server does not give."""
    words = [sys.executable, "-m", "resact", "copy", f"{web.address}/tiny.zarr", target]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    documents = lambda: sum(name.startswith("v_") and name.endswith(DOCUMENT) for name in Place(target).names())  # noqa: E731
    wait_until(lambda: documents() == VIDEOS - 1, process)
    return process


@pytest.fixture(params=["folder", "bucket"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "a.zarr")
    request.getfixturevalue("bucket")
    return "s3://bucket/a.zarr"


@pytest.mark.faults
def test_killed_midway_it_is_no_store_and_the_same_command_does_the_rest(
    web: WebServer, holding: Callable[[], None], target: str
) -> None:
    process = start(web, target)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    there = Place(target).names()
    assert HELD not in there
    assert DOCUMENT not in there
    with pytest.raises(StoreNotFoundError, match="but the beginning of a copy: run the same `resact copy` again"):
        open_store(target)
    with pytest.raises(StoreNotFoundError):
        call("info", target)
    holding()
    web.take()
    told = json.loads(call("copy", f"{web.address}/tiny.zarr", target, "--json").stdout.splitlines()[-1])
    assert (told["copied"], told["there"], told["partial"]) == (1, VIDEOS - 1, None)
    assert [path for path, _ in web.take() if path.endswith(SHARD)] == [f"/tiny.zarr/{HELD}"]
    assert Place(target).files() == snapshot(web.folder / "tiny.zarr")


@pytest.mark.faults
def test_killed_while_it_updates_an_older_copy_readers_have_that(
    web: WebServer, holding: Callable[[], None], tmp_path: Path
) -> None:
    target = tmp_path / "a.zarr"
    call("copy", f"{web.address}/tiny.zarr", target, "--split", "split1", "--membership", "test")
    before = open_store(target)
    process = start(web, str(target))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    after = open_store(target)
    assert list(after.index.video_id) == list(before.index.video_id)
    assert len(after.index) < VIDEOS - 1
    assert after.read(after.index.video_id[0], 0, 1).any()
    holding()
    assert "1 copied" in call("copy", f"{web.address}/tiny.zarr", target).stdout
    assert Place(str(target)).files() == snapshot(web.folder / "tiny.zarr")


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_it_though_the_server_does_not_answer(
    web: WebServer, holding: Callable[[], None], tmp_path: Path, number: signal.Signals
) -> None:
    target = tmp_path / "a.zarr"
    process = start(web, str(target))
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said.splitlines()[-1] == (
        f"resact: stopped; what was copied to {target} stays there: the same command continues from here"
    )
    assert not LocalFiles(target).exists(DOCUMENT)
    holding()
    assert "1 copied" in call("copy", f"{web.address}/tiny.zarr", target).stdout
    assert Place(str(target)).files() == snapshot(web.folder / "tiny.zarr")


def test_a_part_verifies_trains_and_says_that_it_is_one(
    web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "measure_normalisation", partial(measure_normalisation, clips=4))
    words = "not the whole of tiny: 16 of 24 videos, 2 of 3 classes"
    copied = call("copy", web.folder / "tiny.zarr", "part.zarr", "--classes", "Jump,Walk", "--split", "split1")
    assert copied.stdout.splitlines()[-1] == f"note: {words}"
    assert "16 videos checked, 0 problems" in call("verify", "part.zarr").stdout
    assert json.loads(call("info", "part.zarr", "--json").stdout)["partial"] == words
    assert words in " ".join(call("info", "part.zarr").stdout.split())
    trained = call(*arguments(Path("part.zarr"), Path("runs"), "a", epochs=1, batch_size=12))
    assert f"note: part.zarr is {words}" in trained.stdout
    assert json.loads(call("evaluate", "a", "--views", "1", "--json").stdout.splitlines()[-1])["videos"] == 4


def test_it_says_how_far_it_is(web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PlainLines, "due", lambda _: True)
    lines = call("copy", f"{web.address}/tiny.zarr", tmp_path / "a.zarr").stdout.splitlines()
    assert sum(line.startswith("copy: ") for line in lines) >= VIDEOS
    assert any(f"copy: {VIDEOS} of {VIDEOS} videos, " in line and "MB/s" in line for line in lines)
    assert lines[-1].startswith(f"{tmp_path / 'a.zarr'}: {VIDEOS} videos, ")
    assert lines[-1].endswith("0 were there")
