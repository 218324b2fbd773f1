"""The crop of a frame, and the bounds of frames in a byte buffer."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bounds = npt.NDArray[np.int64]
"""(N, 2): where each chunk begins and ends in a buffer."""


class Crop(NamedTuple):
    """Rows [top, bottom) and columns [left, right) of a frame."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Its height and width."""
        return self.bottom - self.top, self.right - self.left
