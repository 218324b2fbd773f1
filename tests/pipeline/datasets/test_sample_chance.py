"""Single frames of the sample do not tell the class; and the classifier that says so is able to find a cue.

Shapes: `M` frames of all videos, `F` features, `K` classes; `h`, `w` a reduced frame, 60 by 80.
"""

from math import comb

import numpy as np
import pytest

from resact.pipeline.datasets import sample
from resact.pipeline.datasets.sample import VIDEOS
from resact.pipeline.datasets.sample_scene import CLASSES, SampleVideo, draw_take, render_frame

FRAMES_PER_VIDEO = 5
LABELS = np.array([CLASSES.index(video.class_name) for video in VIDEOS])
GROUPS = np.array([video.group for video in VIDEOS])


def reduced(frame_HWC):
    rows = frame_HWC.reshape(60, 4, 960).sum(1, dtype=np.uint16)
    return rows.reshape(60, 80, 4, 3).sum(2, dtype=np.uint16).astype(np.float32) / 16


@pytest.fixture(scope="module")
def frames_and_changes():
    """Frames (M, h, w, 3), evenly over each video, and what changes in each within 3 frames."""
    frames, changes = [], []
    for video in VIDEOS:
        for t in np.linspace(0, video.num_frames - 4, FRAMES_PER_VIDEO).astype(int):
            first, second = (reduced(render_frame(video, int(n))) for n in (t, t + 3))
            frames.append(first)
            changes.append(np.abs(second - first))
    return np.stack(frames), np.stack(changes)


def features(images_MhwC):
    """Colour, contrast and edges by cell, histograms, and the spectrum of the middle: (M, F)."""
    count = len(images_MhwC)

    def cells(maps):
        return maps.reshape(count, 3, 20, 4, 20, -1).mean((2, 4)).reshape(count, -1)

    gray = images_MhwC.mean(-1)
    gy, gx = np.gradient(gray, axis=(1, 2))
    direction = ((np.arctan2(gy, gx) / np.pi + 1) * 4).astype(int) % 8
    edges = np.hypot(gx, gy)[..., None] * (direction[..., None] == np.arange(8))
    histogram = np.stack([(images_MhwC // 32 == level).mean((1, 2)) for level in range(8)], 1)
    window = np.hanning(48)[:, None] * np.hanning(48)
    middle = (gray[:, 6:54, 16:64] - gray.mean((1, 2), keepdims=True)) * window
    spectrum = np.fft.fftshift(np.log1p(np.abs(np.fft.fft2(middle))), axes=(1, 2))
    spectrum = spectrum.reshape(count, 12, 4, 12, 4).mean((2, 4))[:, :7]  # the rest mirrors it
    mean, square = cells(images_MhwC), cells(images_MhwC**2)
    parts = [mean, np.sqrt(np.maximum(square - mean**2, 0)), cells(edges), histogram, spectrum]
    return np.concatenate([part.reshape(count, -1) for part in parts], 1)


def videos_right(images_MhwC):
    """How many of the 192 videos a softmax regression gets right: each in the split that tests its group.

    Each group's mean is taken off first: what its videos have in common hides faint cues and says nothing of
    the class. A video counts once, by the sum over its frames, as these are not independent.
    """
    x_MF = features(images_MhwC)
    groups_M, labels_M = np.repeat(GROUPS, FRAMES_PER_VIDEO), np.repeat(LABELS, FRAMES_PER_VIDEO)
    for group in np.unique(GROUPS):
        x_MF[groups_M == group] -= x_MF[groups_M == group].mean(0)
    right = 0
    for test_groups in sample.TEST_GROUPS.values():
        tested = np.isin(groups_M, test_groups)
        scaled_MF = x_MF / (x_MF[~tested].std(0) + 1e-6)
        train_MF, target_MK = scaled_MF[~tested], np.eye(8)[labels_M[~tested]]
        weights_FK = momentum = np.zeros((x_MF.shape[1], 8))
        for _ in range(200):
            scores = train_MF @ weights_FK
            odds = np.exp(scores - scores.max(1, keepdims=True))
            slope = train_MF.T @ (odds / odds.sum(1, keepdims=True) - target_MK) / len(train_MF)
            momentum = 0.9 * momentum - 0.05 * (slope + 0.1 * weights_FK)
            weights_FK = weights_FK + momentum
        guesses = (scaled_MF[tested] @ weights_FK).reshape(-1, FRAMES_PER_VIDEO, 8).sum(1).argmax(1)
        right += int(np.sum(guesses == LABELS[np.isin(GROUPS, test_groups)]))
    return right


def most_right_by_chance(tries=192, chance=1 / 8, doubt=0.001):
    """Guessing gets more videos right than this in fewer than one run of a thousand."""
    tail, right = 0.0, tries + 1
    while tail < doubt:
        right -= 1
        tail += comb(tries, right) * chance**right * (1 - chance) ** (tries - right)
    return right


def test_single_frames_leave_the_class_to_chance(frames_and_changes):
    assert videos_right(frames_and_changes[0]) <= most_right_by_chance() == 39


def test_the_same_classifier_finds_a_faint_tint(frames_and_changes):
    """A tint of 2 levels of 255, with a hue for each class: nobody would see it."""
    hue = np.repeat(LABELS, FRAMES_PER_VIDEO) * (2 * np.pi / 8)
    tint = 2 * np.stack([np.cos(hue), np.sin(hue), 0 * hue], 1)[:, None, None, :].astype(np.float32)
    assert videos_right(frames_and_changes[0] + tint) > 1.4 * most_right_by_chance()


def test_the_same_classifier_learns_from_changes(frames_and_changes):
    """From the size of changes between frames, without their sign, it gets more than half of the videos right."""
    assert videos_right(frames_and_changes[1]) > 96


@pytest.mark.parametrize("class_name", CLASSES)
def test_state_is_uniform_at_each_frame(class_name):
    """The premise of the proof, on more groups than the set has: it finds a class that is drawn unlike the
    others, where a classifier of 192 videos might not."""
    takes = [draw_take(SampleVideo(class_name, group, 1)) for group in range(1, 401)]
    for frame in (0, 30, 87):
        angles = np.array([take.state_at(frame) for take in takes]) * (2 * np.pi / 2**32)
        resultant = np.hypot(np.cos(angles).mean(0), np.sin(angles).mean(0))
        assert resultant.max() < 0.17  # Rayleigh: by chance once in 100,000
    lengths = np.array([take.num_frames for take in takes])
    assert abs(lengths.mean() - 99) < 1.33  # 4 standard errors
