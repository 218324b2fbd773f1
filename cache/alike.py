"""Videos that look the same: describes each by a few numbers, and finds the pairs that are alike.

The rule. Of a video's first four seconds, a frame every half second, each as 8x8 means of its brightness. Overall
brightness and contrast are removed. Two videos are alike if they differ by at most half as much as each changes over
time. So copies in another size, codec or frame rate are alike, and two clips of one still camera are not, since people
move differently in the other. The rule does not apply to videos without movement or with fewer than two such frames.
docs/datasets.md has its measured accuracy.

Shapes: N videos, K frames of one, G = 64 means of a frame.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

SECONDS = tuple((number + 0.5) / 2 for number in range(8))
"""Times of the frames: those of sampling at 2 frames per second."""

_GRID = 8
_LEAST_FRAMES = 2
_MOST_DIFFERENCE = 0.5  # as a share of what changes in each of the two
_LEAST_CHANGE = 1.0  # of 255, or it is noise
_BLOCK = 2048  # videos compared with all others at once

Look = npt.NDArray[np.float32]
"""(K, 64): the means of up to eight frames."""


def means_of(luma_HW: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(64,) means of a frame's brightness, in an 8x8 grid of equal parts; for a smaller frame, the nearest pixels."""
    rows, columns = (np.arange(_GRID) * size // _GRID for size in luma_HW.shape)
    counts = (np.diff([*edges, size]).clip(1) for edges, size in zip((rows, columns), luma_HW.shape, strict=True))
    down, across = counts
    sums = np.add.reduceat(np.add.reduceat(luma_HW.astype(np.float32), rows, axis=0), columns, axis=1)
    return np.asarray(sums / np.outer(down, across), np.float32).ravel()


@dataclass(frozen=True)
class AlikePair:
    """Two videos by their indices, the smaller first."""

    first: int
    second: int


def alike_pairs(looks: Sequence[Look]) -> list[AlikePair]:
    """All pairs of videos that look the same, sorted. Compares each with each, by matrix products.

    Args:
        looks: look of each video; empty if it has none.
    """
    counts = np.array([len(look) for look in looks])
    pairs: set[tuple[int, int]] = set()
    for count in range(_LEAST_FRAMES, len(SECONDS) + 1):
        # A copy may end a frame earlier.
        shorter, others = np.flatnonzero(counts == count), np.flatnonzero((counts == count) | (counts == count + 1))
        if len(shorter) and len(others) > 1:
            pairs.update(_pairs(looks, count, shorter, others))
    return [AlikePair(*pair) for pair in sorted(pairs)]


def _pairs(
    looks: Sequence[Look], count: int, places: npt.NDArray[np.intp], others: npt.NDArray[np.intp]
) -> Iterator[tuple[int, int]]:
    mine, my_change = _normalised([looks[place][:count] for place in places])
    theirs, their_change = _normalised([looks[place][:count] for place in others])
    for start in range(0, len(places), _BLOCK):
        block, change = mine[start : start + _BLOCK], my_change[start : start + _BLOCK]
        difference_NN = 2 - 2 * (block @ theirs.T)  # of vectors of length 1
        bound_NN = _MOST_DIFFERENCE**2 * np.minimum(change[:, None], their_change[None])
        for row, column in np.argwhere(difference_NN <= bound_NN).tolist():
            one, other = int(places[start + row]), int(others[column])
            if one != other:
                yield min(one, other), max(one, other)


def _normalised(looks: Iterable[Look]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(N, K * 64) vectors of length 1 around 0, and (N,) what changes from frame to frame, squared; -1 for nothing."""
    stacked_NKG = np.stack(list(looks)).astype(np.float64)
    vectors = stacked_NKG - stacked_NKG.mean((1, 2), keepdims=True)
    square = (vectors**2).sum((1, 2))
    changes = ((stacked_NKG - stacked_NKG.mean(1, keepdims=True)) ** 2).sum((1, 2))
    moves = changes >= _LEAST_CHANGE**2 * stacked_NKG[0].size
    length = np.sqrt(np.where(square > 0, square, 1))
    flat = (vectors / length[:, None, None]).reshape(len(vectors), -1)
    return flat, np.where(moves, changes / np.where(square > 0, square, 1), -1.0)
