"""Stores behind an S3 API, served on loopback by moto: what a clip costs in requests, and what goes wrong there."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import fsspec
import numpy as np
import pytest
import s3fs
from tests.cache.conftest import VIDEOS, Requests
from tests.conftest import serve_s3

from resact.cache.layout import array_name
from resact.cache.store import open_store
from resact.cache.verify import verify_store
from resact.errors import DamagedError, StoreError, StoreNotFoundError, ToolError, UsageError

SHARD = "0.0.0.0"
WIDE = f"bucket/a.zarr/wide/{SHARD}"


def put(system: s3fs.S3FileSystem, built) -> str:
    system.put(str(built.path), "bucket/a.zarr", recursive=True)
    return "s3://bucket/a.zarr"


def test_a_clip_is_one_range_request_and_equals_the_local_one(built, bucket, requests: Requests) -> None:
    store = open_store(put(bucket, built))
    random = np.random.default_rng(0)
    requests.take()
    for video_id, pixels in built.pixels.items():
        path = f"/bucket/a.zarr/{array_name(video_id)}/{SHARD}"
        for start, stop in [(0, 1), (len(pixels) - 1, len(pixels)), (0, len(pixels))] + [
            sorted(random.choice(len(pixels) + 1, 2, replace=False).tolist()) for _ in range(3)
        ]:
            out = np.zeros((stop - start, *pixels.shape[1:]), np.uint8)
            assert store.read(video_id, start, stop, out=out) is out
            assert np.array_equal(out, pixels[start:stop])
            assert requests.take() == [f"GET {quote(path)}"]
    with pytest.raises(UsageError, match="no video"):
        store.read("nobody", 0, 1)
    assert requests.take() == []


def test_threads_share_a_remote_store(stores, bucket, requests: Requests) -> None:
    built = stores["lz4"]
    store = open_store(put(bucket, built))
    pixels = built.pixels["Jump/v_Jump_g01_c01"]
    requests.take()

    def read(start: int) -> bool:
        return np.array_equal(store.read("Jump/v_Jump_g01_c01", start, start + 3), pixels[start : start + 3])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, list(range(9)) * 8))
    assert len(requests.take()) == 72


def test_a_missing_or_changed_shard_is_damage_by_name(stores, bucket) -> None:
    built = stores["zstd"]
    store = open_store(put(bucket, built))
    data, sizes = bucket.cat_file(WIDE), built.records["wide"].frame_bytes
    bucket.pipe_file(WIDE, data[: int(sizes[0]) + 7])
    assert np.array_equal(store.read("wide", 0, 1), built.pixels["wide"][:1])
    with pytest.raises(DamagedError, match="wide: its shard ends before frame 1 does"):
        store.read("wide", 0, 3)
    with pytest.raises(DamagedError, match="wide: its shard ends before frame 2 does"):
        store.read("wide", 2, 3)  # begins past the end, which S3 refuses
    bucket.pipe_file(WIDE, data[:100] + bytes([data[100] ^ 4]) + data[101:])
    with pytest.raises(DamagedError, match="wide: frame 0 does not match its checksum"):
        store.read("wide", 0, 3)
    bucket.rm_file(WIDE)
    with pytest.raises(DamagedError, match="wide: its shard is missing"):
        store.read("wide", 0, 1)
    bucket.rm("bucket", recursive=True)
    with pytest.raises(StoreNotFoundError, match="wide: cannot read its shard, the whole store is gone"):
        store.read("wide", 0, 1)


def test_a_server_that_is_gone_is_an_error_by_name(stores, connect) -> None:
    running, url = serve_s3()
    system = connect(url)
    system.mkdir("bucket")
    store = open_store(put(system, stores["zstd"]))
    assert store.read("wide", 0, 3).any()
    running.stop()
    with pytest.raises(StoreError, match=r"wide: cannot read its shard from s3://bucket/a.zarr .*EndpointConnection"):
        store.read("wide", 0, 3)
    with pytest.raises(StoreError, match=r"cannot read the store at s3://bucket/a.zarr .*EndpointConnection"):
        open_store("s3://bucket/a.zarr")
    with pytest.raises(StoreError, match=r"cannot read the store at s3://bucket/a.zarr .*not verified to its end"):
        verify_store("s3://bucket/a.zarr", threads=1)


def test_no_store_in_the_bucket(bucket) -> None:
    for url in ("s3://bucket/none.zarr", "s3://no-such-bucket/a.zarr"):
        with pytest.raises(StoreNotFoundError, match=f"no clip store at {url}"):
            open_store(url)


def test_verify_reads_all_of_a_remote_store(stores, bucket, requests: Requests) -> None:
    built = stores["jpeg"]
    url = put(bucket, built)
    requests.take()
    assert verify_store(url, threads=1) == (len(VIDEOS), [])
    shards = [line for line in requests.take() if line.startswith("GET") and line.endswith(SHARD)]
    assert len(shards) == 2 * len(built.pixels)  # a shard's index, and all its frames at once


def test_verify_names_what_is_bad_in_a_bucket(stores, bucket) -> None:
    url = put(bucket, stores["lz4"])
    one = f"bucket/a.zarr/{array_name('one frame')}"
    flipped = bytearray(bucket.cat_file(WIDE))
    flipped[100] ^= 4
    bucket.pipe_file(WIDE, bytes(flipped))
    bucket.rm(one, recursive=True)
    bucket.pipe_file("bucket/a.zarr/stray/file", b"x")
    (column,) = (name for name in bucket.find("bucket/a.zarr/index") if name.endswith("/label/0"))
    bucket.pipe_file(column, bucket.cat_file(column)[:-1] + b"x")
    count, problems = verify_store(url, threads=1)
    assert count == len(VIDEOS) - 1
    assert [problem.video_id for problem in problems] == [None, None, "wide"]
    assert problems[0].problem == "stray: not part of the store (left by a killed prep; run prep again)"
    assert "column label does not match its checksum" in problems[1].problem
    bucket.rm_file(column)
    assert "/label/0 is missing: run `resact verify" in verify_store(url, threads=1)[1][1].problem


def test_urls_of_other_kinds(stores, tmp_path: Path) -> None:
    built = stores["zstd"]
    system = fsspec.filesystem("memory")
    system.put(f"{built.path}/", "/deep/a.zarr", recursive=True)
    try:
        for url in (
            f"file://{built.path}",
            f"local://{built.path}/",
            "memory://deep/a.zarr",
            "memory:///deep/a.zarr//",
        ):
            assert verify_store(url, threads=1) == (len(VIDEOS), [])
            assert np.array_equal(open_store(url).read("wide", 0, 3), built.pixels["wide"])
    finally:
        system.rm("/deep", recursive=True)
    with pytest.raises(
        UsageError, match=r"got nothing://x, expected a path or a URL such as s3://.*: Protocol not known"
    ):
        open_store("nothing://x")
    with pytest.raises(ToolError, match="gs://x needs a package that is not installed: "):
        open_store("gs://x")


def test_passwords_are_not_shown() -> None:
    with pytest.raises(
        StoreError, match=r"cannot reach ftp://me@127\.0\.0\.1:1/a\.zarr \(ConnectionRefusedError"
    ) as caught:
        open_store("ftp://me:secret@127.0.0.1:1/a.zarr")
    assert "secret" not in str(caught.value)
