"""Decodes a clip's frames in memory whose surroundings must stay as they were."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from resact.cache.crop import Crop

Frames = npt.NDArray[np.uint8]
GUARD = 4096


def bounds_of(chunks: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """(N, 2), where each chunk begins and ends if one follows the other."""
    return np.array(list(pairwise([0, *accumulate(map(len, chunks))])))


def decode_in_bounds(
    decode: Callable[..., Sequence[int]], chunks: list[bytes], size: tuple[int, int], crop: Crop | None = None
) -> tuple[Frames, list[int]]:
    """The decoded chunks, in memory that was full of 77s, and the frames that `decode` leaves."""
    crop = crop or Crop(0, size[0], 0, size[1])
    shape = len(chunks), *crop.size, 3
    memory = np.full(math.prod(shape) + 2 * GUARD, 77, np.uint8)
    out = memory[GUARD:-GUARD].reshape(shape)
    left = decode(memoryview(b"".join(chunks)), bounds_of(chunks), out, size, crop)
    assert (memory[:GUARD] == 77).all()
    assert (memory[-GUARD:] == 77).all()
    return out, list(left)
