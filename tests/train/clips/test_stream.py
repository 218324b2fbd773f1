"""Batches are the plan's clips, exactly, whatever the threads; errors arrive; nothing stays behind."""

import multiprocessing
import os
import pickle
import time
from dataclasses import replace
from functools import partial
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.conftest import wait_until
from tests.train.clips.conftest import GEOMETRY, NORMALISATION, assert_clips, by_hand, plan_of, stream_of
from tests.train.clips.random_clips import AS_IT_IS
from tests.train.conftest import make_clip_store
from torch.utils.data import DataLoader

from resact.cache import machine_code
from resact.cache.store import open_store
from resact.errors import DamagedError
from resact.train.clips.dataset import ClipDataset
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.measurement import measure_normalisation
from resact.train.clips.plain_transform import transform_clip
from resact.train.clips.sampling import TestPlan, TrainPlan


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
def test_batches_are_the_plans_clips(clip_store, packed, threads, seed):
    plan = plan_of(clip_store, seed=seed)
    stream = stream_of(clip_store, plan, packed=packed, threads=threads)
    seen = []
    with stream.epoch(3) as reader:
        for batch in reader:
            assert len(batch["positions"]) == len(batch["label"]) == len(batch["video_id"]) == 4
            assert batch["rgb"].shape == batch["residual"].shape == (4, 3, 8, 12, 12)
            assert_clips(batch, partial(by_hand, clip_store, plan, 3))
            for place, position in enumerate(batch["positions"]):
                video_index = plan.clip(3, position).video_index
                assert batch["label"][place] == clip_store.index.label[video_index]
                assert batch["video_id"][place] == clip_store.index.video_id[video_index]
            seen += batch["positions"]
    assert seen == list(range(12))
    assert len(stream) == 3


@pytest.mark.skipif(not machine_code.is_on(), reason="machine code is off")
@pytest.mark.parametrize(("codec", "place"), [("jpeg", "jpeg.decode_jpegs"), ("lz4", "lz4.decode_lz4")])
@pytest.mark.parametrize("packed", [False, True])
def test_of_a_clip_only_the_square_is_decoded(tmp_path, codec, place, packed, seed, monkeypatch):
    """By machine code, except for crops that are too narrow for it."""
    module, name = place.split(".")
    decode, decoded = getattr(import_module(f"resact.cache.machine_code.{module}"), name), []

    def note(data, bounds, out, size, crop):
        left = decode(data, bounds, out, size, crop)
        assert (len(left) > 0) == (codec == "jpeg" and crop.size[1] < 32)
        decoded.append((size, crop))
        return left

    monkeypatch.setattr(f"resact.cache.machine_code.{place}", note)
    sizes = ((24, 32), (70, 100), (48, 33), (30, 24))
    store = make_clip_store(tmp_path / "a.zarr", [12, 20, 13, 15, 30, 11, 19, 14], codec=codec, sizes=sizes)
    plan = plan_of(store, seed=seed)
    stream = stream_of(store, plan, packed=packed, threads=1)
    for epoch in range(4):
        with stream.epoch(epoch) as reader:
            batches_had = list(reader)
        clips = [plan.clip(epoch, position) for position in range(len(plan))]
        assert decoded == [
            ((store.index.height[clip.video_index], store.index.width[clip.video_index]), clip.crop) for clip in clips
        ]
        for batch in batches_had:
            assert_clips(batch, partial(by_hand, store, plan, epoch))
        decoded.clear()


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
    whole, rest = {}, {}
    for clips, start in ((whole, 0), (rest, position)):
        with stream.epoch(2, position=start) as reader:
            clips |= {p: batch["rgb"][i].clone() for batch in reader for i, p in enumerate(batch["positions"])}
    assert list(rest) == list(range(position, 12))
    assert all(torch.equal(rest[p], whole[p]) for p in rest)


def test_ranks_share_an_epoch(clip_store):
    parts = []
    for rank in range(3):
        with stream_of(clip_store, batch_size=2, rank=rank, world_size=3).epoch(1) as reader:
            parts.append([batch["positions"] for batch in reader])
    assert [p for step in zip(*parts, strict=True) for part in step for p in part] == list(range(12))


def test_the_test_plan_streams_too(clip_store):
    plan = TestPlan(clip_store.index, clip_store.index.video_indices("split1", "test"), GEOMETRY, views=3)
    with stream_of(clip_store, plan).epoch(0) as reader:
        names = [name for batch in reader for name in batch["video_id"]]
    assert names == [
        name for video_index in plan.video_indices for name in [clip_store.index.video_id[video_index]] * 3
    ]


def test_a_batch_that_is_kept_stays_as_it_was(clip_store, monkeypatch):
    """Memory is reused only once nobody holds it, not even a view of one clip."""
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


@pytest.mark.parametrize(
    ("cores", "ranks", "threads"), [(6, None, 6), (6, "1", 6), (6, "2", 3), (7, "2", 3), (3, "4", 1), (1, None, 1)]
)
def test_ranks_on_one_machine_share_the_cores_that_they_may_use(clip_store, monkeypatch, cores, ranks, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(2, 2 + cores)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if ranks is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert stream_of(clip_store, threads=None).threads == threads
    assert stream_of(clip_store, threads=5).threads == 5


def test_a_bounded_number_of_batches_is_under_way(clip_store, monkeypatch):
    begun = []
    original = TrainPlan.clip
    monkeypatch.setattr(TrainPlan, "clip", lambda *a: begun.append(a[2]) or original(*a))
    with stream_of(clip_store, batch_size=1, batches_ahead=3).epoch(0) as reader:
        for taken in range(1, 4):
            next(reader)
            wait_until(lambda ready=taken + 3: len(begun) >= ready)
            time.sleep(0.05)  # would be enough to begin one too many
            assert sorted(begun) == list(range(taken + 3))  # those taken, and three that are ready


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
    assert item["video_id"] == clip_store.index.video_id[plan.clip(4, 5).video_index]


@pytest.mark.faults
def test_forkserver_workers_give_the_same_clips_and_name_a_broken_one(tmp_path):
    store = make_clip_store(tmp_path / "s.zarr", [12] * 12)
    dataset = ClipDataset(store, plan_of(store), normalisation=NORMALISATION)
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=2,
        multiprocessing_context=multiprocessing.get_context("forkserver"),
        persistent_workers=True,
        prefetch_factor=1,
    )
    batches = list(loader)
    assert [len(batch["label"]) for batch in batches] == [2] * 6
    for position in range(12):
        expected = by_hand(store, dataset.plan, 0, position)
        for name in ("rgb", "residual"):
            assert torch.equal(batches[position // 2][name][position % 2], expected[name])
    victim = store.index.video_id[dataset.plan.clip(0, 9).video_index]
    again = iter(loader)  # the same workers
    taken = [next(again)]
    (tmp_path / "s.zarr" / victim / "0.0.0.0").unlink()
    taken += [next(again) for _ in range(3)]
    with pytest.raises(DamagedError, match=f"{victim}: its shard is missing"):
        next(again)
    assert all(torch.equal(batch["rgb"], before["rgb"]) for batch, before in zip(taken, batches, strict=False))


def test_a_data_set_sent_to_a_worker_is_as_large_as_its_own_videos(clip_store):
    count = 100_000
    columns = {name: np.full(count, 24, np.uint32) for name in ("num_frames", "height", "width")}
    store = replace(clip_store, index=SimpleNamespace(**columns))
    plan = TrainPlan(store.index, np.arange(0, count, 1000), GEOMETRY, seed=0, flip=True)
    dataset = ClipDataset(store, plan, normalisation=NORMALISATION)
    assert len(dataset) == 100
    assert len(pickle.dumps(dataset)) < 5000


# Normalisation -------------------------------------------------------------------------------------------------------


def test_normalisation_is_what_numpy_says_whatever_the_threads(clip_store):
    video_indices = clip_store.index.video_indices("split1", "train")
    one, three = (
        measure_normalisation(clip_store, video_indices, GEOMETRY, seed=5, clips=20, threads=threads)
        for threads in (1, 3)
    )
    assert one == three
    plan = TrainPlan(clip_store.index, video_indices, GEOMETRY, seed=5, flip=False)
    clips = [(position // len(video_indices), position % len(video_indices)) for position in range(20)]
    pixels = {"rgb": [], "residual": []}
    for epoch, position in clips:
        clip = plan.clip(epoch, position)
        frames = torch.from_numpy(clip_store.read_frames(clip.video_index, clip.start, clip.stop))
        for name, tensor in transform_clip(frames, clip, GEOMETRY, AS_IT_IS).items():
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
