"""Which videos look the same, told from a few means of their brightness."""

from itertools import pairwise

import numpy as np
import pytest

from resact.cache.alike import alike_pairs, means_of


def look(seed: int, frames: int = 8, *, motion: float = 20.0) -> np.ndarray:
    """A scene of its own, in which something moves."""
    random = np.random.default_rng(seed)
    scene = random.uniform(40, 200, 64)
    return (scene + motion * random.standard_normal((frames, 64))).astype(np.float32)


@pytest.mark.parametrize("shape", [(32, 42), (32, 32), (240, 320), (9, 8), (8, 17)])
def test_means_are_those_of_equal_parts(shape: tuple[int, int], seed: int) -> None:
    frame = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    rows, columns = (np.linspace(0, size, 9).astype(int) for size in shape)
    expected = [
        frame[top:bottom, left:right].mean() for top, bottom in pairwise(rows) for left, right in pairwise(columns)
    ]
    np.testing.assert_allclose(means_of(frame), expected, rtol=1e-5)


def test_frames_of_fewer_pixels_than_parts_have_means_too() -> None:
    assert means_of(np.full((2, 6), 7, np.uint8)).tolist() == [7] * 64


def test_copies_are_found_brighter_noisier_or_shorter(seed: int) -> None:
    one, other = look(seed), look(seed + 1)
    noise = np.random.default_rng(seed).standard_normal((8, 64)).astype(np.float32)
    assert alike_pairs([one, other, one, 1.3 * one - 20 + 2 * noise, other[:7]]) == [(0, 2), (0, 3), (1, 4), (2, 3)]


def test_two_clips_of_one_still_camera_are_not_alike(seed: int) -> None:
    random = np.random.default_rng(seed)
    scene = random.uniform(40, 200, 64)
    clips = [(scene + 5 * random.standard_normal((8, 64))).astype(np.float32) for _ in range(6)]
    assert alike_pairs(clips) == []


def test_nothing_is_said_of_what_does_not_move_is_too_short_or_is_not_there(seed: int) -> None:
    still, short, black = look(seed, motion=0.1), look(seed, 1), np.zeros((8, 64), np.float32)
    assert alike_pairs([still, still, short, short, black, black, np.zeros((0, 0), np.float32)]) == []
    assert alike_pairs([]) == []


def test_all_are_compared_with_all_whatever_the_block(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(seed)
    looks = [look(int(random.integers(12)), int(random.integers(2, 9))) for _ in range(40)]
    expected = [
        (one, other)
        for other in range(40)
        for one in range(other)
        if alike_pairs([looks[one], looks[other]]) == [(0, 1)]
    ]
    assert expected
    monkeypatch.setattr("resact.cache.alike._BLOCK", 3)
    assert alike_pairs(looks) == sorted(expected)
