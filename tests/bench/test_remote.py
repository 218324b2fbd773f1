"""`bench remote`: what the bucket answers and counts, and that all readers show the same clips."""

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from fsspec import filesystem
from rich.console import Console
from s3fs import S3FileSystem
from tests.commands import call, error_of
from tests.train.runs.conftest import build_store

from resact.bench import remote
from resact.bench.competitors import NORMALISATION, Task
from resact.bench.object_server import ObjectServer, serve_bucket
from resact.bench.remote import bench_remote
from resact.bench.remote_readers import READERS, Finish, sample
from resact.cache.store import open_store
from resact.errors import ToolError, UsageError
from resact.train.clips.dataset import ClipDataset
from resact.train.clips.geometry import ClipGeometry

GEOMETRY = ClipGeometry(modality="both", frames=4, size=16)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_store(tmp_path_factory.mktemp("stores") / "tiny.zarr")


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[ObjectServer]:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "c").write_bytes(bytes(range(256)) * 1000)
    S3FileSystem.clear_instance_cache()
    with serve_bucket(tmp_path, bytes_per_second=1e9, latency_seconds=0) as server:
        yield server
    S3FileSystem.clear_instance_cache()


def test_the_bucket_as_clients_of_s3_see_it(bucket: ObjectServer, tmp_path: Path) -> None:
    system, data = filesystem("s3"), (tmp_path / "a b" / "c").read_bytes()
    assert system.cat_file("bucket/a b/c") == data
    assert system.cat_file("bucket/a b/c", start=1000, end=70_000) == data[1000:70_000]
    assert bucket.sent_bytes == len(data) + 69_000
    assert system.size("bucket/a b/c") == len(data)
    assert system.find("bucket/a b") == ["bucket/a b/c"]
    with pytest.raises(FileNotFoundError):
        system.cat_file("bucket/a b/d")
    assert bucket.sent_bytes == len(data) + 69_000
    before = bucket.requests
    with pytest.raises(HTTPError, match="416"):
        urlopen(Request(f"{bucket.address}/bucket/a%20b/c", headers={"Range": f"bytes={len(data)}-"}))
    with pytest.raises(HTTPError, match="404"):
        urlopen(f"{bucket.address}/bucket/../{tmp_path.name}/a%20b/c")
    assert bucket.requests == before + 2


def test_the_bucket_is_as_slow_as_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    bucket = ObjectServer(tmp_path, bytes_per_second=1000, latency_seconds=0.5)
    bucket.count_request()
    bucket.count_block(100)
    bucket.count_block(300)
    assert waits == pytest.approx([0.5, 0.1, 0.4])  # the second block waits for the first one


def test_the_environment_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.delenv("AWS_ALLOW_HTTP", raising=False)
    before = dict(os.environ)
    with serve_bucket(tmp_path, bytes_per_second=1e9, latency_seconds=0) as server:
        assert os.environ["AWS_ENDPOINT_URL"] == server.address
        assert os.environ["AWS_ACCESS_KEY_ID"] == "x"
    assert dict(os.environ) == before


def test_others_finish_the_same_clips(store: Path) -> None:
    videos = tuple(range(0, len(open_store(store).index), 2))
    task = Task(store=str(store), video_indices=videos, geometry=GEOMETRY, seed=1)
    opened, plan = task.open()
    ours, finish = ClipDataset(opened, plan, normalisation=NORMALISATION), Finish(task)
    for ours.epoch in range(2):
        expected = {plan.clip(ours.epoch, position).video_index: ours[position] for position in range(len(plan))}
        for video_index in np.random.default_rng().permutation(videos).tolist():
            given = finish(**sample(str(store), video_index))
            for name, tensor in expected[video_index].items():
                assert torch.equal(given[name], tensor) if isinstance(tensor, torch.Tensor) else given[name] == tensor


run = partial(
    bench_remote, geometry=GEOMETRY, competitors=[], clips=10, epochs=2, rounds=1, bandwidth=1000.0, latency=0.0,
    workers=1, seed=0, console=Console(quiet=True),
)  # fmt: skip


def test_later_epochs_ask_for_nothing_with_a_cache(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = ("no cache", "cache, loader", "litdata")
    monkeypatch.setattr(remote, "READERS", {name: READERS[name] for name in chosen})
    monkeypatch.setattr(remote, "_version", lambda _: None)
    result = run(open_store(store), competitors=["litdata"])
    plain, cached, missing = result["rows"]
    assert missing["problem"] == "litdata is not installed: run `pip install litdata`"
    assert missing["first"] is None
    assert plain["problem"] is cached["problem"] is None
    assert plain["later"]["requests"] == 10
    assert cached["first"]["requests"] >= 10
    assert cached["first"]["fetched_bytes"] > plain["later"]["fetched_bytes"] > 0
    assert cached["later"]["requests"] == cached["later"]["fetched_bytes"] == 0
    json.dumps(result)


def test_a_reader_that_leaves_videos_out_is_not_measured(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nine(name, task, bucket, epochs, figures, console, what) -> None:
        raise ToolError(f"{name}: gave 9 of 10 videos")

    monkeypatch.setattr(remote, "_run", nine)
    assert {row["problem"] for row in run(open_store(store))["rows"]} >= {"cache: gave 9 of 10 videos"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"competitors": ["tfds"]}, "got competitor 'tfds', expected some of litdata, mosaicml"),
        ({"bandwidth": 0.0}, "got --bandwidth 0, expected a number above 0"),
    ],
)
def test_wrong_arguments(store: Path, changes: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run(open_store(store), **changes)


@pytest.mark.parametrize("words", ["--epochs 1", "--clips 0", "--latency -1", "--rounds 0"])
def test_numbers_out_of_bounds(words: str) -> None:
    assert call("bench", "remote", *words.split()).exit_code == 2


def test_the_store_is_put_in_the_bucket_by_the_benchmark() -> None:
    assert "no clip store at memory://a.zarr" in str(error_of("bench", "remote", "memory://a.zarr"))
