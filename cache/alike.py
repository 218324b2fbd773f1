"""Videos that look the same: describes each by a few numbers, and finds the pairs that are alike.

The rule. Of a video's first four seconds, a frame every half second, each as 8x8 means of its brightness. Overall
brightness and contrast are removed. Two videos are alike if they differ by at most half as much as each changes over
time. So copies in another size, codec or frame rate are alike, and two clips of one still camera are not, since people
move differently in the other. The rule does not apply to videos without movement or with fewer than two such frames.
docs/datasets.md has its measured accuracy.

Shapes: N videos, K frames of one, G = 64 means of a frame.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

SECONDS = tuple((number + 0.5) / 2 for number in range(8))
"""Times of the frames: those of sampling at 2 frames per second."""

_GRID = 8
_LEAST_FRAMES = 2
_MOST_DIFFERENCE = 0.5  # as a share of what changes in each of the two
_LEAST_CHANGE = 1.0  # of 255, or it is noise
_BLOCK = 2048  # videos compared with all others at once

MOST_VIDEOS = 200_000
"""Most videos whose pairs are compared. This number takes a quarter of an hour on two cores, twice as many four times
as long."""

Look = npt.NDArray[np.float32]
"""(K, 64): the means of up to eight frames."""


def means_of(luma_HW: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """(64,) means of a frame's brightness, in an 8x8 grid of equal parts; for a smaller frame, the nearest pixels."""
    rows, columns = (np.arange(_GRID) * size // _GRID for size in luma_HW.shape)
    counts = (np.diff([*edges, size]).clip(1) for edges, size in zip((rows, columns), luma_HW.shape, strict=True))
    down, across = counts
    sums = np.add.reduceat(np.add.reduceat(luma_HW.astype(np.float32), rows, axis=0), columns, axis=1)
    return np.asarray(sums / np.outer(down, across), np.float32).ravel()


def alike_pairs(looks: Sequence[Look]) -> list[tuple[int, int]]:
    """All pairs of videos that look the same, sorted. Compares each with each, by matrix products.

    Args:
        looks: look of each video; empty if it has none.

    Returns:
        Places of the two in `looks`, the smaller first.
    """
    counts = np.array([len(look) for look in looks])
    pairs: set[tuple[int, int]] = set()
    for count in range(_LEAST_FRAMES, len(SECONDS) + 1):
        mine = _Looks(looks, np.flatnonzero(counts == count), count)
        longer = _Looks(looks, np.flatnonzero(counts == count + 1), count)  # a copy may end a frame earlier
        pairs.update(mine.pairs_with(mine))
        pairs.update(mine.pairs_with(longer))
    return sorted(pairs)


class _Looks:
    """The looks of some videos, as far as all of them have frames."""

    def __init__(self, looks: Sequence[Look], places: npt.NDArray[np.intp], count: int) -> None:
        self._places = places
        if len(places):
            self._vectors, self._changes = _normalised([looks[place][:count] for place in places])

    def pairs_with(self, other: "_Looks") -> Iterator[tuple[int, int]]:
        """Places of alike videos, the earlier one first; block by block, so that memory stays small."""
        for top in range(0, len(self._places), _BLOCK):
            for left in range(top if other is self else 0, len(other._places), _BLOCK):
                mine, theirs = slice(top, top + _BLOCK), slice(left, left + _BLOCK)
                difference_NN = 2 - 2 * (self._vectors[mine] @ other._vectors[theirs].T)  # of vectors of length 1
                change_NN = np.minimum(self._changes[mine, None], other._changes[None, theirs])
                for row, column in np.argwhere(difference_NN <= _MOST_DIFFERENCE**2 * change_NN).tolist():
                    one, two = sorted((int(self._places[top + row]), int(other._places[left + column])))
                    if one != two:
                        yield one, two


def _normalised(looks: Sequence[Look]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(N, K * 64) vectors of length 1 around 0, and (N,) what changes from frame to frame, squared; -1 for nothing."""
    vectors = np.empty((len(looks), looks[0].size), np.float32)
    changes = np.full(len(looks), -1.0, np.float32)
    for place, look in enumerate(looks):
        around_KG = look.astype(np.float64) - look.mean(dtype=np.float64)
        square = float((around_KG**2).sum())
        change = float(((around_KG - around_KG.mean(0)) ** 2).sum())
        vectors[place] = around_KG.ravel() / max(square, 1e-9) ** 0.5
        if change >= _LEAST_CHANGE**2 * look.size:
            changes[place] = change / square
    return vectors, changes
