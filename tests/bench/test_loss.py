"""Shapes: N frames, H height, W width, C channels."""

import math

import numpy as np
import pytest
import torch

import resact
from resact.bench.loss import decibels, losses_against
from resact.train.clips.plain_transform import resize_clip

NAMES = ("frames_db", "residual_step_1_db", "residual_step_3_db")


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def centre_residual(frames_NHWC, step, size):
    """The centre crop, resized as in training, and the public residual of it."""
    _, height, width, _ = frames_NHWC.shape
    side = min(height, width)
    crop = frames_NHWC[:, (height - side) // 2 :, (width - side) // 2 :][:, :side, :side]
    small = resize_clip(torch.from_numpy(np.ascontiguousarray(crop)), top=0, left=0, side=side, size=size)
    return resact.residual_frames(small.permute(1, 0, 2, 3)[None], step=step).numpy().astype(np.float64)


@pytest.mark.parametrize("shape", [(5, 24, 36), (6, 31, 20)])
def test_losses_are_those_of_the_definitions(seed, shape):
    right, lossy = noise(seed, *shape), noise(seed + 1, *shape)
    found = losses_against(right, steps=(1, 3), size=12)(lossy)
    assert tuple(found) == NAMES
    error = lossy.astype(np.float64) - right
    assert found["frames_db"] == pytest.approx(10 * np.log10(255**2 / np.mean(error**2)))
    for step in (1, 3):
        expected, got = (centre_residual(frames, step, 12) for frames in (right, lossy))
        db = 10 * np.log10(np.mean(expected**2) / np.mean((got - expected) ** 2))
        assert found[f"residual_step_{step}_db"] == pytest.approx(db)


def test_what_does_not_differ_is_infinite_and_what_has_no_signal_is_none(seed):
    right = noise(seed, 6, 16, 20)
    assert losses_against(right, steps=(1, 3), size=8)(right.copy()) == dict.fromkeys(NAMES, math.inf)
    still = np.repeat(right[:1], 6, axis=0)
    found = losses_against(still, steps=(1, 3), size=8)(right)
    assert found["frames_db"] is not None
    assert (found["residual_step_1_db"], found["residual_step_3_db"]) == (None, None)
    assert losses_against(still, steps=(1, 3), size=8)(still ^ 1)["residual_step_1_db"] == math.inf


def test_ten_times_the_noise_is_ten_decibels_less():
    assert decibels(1.0, 0.01) == pytest.approx(20)
    assert decibels(1.0, 0.1) == pytest.approx(10)
