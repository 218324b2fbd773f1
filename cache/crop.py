"""The part of a frame that is wanted, and where frames lie among bytes."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bounds = npt.NDArray[np.int64]
"""(N, 2), where each chunk begins and ends in some bytes."""


class Crop(NamedTuple):
    """Of a frame, rows [top, bottom) and columns [left, right)."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Its height and width."""
        return self.bottom - self.top, self.right - self.left
