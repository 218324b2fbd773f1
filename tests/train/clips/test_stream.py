"""Batches are the plan's clips, exactly, whatever the threads; errors arrive; nothing stays behind."""

import gc
import itertools
import multiprocessing
import pickle
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.conftest import GAUNTLET
from tests.train.conftest import make_clip_store
from torch.utils.data import DataLoader

from resact.cache.store import ClipStore, open_store
from resact.errors import DamagedError, StreamError, UsageError
from resact.train.clips.dataset import ClipDataset
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.normalisation import measure_normalisation
from resact.train.clips.sampling import TestPlan, TrainPlan
from resact.train.clips.stream import ClipStream
from resact.train.clips.transform import Normalisation, transform_clip

GEOMETRY = ClipGeometry(modality="both", frames=8, step=2, size=12)
NORMALISATION = Normalisation(
    rgb_mean=(90, 80, 70), rgb_std=(60, 61, 62), residual_mean=(9, 8, 7), residual_std=(20, 21, 22)
)


def plan_of(store: ClipStore, *, seed=0, geometry=GEOMETRY):
    return TrainPlan(store.index, np.arange(len(store.index)), geometry, seed=seed, flip=True)


def stream_of(store: ClipStore, plan=None, **options):
    options = {"batch_size": 5, "normalisation": NORMALISATION, "threads": 2, **options}
    return ClipStream(store, plan or plan_of(store), **options)


def clip_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("resact-clips")]


def by_hand(store: ClipStore, plan, epoch: int, position: int) -> dict[str, torch.Tensor]:
    """One clip through the plain transform."""
    clip = plan.clip(epoch, position)
    frames = store.read(store.index.video_id[clip.row], clip.start, clip.stop)
    return transform_clip(torch.from_numpy(frames), clip, plan.geometry, NORMALISATION)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_batches_are_the_plans_clips(clip_store, packed, threads):
    plan = plan_of(clip_store, seed=torch.seed() % 2**32)
    stream = stream_of(clip_store, plan, packed=packed, threads=threads)
    seen = []
    with stream.epoch(3) as reader:
        for batch in reader:
            assert len(batch["positions"]) == len(batch["label"]) == len(batch["video_id"]) == 4
            for place, position in enumerate(batch["positions"]):
                expected = by_hand(clip_store, plan, 3, position)
                row = plan.clip(3, position).row
                for name in ("rgb", "residual"):
                    assert batch[name].shape == (4, 3, 8, 12, 12)
                    assert torch.equal(batch[name][place], expected[name])
                assert batch["label"][place] == clip_store.index.label[row]
                assert batch["video_id"][place] == clip_store.index.video_id[row]
            seen += batch["positions"]
    assert seen == list(range(12))
    assert len(stream) == 3


@pytest.mark.parametrize("modality", ["rgb", "residual"])
@pytest.mark.parametrize("packed", [False, True])
def test_one_modality_is_all_that_is_made(clip_store, modality, packed):
    plan = plan_of(clip_store, geometry=ClipGeometry(modality=modality, frames=8, step=2, size=12))
    both = plan_of(clip_store)
    with stream_of(clip_store, plan, packed=packed).epoch(0) as reader:
        batch = next(reader)
    assert set(batch) == {modality, "label", "video_id", "positions"}
    if modality == "residual":
        assert torch.equal(batch["residual"][0], by_hand(clip_store, both, 0, 0)["residual"])


def test_bfloat16(clip_store):
    with stream_of(clip_store, dtype=torch.bfloat16).epoch(0) as reader:
        batch = next(reader)
    assert batch["rgb"].dtype == torch.bfloat16
    assert torch.equal(batch["rgb"][1], by_hand(clip_store, plan_of(clip_store), 0, 1)["rgb"].bfloat16())


@pytest.mark.parametrize("position", [1, 4, 8, 11])
def test_an_epoch_resumed_anywhere_gives_the_rest(clip_store, position):
    stream = stream_of(clip_store)
    with stream.epoch(2) as reader:
        whole = {p: batch["rgb"][i].clone() for batch in reader for i, p in enumerate(batch["positions"])}
    with stream.epoch(2, position=position) as reader:
        rest = {p: batch["rgb"][i].clone() for batch in reader for i, p in enumerate(batch["positions"])}
    assert list(rest) == list(range(position, 12))
    assert all(torch.equal(rest[p], whole[p]) for p in rest)


def test_ranks_share_an_epoch(clip_store):
    parts = []
    for rank in range(3):
        with stream_of(clip_store, batch_size=2, rank=rank, world_size=3).epoch(1) as reader:
            parts.append([batch["positions"] for batch in reader])
    assert [p for step in zip(*parts, strict=True) for part in step for p in part] == list(range(12))


def test_the_test_plan_streams_too(clip_store):
    plan = TestPlan(clip_store.index, clip_store.index.rows("split1", "test"), GEOMETRY, views=3)
    with stream_of(clip_store, plan).epoch(0) as reader:
        names = [name for batch in reader for name in batch["video_id"]]
    assert names == [name for row in plan.rows for name in [clip_store.index.video_id[row]] * 3]


def test_a_batch_that_is_kept_stays_as_it_was(clip_store, monkeypatch):
    """Memory comes back only once nobody holds it: not even a view of one clip."""
    stream = stream_of(clip_store, batch_size=2, batches_ahead=1)
    kept = []
    for epoch in range(4):
        with stream.epoch(epoch) as reader:
            kept += [(batch["rgb"][1, :, 2:], batch["rgb"][1, :, 2:].clone()) for batch in reader]
    for view, copy in kept:
        assert torch.equal(view, copy)
    del kept, view
    allocated = []
    counting = SimpleNamespace(
        empty=lambda size, **options: allocated.append(size) or torch.empty(size, **options),
        from_numpy=torch.from_numpy,
    )
    monkeypatch.setattr("resact.train.clips.memory.torch", counting)
    for epoch in range(4):
        with stream.epoch(epoch) as reader:
            for batch in reader:
                del batch
    assert not any(allocated), "memory is not used again"


def test_a_bounded_number_of_batches_is_under_way(clip_store, monkeypatch):
    begun = []
    original = TrainPlan.clip
    monkeypatch.setattr(TrainPlan, "clip", lambda *a: begun.append(a[2]) or original(*a))
    with stream_of(clip_store, batch_size=1, batches_ahead=3).epoch(0) as reader:
        next(reader)
        time.sleep(0.3)
        assert max(begun) == 3  # one was taken, three are ready
        next(reader)
        time.sleep(0.3)
        assert max(begun) == 4


# What it must survive ------------------------------------------------------------------------------------------------


def break_shard(store: Path, video_id: str, how: str) -> None:
    shard = store / video_id / "0.0.0.0"
    if how == "deleted":
        shard.unlink()
    elif how == "truncated":
        shard.write_bytes(shard.read_bytes()[:40])
    elif how == "folder gone":
        shard.parent.rename(store.parent / "gone")
    else:
        data = bytearray(shard.read_bytes())
        for start in range(0, len(data), 97):
            data[start] ^= 1 << start % 8
        shard.write_bytes(data)


@pytest.mark.faults
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("how", ["deleted", "truncated", "corrupted", "folder gone"])
def test_a_shard_broken_under_a_running_loader_is_named_within_a_second(tmp_path, packed, how):
    store = make_clip_store(tmp_path / "s.zarr", [12] * 60)
    plan = plan_of(store)
    stream = stream_of(store, plan, packed=packed, batch_size=4)
    good = [by_hand(store, plan, 0, position) for position in range(60)]
    victim = store.index.video_id[plan.clip(0, 40).row]
    with stream.epoch(0) as reader:
        for _ in range(3):
            next(reader)
        break_shard(tmp_path / "s.zarr", victim, how)  # mid-epoch: three batches are out, three under way
        start = time.monotonic()
        for _ in range(7):  # what comes before the broken one is delivered
            batch = next(reader)
            for place, position in enumerate(batch["positions"]):
                assert torch.equal(batch["rgb"][place], good[position]["rgb"]), "wrong pixels"
        with pytest.raises(DamagedError, match=victim):
            next(reader)
        assert time.monotonic() - start < 1
        assert next(reader, None) is None
    assert not clip_threads()


@pytest.mark.faults
def test_a_file_system_that_goes_away_is_an_error_and_no_hang(tmp_path, monkeypatch):
    store = make_clip_store(tmp_path / "s.zarr", [12] * 12)
    there = threading.Event()
    original = ClipStore.read_frames
    struck = []

    def hanging(self, row, *arguments, **options):
        if len(struck) or plan_of(store).clip(0, 7).row == row:
            struck.append(self.index.video_id[row])
            there.wait()
        return original(self, row, *arguments, **options)

    monkeypatch.setattr(ClipStore, "read_frames", hanging)
    with stream_of(store, batch_size=2, timeout_seconds=0.5).epoch(0) as reader:
        for _ in range(3):
            next(reader)
        monkeypatch.setattr("resact.train.clips.stream._JOIN_SECONDS", 0.1)
        with pytest.raises(
            StreamError, match=r"no batch within 0\.5 s; not read yet: v_.*is the file system of .*s\.zarr there"
        ):
            list(reader)
    assert struck
    there.set()
    for thread in clip_threads():
        thread.join(5)
    assert not clip_threads()


def test_any_other_error_in_a_thread_names_the_video(clip_store, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(ClipStore, "read_frames", broken)
    video_id = clip_store.index.video_id[plan_of(clip_store).clip(0, 0).row]
    with (
        pytest.raises(StreamError, match=f"{video_id}: ZeroDivisionError: oops") as caught,
        stream_of(clip_store, threads=1).epoch(0) as reader,
    ):
        next(reader)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


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
        thread.join(5)
    assert not clip_threads()


@pytest.mark.faults
def test_open_and_close_leaks_neither_files_nor_threads(clip_store):
    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    plan = plan_of(clip_store)
    before = held()
    for cycle in range(10_000 if GAUNTLET else 200):
        with stream_of(clip_store, plan, batch_size=2).epoch(cycle) as reader:
            for _ in range(cycle % 3):
                next(reader)
    assert held() == before


def test_many_loaders_in_one_process(clip_store):
    plans = [plan_of(clip_store, seed=seed) for seed in range(6)]
    readers = [stream_of(clip_store, plan, batch_size=3).epoch(0) for plan in plans]
    for _ in range(4):
        for plan, reader in zip(plans, readers, strict=True):
            batch = next(reader)
            for place, position in enumerate(batch["positions"]):
                assert torch.equal(batch["rgb"][place], by_hand(clip_store, plan, 0, position)["rgb"])
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


def test_wrong_arguments_are_told(clip_store):
    for options, words in (
        ({"batch_size": 0}, "got batch_size 0, expected 1 or more"),
        ({"threads": 0}, "got threads 0"),
        ({"rank": 2, "world_size": 2}, "got rank 2, expected 0 <= rank < 2"),
        ({"normalisation": Normalisation(rgb_mean=(0.0,) * 3, rgb_std=(1.0,) * 3)}, "residual"),
    ):
        with pytest.raises(UsageError, match=words):
            stream_of(clip_store, **options)


# Map-style data set --------------------------------------------------------------------------------------------------


def test_the_map_style_data_set_gives_the_same_clips(clip_store):
    plan = plan_of(clip_store)
    dataset = ClipDataset(clip_store, plan, normalisation=NORMALISATION, epoch=4)
    assert len(dataset) == 12
    item = dataset[5]
    assert set(item) == {"rgb", "residual", "label", "video_id"}
    expected = by_hand(clip_store, plan, 4, 5)
    assert torch.equal(item["rgb"], expected["rgb"])
    assert torch.equal(item["residual"], expected["residual"])
    assert item["video_id"] == clip_store.index.video_id[plan.clip(4, 5).row]


def test_it_travels_to_forkserver_workers_as_a_path(clip_store):
    dataset = ClipDataset(clip_store, plan_of(clip_store), normalisation=NORMALISATION)
    loader = DataLoader(
        dataset, batch_size=4, num_workers=2, multiprocessing_context=multiprocessing.get_context("forkserver")
    )
    batches = list(loader)
    assert [len(batch["label"]) for batch in batches] == [4, 4, 4]
    for place, position in itertools.product(range(4), (0, 4, 8)):
        expected = by_hand(clip_store, dataset.plan, 0, position + place)
        assert torch.equal(batches[position // 4]["residual"][place], expected["residual"])


def test_a_data_set_sent_to_a_worker_is_as_large_as_its_own_videos(clip_store):
    count = 100_000
    columns = {name: np.full(count, 24, np.uint32) for name in ("num_frames", "height", "width")}
    store = replace(clip_store, index=SimpleNamespace(**columns))
    plan = TrainPlan(store.index, np.arange(0, count, 1000), GEOMETRY, seed=0, flip=True)
    dataset = ClipDataset(store, plan, normalisation=NORMALISATION)
    assert len(dataset) == 100
    assert len(pickle.dumps(dataset)) < 5000


def test_a_pickled_store_opens_the_same_path_again(clip_store):
    pickled = pickle.dumps(clip_store)
    assert len(pickled) < 1000
    assert pickle.loads(pickled).index.video_id[3] == clip_store.index.video_id[3]


@pytest.mark.timeout(120)
def test_under_torchrun_the_ranks_share_an_epoch(clip_store, tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(
        "import os, sys, numpy as np, resact\n"
        "from resact.train.clips.geometry import ClipGeometry\n"
        "from resact.train.clips.sampling import TrainPlan\n"
        "from resact.train.clips.stream import ClipStream\n"
        "from resact.train.clips.normalisation import measure_normalisation\n"
        "store = resact.open_store(sys.argv[1])\n"
        "rows, geometry = np.arange(len(store.index)), ClipGeometry(modality='both', frames=8, step=2, size=12)\n"
        "plan = TrainPlan(store.index, rows, geometry, seed=0, flip=False)\n"
        "rank, world = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])\n"
        "norm = measure_normalisation(store, rows, geometry, seed=0, clips=4, threads=1)\n"
        "stream = ClipStream(store, plan, batch_size=3, normalisation=norm, threads=1, rank=rank, world_size=world)\n"
        "with stream.epoch(0) as reader:\n"
        "    for batch in reader:\n"
        "        sys.stdout.write(f'{list(batch[\"positions\"])}\\n')\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    done = subprocess.run([*command, str(clip_store.files)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    positions = sorted(p for line in done.stdout.splitlines() for p in eval(line))
    assert positions == list(range(12))


# Normalisation -------------------------------------------------------------------------------------------------------


def test_normalisation_is_what_numpy_says_whatever_the_threads(clip_store):
    rows = clip_store.index.rows("split1", "train")
    one, three = (
        measure_normalisation(clip_store, rows, GEOMETRY, seed=5, clips=20, threads=threads) for threads in (1, 3)
    )
    assert one == three
    plan = TrainPlan(clip_store.index, rows, GEOMETRY, seed=5, flip=False)
    clips = [(position // len(rows), position % len(rows)) for position in range(20)]
    as_they_are = Normalisation(rgb_mean=(0, 0, 0), rgb_std=(1, 1, 1), residual_mean=(0, 0, 0), residual_std=(1, 1, 1))
    pixels = {"rgb": [], "residual": []}
    for epoch, position in clips:
        clip = plan.clip(epoch, position)
        frames = torch.from_numpy(clip_store.read_frames(clip.row, clip.start, clip.stop))
        for name, tensor in transform_clip(frames, clip, GEOMETRY, as_they_are).items():
            pixels[name].append(tensor.numpy().astype(np.float64))
    for name, clips_ in pixels.items():
        stack = np.stack(clips_)
        assert np.allclose(getattr(one, f"{name}_mean"), stack.mean(axis=(0, 2, 3, 4)), rtol=1e-12)
        assert np.allclose(getattr(one, f"{name}_std"), stack.std(axis=(0, 2, 3, 4)), rtol=1e-9)


def test_clips_that_never_change_have_a_spread_of_one(tmp_path):
    store = make_clip_store(tmp_path / "s.zarr", [1, 1, 1])
    geometry = ClipGeometry(modality="residual", frames=4, step=1, size=8)
    measured = measure_normalisation(store, np.arange(3), geometry, seed=0, clips=4)
    assert measured.residual_std == (1.0, 1.0, 1.0)
    assert measured.rgb_mean is None
    assert open_store(tmp_path / "s.zarr").index.num_frames.tolist() == [1, 1, 1]
