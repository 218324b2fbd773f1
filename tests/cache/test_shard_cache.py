"""A store behind a URL with a local cache: each shard is fetched once, and what is read is what the store has."""

import multiprocessing
import os
import pickle
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import psutil
import pytest
from tests.cache.conftest import Built, make_record, make_settings, make_store
from tests.cache.web_server import WebServer, serve
from tests.conftest import PATIENCE_SECONDS, fill, wait_until

from resact.cache import shard_cache
from resact.cache.bounded_folder import BoundedFolder
from resact.cache.layout import CRC_BYTES, SHARD, array_name, video_id_of
from resact.cache.shard_cache import ShardCache, caching, parse_size
from resact.cache.store import ClipStore, open_store
from resact.errors import CacheWarning, DamagedError, StoreError, UsageError

JUMP = "Jump/v_Jump_g01_c01"
FORKS = multiprocessing.get_context("forkserver")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    (tmp_path / "served").mkdir()
    with serve(tmp_path / "served") as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def put_up(web: WebServer, built: Built) -> str:
    built.copy(web.folder / "a.zarr")
    return f"{web.address}/a.zarr"


def fetched(web: WebServer) -> Counter[str]:
    """Video -> how often its shard was asked for since the last time; comparisons of four bytes do not count."""
    wanted: Counter[str] = Counter()
    for path, span in web.take():
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", span or "")
        if path.endswith(SHARD) and match and int(match[2]) - int(match[1]) + 1 > CRC_BYTES:
            wanted[video_id_of(unquote(path.split("/")[-2]))] += 1
    return wanted


def copies(cache: Path) -> list[Path]:
    return sorted(cache.glob("resact-shards-1/*/*"))


def is_right(store: ClipStore, pixels: dict[str, np.ndarray], *, rounds: int = 1, seed: int | None = None) -> None:
    """A clip of each video, in any order."""
    random = np.random.default_rng(seed)
    for _ in range(rounds):
        for video_id in random.permutation(list(pixels)):
            start, stop = sorted(random.choice(len(pixels[video_id]) + 1, 2, replace=False).tolist())
            assert np.array_equal(store.read(video_id, start, stop), pixels[video_id][start:stop])


def noise_store(path: Path, seed: int, videos: int = 8, num_frames: int = 6) -> dict[str, np.ndarray]:
    """Frames that cannot be compressed, so all have one size; their pixels."""
    random = np.random.default_rng(seed)
    pixels = {
        f"v{number}": random.integers(0, 256, (num_frames, 24, 32, 3), dtype=np.uint8) for number in range(videos)
    }
    make_store(path, make_settings("lz4"), [(make_record(video_id), frames) for video_id, frames in pixels.items()])
    return pixels


def test_each_shard_is_fetched_once_and_clips_equal_those_without(built: Built, web: WebServer, cache: Path) -> None:
    url = put_up(web, built)
    store = open_store(url, cache=cache)
    web.take()
    is_right(store, built.pixels, rounds=5)
    assert fetched(web) == dict.fromkeys(built.pixels, 1)
    later = open_store(url, cache=cache)
    web.take()
    is_right(later, built.pixels)  # it compares four bytes of each, but fetches nothing
    assert len(web.asked) == len(built.pixels)
    assert fetched(web) == {}
    is_right(open_store(url), built.pixels, rounds=2)
    assert fetched(web) == dict.fromkeys(built.pixels, 2)


def test_other_processes_use_the_same_cache(scratch: Built, web: WebServer, cache: Path) -> None:
    store = open_store(put_up(web, scratch), cache=cache, cache_size="1MB")
    is_right(store, scratch.pixels)
    again = pickle.loads(pickle.dumps(store))
    web.take()
    is_right(again, scratch.pixels)
    assert fetched(web) == {}
    assert again._cache.settings.max_bytes == 10**6


def test_long_videos_are_fetched_in_parts(
    scratch: Built, web: WebServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_cache, "_FETCHED_BYTES", 4000)
    store = open_store(put_up(web, scratch), cache=cache)
    is_right(store, scratch.pixels)
    assert fetched(web)[JUMP] > 3
    is_right(store, scratch.pixels)
    assert fetched(web) == {}


# Several processes ------------------------------------------------------------------------------------------


def _read(url: str, cache: Path, pixels: dict[str, np.ndarray], size: int | str, rounds: int, seed: int) -> None:
    is_right(open_store(url, cache=cache, cache_size=size), pixels, rounds=rounds, seed=seed)


def start(*arguments: Any) -> Any:
    process = FORKS.Process(target=_read, args=arguments)
    process.start()
    return process


def finish(*processes: Any) -> None:
    for process in processes:
        process.join(PATIENCE_SECONDS)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def being_fetched(process: Any) -> list[str]:
    return [file.path for file in psutil.Process(process.pid).open_files() if file.path.endswith(".part")]


def test_two_processes_at_once_fetch_each_shard_once(web: WebServer, cache: Path) -> None:
    pixels = noise_store(web.folder / "a.zarr", seed=0)
    processes: list[Any] = []

    def held(request: Any) -> bool:
        """The first answer comes only when both wait for the same shard."""
        if request.path.endswith(SHARD):
            web.instead = lambda _: False
            wait_until(lambda: len(processes) == 2 and all(map(being_fetched, processes)))
            assert being_fetched(processes[0]) == being_fetched(processes[1])
        return False

    web.instead = held
    for _ in range(2):
        processes.append(start(f"{web.address}/a.zarr", cache, pixels, "1GB", 3, 0))  # one seed: both read alike
    finish(*processes)
    assert web.instead is not held
    assert fetched(web) == dict.fromkeys(pixels, 1)
    assert len(copies(cache)) == len(pixels)


def test_the_bound_holds_while_two_processes_read_at_random(web: WebServer, cache: Path) -> None:
    pixels = noise_store(web.folder / "a.zarr", seed=1)
    shard = (web.folder / "a.zarr" / "v0" / SHARD).stat().st_size
    bound = shard * 7 // 2
    processes = [start(f"{web.address}/a.zarr", cache, pixels, bound, 15, seed) for seed in (1, 2)]
    wait_until(lambda: copies(cache), *processes)
    seen, looker = [], BoundedFolder(cache / "resact-shards-1", bound)
    while any(process.is_alive() for process in processes):
        with looker._ledger():
            seen.append(sum(path.stat().st_size for path in copies(cache)))
    finish(*processes)
    assert max(seen) <= bound
    assert len(copies(cache)) == 3
    assert fetched(web).total() > 2 * len(pixels)  # so some went, and were fetched again


# Wrong bytes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["flip", "cut", "empty"])
def test_a_copy_that_has_changed_is_fetched_anew(scratch: Built, web: WebServer, cache: Path, harm: str) -> None:
    store = open_store(put_up(web, scratch), cache=cache)
    is_right(store, scratch.pixels)
    for copy in copies(cache):
        data = bytearray(copy.read_bytes())
        data[len(data) // 2] ^= 1
        times = copy.stat()
        copy.write_bytes({"flip": data, "cut": data[: len(data) // 2], "empty": b""}[harm])
        os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a disk that loses bits has it
    web.take()
    for video_id, pixels in scratch.pixels.items():
        assert np.array_equal(store.read(video_id, 0, len(pixels)), pixels)
    assert fetched(web) == dict.fromkeys(scratch.pixels, 1)
    is_right(store, scratch.pixels)
    assert fetched(web) == {}
    ledger = int.from_bytes((cache / "resact-shards-1" / "bytes").read_bytes(), "little")
    assert ledger >= sum(copy.stat().st_size for copy in copies(cache))


def test_a_changed_copy_that_another_reader_has_just_removed(
    scratch: Built, web: WebServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have read the wrong bytes; the second finds no copy to remove any more."""
    store, forget, removed = open_store(put_up(web, scratch), cache=cache), ShardCache.forget, []
    store.read("wide", 0, 1)
    (copy,) = copies(cache)
    copy.write_bytes(bytes(copy.stat().st_size))

    def second(self: ShardCache, video_index: int) -> Any:
        copy.unlink()
        removed.append(video_index)
        return forget(self, video_index)

    monkeypatch.setattr(ShardCache, "forget", second)
    assert np.array_equal(store.read("wide", 0, 1), scratch.pixels["wide"][:1])
    assert len(removed) == 1


def test_a_shard_that_is_damaged_in_the_store_is_not_kept(scratch: Built, web: WebServer, cache: Path) -> None:
    url = put_up(web, scratch)
    shard = web.folder / "a.zarr" / "wide" / SHARD
    sound = shard.read_bytes()
    shard.write_bytes(sound[:50] + bytes([sound[50] ^ 1]) + sound[51:])
    store = open_store(url, cache=cache)
    for _ in range(2):
        with pytest.raises(DamagedError, match=f"wide: frame 0 does not match its checksum: run `resact verify {url}`"):
            store.read("wide", 0, 3)
    assert np.array_equal(store.read("wide", 1, 3), scratch.pixels["wide"][1:])
    assert copies(cache) == []
    shard.write_bytes(sound)  # repaired
    assert np.array_equal(store.read("wide", 0, 3), scratch.pixels["wide"])
    shard.write_bytes(sound[:-70])
    with pytest.raises(DamagedError, match="wide: its shard ends before frame 2 does"):
        open_store(url, cache=cache).read("wide", 0, 3)
    shard.unlink()
    with pytest.raises(DamagedError, match="wide: its shard is missing"):
        open_store(url, cache=cache).read("wide", 0, 3)


def test_a_store_made_anew_with_frames_of_the_same_sizes(web: WebServer, cache: Path) -> None:
    path, url = web.folder / "a.zarr", f"{web.address}/a.zarr"
    old = noise_store(path, seed=3)
    is_right(open_store(url, cache=cache), old)
    before = {file: file.read_bytes() for file in path.glob("index/*/*/*")}
    shutil.rmtree(path)
    new = noise_store(path, seed=4)
    assert {file: file.read_bytes() for file in path.glob("index/*/*/*")} == before  # the index tells no difference
    web.take()
    store = open_store(url, cache=cache)

    def first_frame(video_id: str) -> bool:
        return np.array_equal(store.read(video_id, 0, 1), new[video_id][:1])

    with ThreadPoolExecutor(4) as pool:  # each video is wanted by several threads at once
        assert all(pool.map(first_frame, sorted([*new] * 4)))
    is_right(store, new)
    assert fetched(web) == dict.fromkeys(new, 1)
    assert len(copies(cache)) == len(new)


def test_a_copy_made_while_the_clock_was_ahead_is_compared_too(web: WebServer, cache: Path) -> None:
    path, url = web.folder / "a.zarr", f"{web.address}/a.zarr"
    old = noise_store(path, seed=7, videos=1)
    is_right(open_store(url, cache=cache), old)
    (copy,) = copies(cache)
    ahead = copy.stat().st_mtime_ns + 3600 * 10**9
    os.utime(copy, ns=(ahead, ahead))
    shutil.rmtree(path)
    new = noise_store(path, seed=8, videos=1)
    is_right(open_store(url, cache=cache), new)
    assert copies(cache) == [copy]


def test_a_store_that_grows(web: WebServer, cache: Path) -> None:
    path, url = web.folder / "a.zarr", f"{web.address}/a.zarr"
    pixels = noise_store(path, seed=5, videos=3)
    is_right(open_store(url, cache=cache), pixels)
    shutil.rmtree(path)
    more = noise_store(path, seed=5, videos=5)
    assert more.keys() > pixels.keys()
    web.take()
    is_right(open_store(url, cache=cache), more)
    assert fetched(web) == {"v3": 1, "v4": 1}


def test_a_shard_that_went_from_the_store_is_missing_with_a_cache_too(web: WebServer, cache: Path) -> None:
    pixels = noise_store(web.folder / "a.zarr", seed=6, videos=2)
    is_right(open_store(f"{web.address}/a.zarr", cache=cache), pixels)
    (web.folder / "a.zarr" / "v0" / SHARD).unlink()
    with pytest.raises(DamagedError, match="v0: its shard is missing"):
        open_store(f"{web.address}/a.zarr", cache=cache).read("v0", 0, 1)


# No room ----------------------------------------------------------------------------------------------------


def test_a_shard_larger_than_the_bound_is_read_from_the_store(scratch: Built, web: WebServer, cache: Path) -> None:
    sizes = {v: (scratch.path / array_name(v) / SHARD).stat().st_size for v in scratch.pixels}
    store = open_store(put_up(web, scratch), cache=cache, cache_size=max(sizes.values()) // 2)
    web.take()
    with pytest.warns(CacheWarning, match=r"bytes do not fit into the [\d,]+ of .*: clips of such videos are") as told:
        is_right(store, scratch.pixels, rounds=4)
    assert len(told) == 1
    assert fetched(web)[JUMP] == 4
    assert sum(copy.stat().st_size for copy in copies(cache)) <= max(sizes.values()) // 2


def test_a_full_disk_is_read_past(scratch: Built, web: WebServer, small_disk: Path) -> None:
    store = open_store(put_up(web, scratch), cache=small_disk)
    filler = fill(small_disk)
    with pytest.warns(
        CacheWarning, match=f"the disk of the cache in {small_disk}/.* is full: clips of such videos are"
    ) as told:
        is_right(store, scratch.pixels, rounds=2)
    assert len(told) == 1
    assert copies(small_disk) == []
    filler.unlink()
    is_right(store, scratch.pixels)
    assert len(copies(small_disk)) == len(scratch.pixels)


# Settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [("50GB", 50 * 10**9), ("1.5 tb", 15 * 10**11), ("800MB", 8 * 10**8), (1000, 1000), ("20kB", 20_000)],
)
def test_sizes(size: int | str, expected: int) -> None:
    assert parse_size(size) == expected


@pytest.mark.parametrize("size", ["", "0", 0, "50", "800000000", "-1GB", "many", "inf", "nan", "1e30", "5 GiB"])
def test_not_a_size(size: int | str) -> None:
    with pytest.raises(UsageError, match=rf"got --cache-size {size!r}, expected a size such as 50GB or 800MB"):
        parse_size(size)


def test_settings_by_option_and_environment(
    scratch: Built, web: WebServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = put_up(web, scratch)

    def settings(**given: Any) -> tuple[str, int] | None:
        used = open_store(url, **given)._cache
        return used and (used.settings.folder.name, used.settings.max_bytes)

    assert settings() is None
    with pytest.raises(UsageError, match="got --cache-size 5MB without a cache: name its folder, with --cache or RES"):
        settings(cache_size="5MB")
    with pytest.raises(UsageError, match="got --cache s3://b/c, expected a folder on this machine"):
        settings(cache="s3://b/c")
    assert settings(cache=cache) == ("cache", 50 * 10**9)
    with caching(cache, None):
        assert settings() == ("cache", 50 * 10**9)
        assert settings(cache_size="5MB") == ("cache", 5 * 10**6)
    assert settings() is None
    monkeypatch.setenv("RESACT_CACHE", str(cache / "own"))
    monkeypatch.setenv("RESACT_CACHE_SIZE", "7MB")
    assert settings() == ("own", 7 * 10**6)
    assert not (cache / "own").exists(), "opening a store reads no clip"
    assert settings(cache=cache) == ("cache", 7 * 10**6)
    with caching(None, "5MB"):
        assert settings() == ("own", 5 * 10**6)
    monkeypatch.setenv("RESACT_CACHE", "s3://b/c")
    with pytest.raises(UsageError, match="got RESACT_CACHE s3://b/c, expected a folder on this machine"):
        settings()
    monkeypatch.setenv("RESACT_CACHE", str(cache))
    monkeypatch.setenv("RESACT_CACHE_SIZE", "much")
    with pytest.raises(UsageError, match="got RESACT_CACHE_SIZE 'much', expected a size"):
        settings()


def test_a_store_in_a_folder_needs_no_cache(scratch: Built, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UsageError, match=rf"got a cache for {scratch.path}, which is in a folder and needs none: leave"
    ):
        open_store(scratch.path, cache=cache)
    with caching(cache, None), pytest.raises(UsageError, match="leave --cache out"):
        open_store(f"file://{scratch.path}")
    monkeypatch.setenv("RESACT_CACHE", str(cache))
    assert open_store(scratch.path)._cache is None
    assert not cache.exists()


def test_a_folder_that_cannot_be_written_to(
    scratch: Built, web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An option's is found out at once, the environment's by the first clip."""
    (tmp_path / "file").touch()
    url, message = put_up(web, scratch), r"cannot use the cache in .*file/resact-shards-1 \(Not a directory\)"
    with pytest.raises(StoreError, match=message):
        open_store(url, cache=tmp_path / "file")
    monkeypatch.setenv("RESACT_CACHE", str(tmp_path / "file"))
    store = open_store(url)
    with pytest.raises(StoreError, match=message):
        store.read("wide", 0, 1)
