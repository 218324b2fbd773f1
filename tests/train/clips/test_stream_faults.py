"""What a running stream must survive: errors arrive, with the right name; nothing stays behind."""

import gc
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from tests.conftest import GAUNTLET, PATIENCE_SECONDS, wait_until
from tests.held import held, left_behind
from tests.train.clips.conftest import assert_clips, by_hand, clip_threads, plan_of, stream_of
from tests.train.conftest import make_clip_store

from resact.cache.store import ClipStore, open_store
from resact.errors import DamagedError, StoreError, StoreNotFoundError, StreamError, UsageError
from resact.train.clips.normalisation import Normalisation
from resact.train.clips.sampling import Clip
from resact.train.clips.stream import EpochReader


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A store of 24 videos, to be copied."""
    path = tmp_path_factory.mktemp("whole") / "s.zarr"
    make_clip_store(path, [12] * 24)
    return path


@pytest.fixture
def store(whole, tmp_path) -> ClipStore:
    """A copy for this test to break."""
    shutil.copytree(whole, tmp_path / "s.zarr")
    return open_store(tmp_path / "s.zarr")


def take_all(reader: EpochReader, batches: list[dict]) -> None:
    """Take batches until the reader fails."""
    while True:
        batches.append(next(reader))


def break_shard(store: ClipStore, clip: Clip, how: str, seed: int) -> None:
    folder = store.files.root / store.index.video_id[clip.video_index]
    shard = folder / "0.0.0.0"
    if how == "deleted":
        shard.unlink()
    elif how == "truncated":
        os.truncate(shard, int(store.index.frame_offsets(clip.video_index, clip.stop)[-1]) - 1)
    elif how == "corrupted":  # a bit of what the clip needs
        begin, *_, end = store.index.frame_offsets(clip.video_index, clip.stop)[clip.start :].tolist()
        data = bytearray(shard.read_bytes())
        data[begin + seed % (end - begin)] ^= 1 << seed % 8
        shard.write_bytes(data)
    elif how == "folder gone":
        folder.rename(store.files.root.parent / "gone")
    else:
        assert how == "read error"
        shard.unlink()
        shard.symlink_to("/proc/self/mem")  # begins with no memory: the kernel says EIO


@pytest.mark.faults
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("deleted", DamagedError, "its shard is missing"),
        ("truncated", DamagedError, "its shard ends before frame"),
        ("corrupted", DamagedError, "does not match its checksum"),
        ("folder gone", DamagedError, "its shard is missing"),
        ("read error", StoreError, "Input/output error"),
    ],
)
def test_a_shard_broken_under_a_running_loader_is_named(store, packed, how, error, words, seed):
    plan = plan_of(store, seed=seed)
    stream = stream_of(store, plan, packed=packed, batch_size=2)
    good = [by_hand(store, plan, 0, position) for position in range(24)]
    with stream.epoch(0) as reader:
        for _ in range(3):
            next(reader)
        assert len(clip_threads()) == 2
        victim = plan.clip(0, 17)  # five batches are out or under way: the ninth is not begun
        break_shard(store, victim, how, seed)
        for _ in range(5):  # what comes before the broken one is delivered
            assert_clips(next(reader), good.__getitem__)
        with pytest.raises(error, match=f"{store.index.video_id[victim.video_index]}: .*{words}"):
            next(reader)
        assert next(reader, None) is None
    assert not clip_threads()


@pytest.mark.faults
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_system_that_is_unmounted_is_named(store, packed):
    plan = plan_of(store)
    good = [by_hand(store, plan, 0, position) for position in range(24)]
    with stream_of(store, plan, packed=packed, batch_size=2).epoch(0) as reader:
        batches = [next(reader)]
        assert len(clip_threads()) == 2
        store.files.root.rename(store.files.root.with_name("gone"))
        with pytest.raises(StoreNotFoundError, match=r"v_\w+: cannot read its shard, the whole store is gone from "):
            take_all(reader, batches)
    assert len(batches) <= 4, "it did not strike amid the epoch"
    for batch in batches:
        assert_clips(batch, good.__getitem__)
    assert not clip_threads()


@contextmanager
def no_answer(store: ClipStore) -> Iterator[None]:
    """Replaces each shard by a pipe: opening it blocks, as with a server that no longer answers."""
    shards = [store.files.root / video_id / "0.0.0.0" for video_id in store.index.video_id]
    for shard in shards:
        os.mkfifo(pipe := shard.with_name("pipe"))
        pipe.replace(shard)
    try:
        yield
    finally:

        def let_go() -> bool:
            for shard in shards:
                with suppress(OSError):  # nobody reads from this one
                    os.close(os.open(shard, os.O_WRONLY | os.O_NONBLOCK))
            return not clip_threads()

        wait_until(let_go)


@pytest.mark.faults
def test_a_file_system_that_no_longer_answers_is_an_error_and_no_hang(store, monkeypatch):
    plan = plan_of(store)
    stream = stream_of(store, plan, batch_size=2)
    with stream.epoch(0) as reader:
        batches = [next(reader)]
        with no_answer(store):
            stream.timeout_seconds = 0.5
            monkeypatch.setattr("resact.train.clips.stream._JOIN_SECONDS", 0.1)
            with pytest.raises(StreamError, match=r"no batch within 0\.5 s; not read yet: v_.*") as caught:
                take_all(reader, batches)
            assert clip_threads(), "none hangs"
    assert not clip_threads()
    assert len(batches) <= 4, "it did not strike amid the epoch"
    assert f"is the file system of {store.files} there?" in str(caught.value)
    delivered = 2 * len(batches)
    missing = {store.index.video_id[plan.clip(0, delivered + place).video_index] for place in range(2)}
    named = str(caught.value).partition("not read yet: ")[2].partition(":")[0]
    assert set() < set(named.split(", ")) <= missing


@pytest.mark.parametrize(
    ("broken", "packed", "at_work_on"),
    [
        ("resact.cache.store.ClipStore.read_frames", False, "{video_id}"),
        ("resact.train.clips.stream.transform_batch", True, "the batch of clips 0 to 3 of epoch 2"),
    ],
)
def test_any_other_error_in_a_thread_names_the_video_or_the_batch(clip_store, monkeypatch, broken, packed, at_work_on):
    monkeypatch.setattr(broken, Mock(side_effect=ZeroDivisionError("oops")))
    named = at_work_on.format(video_id=clip_store.index.video_id[plan_of(clip_store).clip(2, 0).video_index])
    with (
        pytest.raises(StreamError, match=f"^{named}: ZeroDivisionError: oops$") as caught,
        stream_of(clip_store, packed=packed, threads=1).epoch(2) as reader,
    ):
        next(reader)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert not clip_threads()


def test_stopping_early_leaves_no_thread(clip_store):
    with stream_of(clip_store, batch_size=1).epoch(0) as reader:
        next(reader)
        assert len(clip_threads()) == 2
    assert not clip_threads()
    forgotten = stream_of(clip_store, batch_size=1).epoch(0)
    next(forgotten)
    del forgotten
    gc.collect()
    for thread in clip_threads():
        thread.join(PATIENCE_SECONDS)
    assert not clip_threads()


@pytest.mark.faults
def test_open_and_close_leaks_neither_files_nor_threads(clip_store):
    plan = plan_of(clip_store)
    before = held()
    for cycle in range(10_000 if GAUNTLET else 200):
        with stream_of(clip_store, plan, batch_size=2).epoch(cycle) as reader:
            for _ in range(cycle % 3):  # of six batches
                next(reader)
            assert len(clip_threads()) == 2
    assert not left_behind(before)


def test_many_loaders_in_one_process(clip_store):
    plans = [plan_of(clip_store, seed=seed) for seed in range(6)]
    readers = [stream_of(clip_store, plan, batch_size=3).epoch(0) for plan in plans]
    for _ in range(4):
        for plan, reader in zip(plans, readers, strict=True):
            assert_clips(next(reader), partial(by_hand, clip_store, plan, 0))
    assert [next(reader, None) for reader in readers] == [None] * 6
    assert not clip_threads()


def test_the_consumers_own_threads_are_left_as_they_are(clip_store):
    before = torch.get_num_threads()
    with stream_of(clip_store).epoch(0):
        inside = []
        asker = threading.Thread(target=lambda: inside.append(torch.get_num_threads()))
        asker.start()
        asker.join()
    assert torch.get_num_threads() == before == inside[0]


def test_a_thread_that_reads_has_no_threads_of_its_own(clip_store, monkeypatch):
    """Otherwise each reader would start one thread per core, and these would spin while they wait."""
    inside, read_frames = [], type(clip_store).read_frames

    def ask_and_read(self, *arguments, **options):
        inside.append(torch.get_num_threads())
        return read_frames(self, *arguments, **options)

    monkeypatch.setattr(type(clip_store), "read_frames", ask_and_read)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for _ in range(5):
            with stream_of(clip_store, threads=3).epoch(0) as reader:
                assert len(list(reader)) == 3
    finally:
        torch.set_num_threads(before)
    assert {*inside} == {1}


def test_the_next_epochs_threads_get_the_same_memory(clip_store, monkeypatch):
    stream, seen = stream_of(clip_store, threads=2), []
    own = stream.scratch.memory

    def note():
        memory = own()
        seen.append(memory.ctypes.data)
        return memory

    monkeypatch.setattr(stream.scratch, "memory", note)
    for epoch in range(4):
        with stream.epoch(epoch) as reader:
            assert sum(len(batch["positions"]) for batch in reader) == 12
    assert len(seen) == 48
    assert len({*seen}) <= 2


def test_wrong_arguments_are_told(clip_store):
    for options, words in (
        ({"batch_size": 0}, "got batch_size 0, expected 1 or more"),
        ({"threads": 0}, "got threads 0"),
        ({"rank": 2, "world_size": 2}, "got rank 2, expected 0 <= rank < 2"),
        ({"normalisation": Normalisation(rgb_mean=(0.0,) * 3, rgb_std=(1.0,) * 3)}, "residual"),
    ):
        with pytest.raises(UsageError, match=words):
            stream_of(clip_store, **options)
