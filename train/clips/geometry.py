"""The sizes of a clip: number of frames, height and width, residual step."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from resact.train.settings import check, refuse, setting

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

MODALITIES = ("rgb", "residual", "both")
SHORT_CLIPS = ("mirror", "loop", "hold")
SAMPLING = ("uniform", "balanced")
"""Ways to sample training videos: each once per epoch, or each class equally often."""
SCALES = tuple(2 ** (-quarter / 4) for quarter in range(5))
"""A training crop's side, relative to the frame's short side: 1, 2^-1/4, 2^-1/2, 2^-3/4, 1/2."""

_MOST = 2**16
_setting = partial(setting, panel="Clips")


@dataclass(frozen=True, kw_only=True)
class ClipGeometry:
    """Sizes of the clips that a network is given (paper, table 1).

    Raises:
        UsageError: a value is out of range, or the step is not below the number of frames.

    Example:
        geometry = resact.ClipGeometry(modality="both", frames=32, step=2, size=112)
        print(geometry.streams, geometry.frames_read)  # ('rgb', 'residual') 34: T + s frames for T residuals
    """

    modality: Literal["rgb", "residual", "both"] = _setting(
        "residual",
        choices=MODALITIES,
        help="What the network sees: RGB frames, residual frames, or both.",
        source="ours",
    )
    step: int = _setting(
        1,
        least=1,
        most=_MOST,
        metavar="S",
        help="Residual step, in frames: abs(x(t+S) - x(t)).",
        source="paper, table 3: the best",
    )
    frames: int = _setting(32, least=1, most=_MOST, metavar="T", help="Frames per clip.", source="paper, table 1")
    size: int = _setting(
        112, least=1, most=_MOST, metavar="D", help="Height and width of a clip, in pixels.", source="paper, table 1"
    )
    short_clips: Literal["mirror", "loop", "hold"] = _setting(
        "mirror",
        choices=SHORT_CLIPS,
        help="How to extend a video shorter than a clip: play it backwards, start again, or repeat its last frame.",
        source="ours",
    )
    min_scale: float = _setting(
        SCALES[-1],
        least=SCALES[-1],
        most=1,
        metavar="X",
        help="Smallest training crop, as a share of the frame's short side; 1: only the largest crop.",
        source="arXiv 1711.09577: five scales down to 1/2",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.step >= self.frames:
            refuse("step", self.step, f"one below the {self.frames} frames of a clip")

    @property
    def streams(self) -> tuple[str, ...]:
        """The network's inputs: `rgb`, `residual` or both."""
        return ("rgb", "residual") if self.modality == "both" else (self.modality,)

    @property
    def scales(self) -> tuple[float, ...]:
        """The `SCALES` of training crops, all equally likely."""
        return tuple(scale for scale in SCALES if scale >= self.min_scale)

    @property
    def frames_read(self) -> int:
        """Frames that a clip reads: T + s with residuals, T for RGB alone."""
        return self.frames + (self.step if "residual" in self.streams else 0)

    def frame_order(self, start: int, num_frames: int) -> "npt.NDArray[np.int64]":
        """(frames_read,) the stored frame that each frame of a clip is.

        Args:
            start: the clip's first frame; 0 if the video is shorter than the clip.
            num_frames: stored frames of the video.
        """
        import numpy as np  # `resact train --help` imports this class, and does not need NumPy

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
