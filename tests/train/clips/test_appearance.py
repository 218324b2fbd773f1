"""Colour jitter and blur: what they do, that it is drawn from seed, epoch and position, and that both inputs see it."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tests.train.clips.conftest import GEOMETRY, NORMALISATION, assert_clips, by_hand, stream_of
from tests.train.clips.random_clips import AS_IT_IS

from resact.errors import UsageError
from resact.train.clips import transform
from resact.train.clips.appearance import altered
from resact.train.clips.dataset import ClipDataset
from resact.train.clips.packed_clips import PackedClips
from resact.train.clips.plain_transform import resize_clip
from resact.train.clips.residual import residual_frames
from resact.train.clips.sampling import Appearance, TrainPlan
from resact.train.clips.transform import make_clip, transform_batch

GREY = np.array([0.299, 0.587, 0.114])


def plan_of(store, **options):
    videos = np.arange(len(store.index))
    return TrainPlan(store.index, videos, GEOMETRY, seed=3, flip=True, **{"colour_jitter": 0.4, "blur": 2.0, **options})


def random_clip(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, 4, 9, 9), dtype=np.uint8)


def by_definition(clip: np.ndarray, appearance: Appearance) -> np.ndarray:
    """Step by step in double precision, the blur pixel by pixel."""
    values = clip.astype(float) * appearance.brightness
    mean = np.tensordot(GREY, values, 1).mean()
    values = mean + appearance.contrast * (values - mean)
    grey = np.tensordot(GREY, values, 1)
    values = grey + appearance.saturation * (values - grey)
    if appearance.sigma:
        reach = math.ceil(3 * appearance.sigma)
        weight = [math.exp(-(k**2) / (2 * appearance.sigma**2)) for k in range(-reach, reach + 1)]
        for axis in (2, 3):
            length, blurred = values.shape[axis], np.zeros_like(values)
            for place in range(length):
                taken = [min(max(place + k, 0), length - 1) for k in range(-reach, reach + 1)]
                mixed = sum(w * values.take(at, axis) for w, at in zip(weight, taken, strict=True)) / sum(weight)
                blurred[(slice(None),) * axis + (place,)] = mixed
            values = blurred
    return values.clip(0, 255)


@pytest.mark.parametrize(
    "appearance",
    [
        Appearance(brightness=1.3, contrast=1, saturation=1, sigma=0),
        Appearance(brightness=1, contrast=0.6, saturation=1, sigma=0),
        Appearance(brightness=1, contrast=1, saturation=1.7, sigma=0),
        Appearance(brightness=1, contrast=1, saturation=1, sigma=0.8),
        Appearance(brightness=0.7, contrast=1.4, saturation=0.2, sigma=2.5),
        Appearance(brightness=1, contrast=1, saturation=1, sigma=1e-3),
    ],
    ids=str,
)
def test_pixels_are_those_of_the_definition_rounded_once(seed, appearance):
    clip = random_clip(seed)
    wanted, got = by_definition(clip, appearance), altered(torch.from_numpy(clip), appearance)
    assert got.dtype == torch.uint8
    assert np.abs(got.numpy() - wanted).max() < 0.51


def test_a_neutral_appearance_changes_nothing(seed):
    clip = torch.from_numpy(random_clip(seed))
    assert torch.equal(altered(clip, Appearance(brightness=1, contrast=1, saturation=1, sigma=0)), clip)


def test_where_nothing_moves_the_residual_stays_0(seed):
    clip = torch.from_numpy(random_clip(seed))[:, :1].expand(3, 6, 9, 9).contiguous()
    changed = altered(clip, Appearance(brightness=1.2, contrast=0.7, saturation=1.3, sigma=1.1))
    assert not residual_frames(changed[None]).any()


def test_both_inputs_see_the_same_changed_frames(clip_store):
    plan = plan_of(clip_store)
    clip = plan.clip(1, 5)
    frames = torch.from_numpy(clip_store.read(clip_store.index.video_id[clip.video_index], clip.start, clip.stop))
    made = make_clip(frames, clip, GEOMETRY, AS_IT_IS)
    resized = resize_clip(frames, top=clip.top, left=clip.left, side=clip.side, size=GEOMETRY.size)
    upright = resized[torch.tensor(clip.order)].transpose(0, 1)
    changed = altered(upright.flip(-1) if clip.flip else upright, clip.appearance)
    assert torch.equal(made["rgb"], changed[:, : GEOMETRY.frames].float())
    assert torch.equal(made["residual"], residual_frames(changed[None], step=GEOMETRY.step)[0].float())
    assert not torch.equal(made["rgb"], make_clip(frames, replace(clip, appearance=None), GEOMETRY, AS_IT_IS)["rgb"])


def test_what_is_drawn_depends_on_seed_epoch_and_position_alone_and_changes_nothing_else(clip_store):
    plan, plain = plan_of(clip_store), plan_of(clip_store, colour_jitter=0.0, blur=0.0)
    drawn = [plan.clip(2, position) for position in range(len(plan))]
    for position in reversed(range(len(plan))):
        plan.clip(7, position)
        again, without = plan_of(clip_store).clip(2, position), plain.clip(2, position)
        assert again.appearance == drawn[position].appearance
        assert without.appearance is None
        assert (without.video_index, without.start, without.top, without.left, without.side, without.flip) == (
            again.video_index, again.start, again.top, again.left, again.side, again.flip,
        )  # fmt: skip
    assert plan.clip(3, 0).appearance != drawn[0].appearance
    assert drawn[0].appearance == Appearance(
        brightness=1.3350145709791814,
        contrast=0.6702673872723521,
        saturation=1.3128833803465831,
        sigma=1.463542555547058,
    )


def test_factors_and_sigma_are_uniform_within_their_bounds(clip_store):
    plan = plan_of(clip_store)
    drawn = [plan.clip(epoch, position).appearance for epoch in range(100) for position in range(len(plan))]
    for name, low, high in (
        ("brightness", 0.6, 1.4), ("contrast", 0.6, 1.4), ("saturation", 0.6, 1.4), ("sigma", 0.0, 2.0),
    ):  # fmt: skip
        values = np.array([getattr(appearance, name) for appearance in drawn])
        assert low <= values.min() < values.max() < high
        counts, _ = np.histogram(values, bins=8, range=(low, high))
        expected = len(values) / 8
        assert ((counts - expected) ** 2 / expected).sum() < 40  # 1 in 10^6 at 7 degrees of freedom; the plan is fixed
    only = plan_of(clip_store, colour_jitter=0.0).clip(0, 0).appearance
    assert (only.brightness, only.contrast, only.saturation) == (1, 1, 1)


def test_stream_and_dataset_give_what_the_plain_transform_gives(clip_store):
    plan = plan_of(clip_store)
    dataset = ClipDataset(clip_store, plan, normalisation=NORMALISATION, epoch=1)
    for packed in (False, True):
        with stream_of(clip_store, plan, packed=packed).epoch(1) as reader:
            for batch in reader:
                assert_clips(batch, partial(by_hand, clip_store, plan, 1))
                assert_clips(batch, lambda position: {name: dataset[position][name] for name in GEOMETRY.streams})


def test_clips_that_ask_for_nothing_keep_the_machine_code(clip_store, monkeypatch):
    def slow(*_, **__):
        raise AssertionError("the plain way")

    monkeypatch.setattr(transform, "transform_clip", slow)
    with stream_of(clip_store, plan_of(clip_store, colour_jitter=0.0, blur=0.0)).epoch(0) as reader:
        assert sum(len(batch["label"]) for batch in reader) == len(clip_store.index)
    with pytest.raises(Exception, match="the plain way"), stream_of(clip_store, plan_of(clip_store)).epoch(0) as reader:
        list(reader)


def test_the_kernel_cannot_be_asked_for(clip_store):
    clip = plan_of(clip_store).clip(0, 0).cropped
    frames = torch.zeros((clip.stop - clip.start) * clip.side**2 * 3, dtype=torch.uint8)
    packed = PackedClips(frames=frames, offsets=[0], heights=[clip.side], widths=[clip.side], clips=[clip])
    with pytest.raises(UsageError, match="got kernel 'triton' and clips whose appearance is changed"):
        transform_batch(packed, GEOMETRY, NORMALISATION, kernel="triton")
