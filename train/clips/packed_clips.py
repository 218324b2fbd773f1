"""A batch of clips of different sizes in one buffer. Shapes: N stored frames of a clip, H height, W width."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resact.errors import UsageError
from resact.train.clips.plain_transform import described
from resact.train.clips.sampling import Clip


@dataclass(frozen=True, kw_only=True)
class PackedClips:
    """Frames of a batch of clips, complete or cropped, one clip after another in one buffer."""

    frames: Tensor
    """(bytes,) uint8, on any device."""
    offsets: Sequence[int]
    """Offset of each clip's first frame; its `clip.stop - clip.start` frames are contiguous, (N, H, W, 3)."""
    heights: Sequence[int]
    """Height of each clip's packed frames."""
    widths: Sequence[int]
    clips: Sequence[Clip]
    largest_side: int | None = None
    """Largest side in any batch like this one: the kernel is compiled for it once. None: the largest side of this
    batch; each new largest side may compile the kernel again."""

    def __post_init__(self) -> None:
        if self.frames.ndim != 1 or self.frames.dtype != torch.uint8 or not self.frames.is_contiguous():
            raise UsageError(f"got frames {described(self.frames)}, expected contiguous (bytes,) of uint8")
        count = len(self.clips)
        if not count == len(self.offsets) == len(self.heights) == len(self.widths):
            raise UsageError(
                f"got {count} clips, {len(self.offsets)} offsets, {len(self.heights)} heights and {len(self.widths)} "
                "widths, expected equally many"
            )
        if self.largest_side is not None and any(clip.side > self.largest_side for clip in self.clips):
            raise UsageError(f"got a crop larger than the largest side, {self.largest_side}")
        for clip, offset, height, width in zip(self.clips, self.offsets, self.heights, self.widths, strict=True):
            stop = offset + (clip.stop - clip.start) * height * width * 3
            if not 0 <= offset < stop <= self.frames.numel():
                raise UsageError(
                    f"got a clip at bytes [{offset}, {stop}) of a buffer of {self.frames.numel()}, expected it within"
                )

    def frames_of(self, position: int) -> Tensor:
        """(N, H, W, 3) uint8, a view of the stored frames of one clip."""
        clip, height, width = self.clips[position], self.heights[position], self.widths[position]
        shape = (clip.stop - clip.start, height, width, 3)
        return self.frames[self.offsets[position] :][: math.prod(shape)].view(shape)
