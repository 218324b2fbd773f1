"""Commands that take a store take a URL, or refuse it in one line."""

import inspect
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from tests.cache.conftest import build
from tests.cache.web_server import WebServer, serve
from tests.commands import call, last_json
from tests.conftest import wait_until
from tests.train.runs.conftest import arguments, assert_same_weights, build_store
from tests.train.runs.untrained import untrained_run
from typer.testing import CliRunner

from resact.cache.layout import SHARD
from resact.cache.store import ClipStore, open_store
from resact.cli import app, benchmarks
from resact.cli.common import no_url
from resact.errors import ResactError, StoreNotFoundError, UsageError
from resact.train.clips.measurement import measure_normalisation
from resact.train.runs.files.checkpoint import Checkpoints, Progress
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.training import train


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """A server with two stores, `folder.zarr` and `tiny.zarr`, and a run of the latter."""
    folder = tmp_path_factory.mktemp("served")
    build(folder / "folder.zarr", "zstd")
    untrained_run(folder / "runs" / "a", open_store(build_store(folder / "tiny.zarr")), modality="residual", seed=0)
    with serve(folder) as server:
        yield server


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RESACT_DATA", raising=False)


def test_verify(web: WebServer) -> None:
    url = f"{web.address}/folder.zarr"
    result = call("verify", f"{url}/")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{url}: 5 videos checked, 0 problems",
        "note: web servers do not list folders, so only what the index names was checked",
    ]
    shard = web.folder / "folder.zarr" / "wide" / SHARD
    data = shard.read_bytes()
    shard.write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    try:
        result = call("verify", url, "--json")
    finally:
        shard.write_bytes(data)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["bad"] == [{"video_id": "wide", "problem": "frame 0 does not match its checksum"}]
    assert (
        "`resact verify FOLDER --repair --root DIR` preps them again from the source videos in DIR, where FOLDER is a"
        in result.stderr
    )


def test_train_and_evaluate(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "measure_normalisation", partial(measure_normalisation, clips=4))
    url = f"{web.address}/tiny.zarr"
    call(*arguments(f"{url}?token=secret", Path("runs"), "a", epochs=1, batch_size=18))
    assert RunFolder("runs/a").read_record().store.path == url
    assert "secret" not in Path("runs/a/config.json").read_text()
    told = last_json(call("evaluate", "a", "--views", "2", "--json"))
    assert (told["store"], told["videos"]) == (url, 6)
    told = last_json(call("evaluate", web.folder / "runs" / "a", "--store", url, "--views", "1", "--json"))
    assert told["store"] == url


def test_train_and_evaluate_with_a_cache(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch after the first asks for no clips, and the weights are those without a cache."""
    monkeypatch.setattr(train, "measure_normalisation", partial(measure_normalisation, clips=4))
    save, asked = Checkpoints.save, {}

    def shards() -> list[str]:
        return [path for path, _ in web.asked if path.endswith(SHARD)]

    def counting(self: Checkpoints, progress: Progress, *state: Any) -> None:
        save(self, progress, *state)
        asked[progress.epoch] = shards()

    monkeypatch.setattr(Checkpoints, "save", counting)
    url = f"{web.address}/tiny.zarr"
    web.take()
    call(*arguments(url, Path("runs"), "cached", "--cache", "copies", "--cache-size", "1GB"))
    assert len(asked) == 3
    assert asked[1] == asked[2] == asked[3]
    assert len(asked[1]) == len(set(asked[1])) == 18  # the training list, each once
    call("evaluate", "cached", "--views", "2", "--cache", "copies")
    call("evaluate", "cached", "--views", "3", "--cache", "copies")
    first, second = shards()[18:24], shards()[24:]
    assert sorted(first) == sorted(second) == sorted(set(first))  # 6 fetched, then each compared
    web.take()
    call(*arguments(url, Path("runs"), "plain"))
    assert len(asked[3]) > 3 * 18
    assert_same_weights(Path("runs/cached"), Path("runs/plain"))


def test_a_cache_is_for_stores_at_urls(web: WebServer) -> None:
    with pytest.raises(UsageError, match=r"got a cache for .*tiny.zarr, which is in a folder and needs none: leave"):
        call(*arguments(web.folder / "tiny.zarr", Path("runs"), "a", "--cache", "copies"))
    with pytest.raises(UsageError, match="got s3://b/c, expected a path"):
        call("bench", "stream", "--cache", "s3://b/c")
    with pytest.raises(UsageError, match="got --cache-size '5 apples', expected a size such as 50GB or 800MB"):
        call("train", "--cache", "copies", "--cache-size", "5 apples")
    assert not list(Path().iterdir())


def test_bench_train(web: WebServer) -> None:
    words = ("--width", "0.0625", "--depths", "1,1,1,1", "--frames", "4", "--size", "16", "--steps", "1")
    result = call("bench", "train", "--store", f"{web.address}/tiny.zarr", "--rows", "store", "--rounds", "1", *words)
    assert "store lz4" in result.stdout


def test_file_urls_are_paths(web: WebServer) -> None:
    url = f"file://{web.folder}/folder.zarr"
    assert "5 videos checked, 0 problems" in call("verify", url).stdout
    assert "index of 5 videos rebuilt" in call("verify", url, "--rebuild-index").stdout


def test_each_command_reads_a_store_from_s3(bucket: Any, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_in_s3 = "s3://bucket/tiny.zarr"
    bucket.put(str(web.folder / "tiny.zarr"), "bucket/tiny.zarr", recursive=True)
    monkeypatch.setattr(train, "measure_normalisation", partial(measure_normalisation, clips=4))
    assert "0 problems" in call("verify", tiny_in_s3).stdout
    assert tiny_in_s3 in call("info", tiny_in_s3, "--html", "info.html").stdout
    assert "<img" in Path("info.html").read_text()
    assert Path(call("show", tiny_in_s3, "v_Jump_g01_c01", "-o", "a.png").stdout.partition(":")[0]).stat().st_size
    call(*arguments(tiny_in_s3, Path("runs"), "a", epochs=1, batch_size=18))
    told = last_json(call("evaluate", "a", "--views", "1", "--json"))
    assert (told["store"], told["videos"]) == (tiny_in_s3, 6)
    for options in ((), (tiny_in_s3,)):  # the run's own store, or named
        told = last_json(call("features", "a", *options, "-o", "a.npz", "--views", "1", "--json"))
        assert told["store"] == tiny_in_s3
    assert call("features", "a", web.folder / "tiny.zarr", "-o", "b.npz", "--views", "1").exit_code == 0
    with np.load("a.npz") as remote, np.load("b.npz") as local:
        assert np.array_equal(remote["features"], local["features"])
    call("report", "-o", "a.html")
    assert "No pictures" not in Path("a.html").read_text()  # which it draws from the store
    words = "--threads 2 --batch-size 2 --clips 4 --frames 4 --size 16 --rounds 1 --json"
    told = last_json(call("bench", "stream", tiny_in_s3, *words.split()))
    assert told["rows"][0]["clips_per_second"] > 0


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_each_kind_read_from_a_server(web: WebServer, method: str) -> None:
    """A forked worker must not wait for a connection's thread, which only its parent has."""
    url, results = f"{web.address}/folder.zarr", multiprocessing.get_context(method).SimpleQueue()
    store = open_store(url)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This process .* is multi-threaded, use of fork")  # of Python 3.12
        worker = multiprocessing.get_context(method).Process(target=_read_wide, args=(store, results))
        worker.start()
    wait_until(lambda: not worker.is_alive())
    assert worker.exitcode == 0
    assert np.array_equal(results.get(), store.read("wide", 0, 3))


def _read_wide(store: ClipStore, results: Any) -> None:
    results.put(store.read("wide", 0, 3))


def test_completion_asks_no_server(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{web.address}/folder.zarr"
    shutil.copytree(web.folder / "folder.zarr", "data/a.zarr")
    web.take()
    for words, offered in (
        (f"resact info {url}", []),
        (f"resact train --store {url}", []),
        (f"resact evaluate --store {url}", []),
        ("resact evaluate --store data", ["data/a.zarr"]),
        (f"resact features a {url}", []),
        (f"resact bench stream {url}", []),
        (f"resact show {url} w", []),
        ("resact show data/a.zarr w", ["wide"]),
    ):
        asked = {"_RESACT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        assert CliRunner().invoke(app, env=asked, prog_name="resact").stdout.split() == offered, words
    assert web.take() == []


def test_every_path_refuses_a_url() -> None:
    """`Path` turns two slashes into one, and a folder named `s3:` would get the file."""
    found = 0
    for command in [*app.registered_commands, *benchmarks.app.registered_commands]:
        for name, parameter in inspect.signature(command.callback, eval_str=True).parameters.items():
            kind, *options = get_args(parameter.annotation) or [None]
            if options and Path in (kind, *get_args(kind)):
                assert options[0].callback is no_url, (command.callback.__name__, name)
                found += 1
    assert found > 30


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("verify s3://b/a.zarr --repair", "got --repair for s3://b/a.zarr, expected a store in a folder: `resact copy"),
        ("verify s3://b/a.zarr --rebuild-index", "got --rebuild-index for s3://b/a.zarr, expected a store in a folder"),
        (
            "prep sample --store s3://b/a.zarr",
            "got s3://b/a.zarr, expected a path: only a store that is read or copied",
        ),
        ("prep sample --store file:///b/a.zarr", "got file:///b/a.zarr, expected a path: only a store that is read or"),
        ("prep sample --root https://b/videos", "got https://b/videos, expected a path: only a store that is read or"),
        ("bench prep --root gs://b/videos", "got gs://b/videos, expected a path: only a store that is read or copied"),
        (
            "report --runs s3://b/runs",
            "got s3://b/runs, expected a path: only a store that is read or copied can be a URL",
        ),
        ("predict a.mp4 https://b/c.mp4", "got https://b/c.mp4, expected a path: only a store that is read or copied"),
        ("doctor s3://b/data", "got s3://b/data, expected a path: only a store that is read or copied can be a URL"),
        ("report -o s3://b/a.html", "got s3://b/a.html, expected a path: only a store that is read or copied can be"),
        ("bench loader --stores a.zarr,s3://b/a.zarr", "got s3://b/a.zarr, expected stores in folders: the others"),
        ("info nothing://b", "got nothing://b, expected a path or a URL such as s3://"),
    ],
)
def test_what_cannot_be_done_with_a_url_is_one_line(words: str, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        call(*words.split())
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
    assert not list(Path().iterdir())


def test_a_data_folder_is_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESACT_DATA", "s3://b/data")
    with pytest.raises(UsageError, match=r"got RESACT_DATA=s3://b/data, expected a folder"):
        call("info")


@pytest.mark.parametrize("words", ["verify", "info", "show", "train --store", "bench train --store"])
def test_no_store_at_a_url(words: str, web: WebServer) -> None:
    url = f"{web.address}/none.zarr"
    expected = rf"no clip store at {url} \(404 File not found\): check its address"
    with pytest.raises(StoreNotFoundError, match=expected):
        call(*words.split(), url, *(["v", "-o", "v.png"] if words == "show" else []))


def test_a_local_folder_that_looks_like_a_url_can_be_meant() -> None:
    Path("s3:").mkdir()
    with pytest.raises(ResactError, match=r"s3:/none"):
        call("prep", "folder", "--root", "s3:/none")


def test_the_command_line_notes_a_server_without_ranges(web: WebServer) -> None:
    web.ranges = False
    try:
        done = subprocess.run(
            [sys.executable, "-m", "resact", "info", f"{web.address}/folder.zarr", "--json"],
            capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
    finally:
        web.ranges = True
    assert done.returncode == 0
    assert done.stderr.startswith(f"resact: note: {web.address}/folder.zarr: its server ignores byte ranges, so each")
    assert done.stderr.count("ignores byte ranges") == 1
