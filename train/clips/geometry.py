"""What a clip is: how many frames of what size, and how far apart the two that a residual subtracts."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from resact.errors import UsageError

MODALITIES = ("rgb", "residual", "both")
SHORT_CLIPS = ("mirror", "loop", "hold")
SCALES = tuple(2 ** (-quarter / 4) for quarter in range(5))
"""A training crop's side over the frame's short side: 1, 2^-1/4, 2^-1/2, 2^-3/4, 1/2."""

_MOST = 2**16


@dataclass(frozen=True, kw_only=True)
class ClipGeometry:
    """Sizes of the clips that a network is given (paper, table 1)."""

    modality: Literal["rgb", "residual", "both"] = "residual"
    frames: int = 32
    """T: frames of the RGB clip, and of the residual clip."""
    step: int = 1
    """s: a residual is `abs(x[t + s] - x[t])`; plays no part where the modality is `rgb`."""
    size: int = 112
    """D: height and width in pixels."""
    short_clips: Literal["mirror", "loop", "hold"] = "mirror"
    """What follows the last frame of a video that is too short."""
    min_scale: float = SCALES[-1]
    """The smallest of `SCALES` that training crops take; 1 for none but the largest crops."""

    def __post_init__(self) -> None:
        _require(self.modality in MODALITIES, "modality", self.modality, f"one of {', '.join(MODALITIES)}")
        _require(self.short_clips in SHORT_CLIPS, "short clips", self.short_clips, f"one of {', '.join(SHORT_CLIPS)}")
        for name in ("frames", "step", "size"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool)
            _require(whole and 1 <= value <= _MOST, name, value, f"a whole number from 1 to {_MOST:,}")
        number = isinstance(self.min_scale, int | float) and not isinstance(self.min_scale, bool)
        _require(number and SCALES[-1] <= self.min_scale <= 1, "min_scale", self.min_scale, "a number from 0.5 to 1")
        _require(self.step < self.frames, "step", self.step, f"one below the {self.frames} frames of a clip")

    @property
    def streams(self) -> tuple[str, ...]:
        """`rgb`, `residual` or both, as the network takes them."""
        return ("rgb", "residual") if self.modality == "both" else (self.modality,)

    @property
    def scales(self) -> tuple[float, ...]:
        """Those of `SCALES` that training crops take, each as often."""
        return tuple(scale for scale in SCALES if scale >= self.min_scale)

    @property
    def frames_read(self) -> int:
        """T + s frames are read for T residuals, T for RGB alone."""
        return self.frames + (self.step if "residual" in self.streams else 0)

    def frame_order(self, start: int, num_frames: int) -> npt.NDArray[np.int64]:
        """(frames_read,) which stored frame each frame of a clip is.

        Args:
            start: the clip's first frame; 0 where the video is shorter than the clip.
            num_frames: stored frames of the video.
        """
        wanted = np.arange(start, start + self.frames_read)
        if wanted[-1] < num_frames:
            return wanted
        if self.short_clips == "hold" or num_frames == 1:
            return np.minimum(wanted, num_frames - 1)
        if self.short_clips == "loop":
            return wanted % num_frames
        period = 2 * (num_frames - 1)  # 0 1 2 3 2 1 0 1 ...: neither end is shown twice
        phase = wanted % period
        return np.minimum(phase, period - phase)


def _require(fits: bool, name: str, got: Any, expected: str) -> None:
    if not fits:
        raise UsageError(f"got {name} {got!r}, expected {expected}")
