"""Frames that a store repeats, because the source's frame rate is lower: their step-1 residuals are zero."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resact.cache.index import Index
from resact.cache.layout import fps_value

_SLOWER = 0.98  # than so much of the store's rate: 15000/1001 fps in 15 repeats one frame in a thousand


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """The videos whose frames are repeated."""

    videos: int
    of_videos: int
    """Number of videos with frames."""
    share: float
    """Share of these videos' frames that repeat the frame before."""
    fps: str
    """The store's frame rate."""
    avoiding_fps: float
    """The highest frame rate without repeated frames: the slowest source's, rounded down to hundredths."""

    @property
    def videos_words(self) -> str:
        """How many videos repeat frames, in words."""
        return (
            f"{self.videos:,} of {self.of_videos:,} videos have fewer than {self.fps} frames a second: "
            f"{100 * self.share:.0f} % of their frames repeat the one before"
        )

    @property
    def note(self) -> str:
        """A note for the user, and how to avoid repeated frames."""
        return (
            f"{self.videos_words}, and step-1 residuals there are nearly zero; a store made with "
            f"--fps {self.avoiding_fps:g} has none"
        )


def repeats(
    index: Index, fps: str, video_indices: Sequence[int] | npt.NDArray[np.intp] | None = None
) -> Repeats | None:
    """The repeated frames in a store's videos; None if no frame is repeated.

    Args:
        index: of the store.
        fps: its frame rate, as in `DecodeSettings.fps`.
        video_indices: which videos to count; default: all.
    """
    if fps == "source":
        return None
    rate, frames, source = fps_value(fps), np.asarray(index.num_frames), np.asarray(index.source_fps)
    chosen = np.arange(len(index)) if video_indices is None else np.asarray(video_indices, np.int64)
    chosen = chosen[frames[chosen] > 0]
    slow = chosen[(source[chosen] > 0) & (source[chosen] < _SLOWER * rate)]
    if not len(slow):
        return None
    lowest = float(source[slow].min())
    return Repeats(
        videos=len(slow),
        of_videos=len(chosen),
        share=float(np.average(1 - source[slow] / rate, weights=frames[slow])),
        fps=f"{rate:g}",
        avoiding_fps=math.floor(lowest * 100) / 100 or lowest,
    )
