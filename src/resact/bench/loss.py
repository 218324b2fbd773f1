"""The loss of a lossy codec: noise on frames, and on the residuals that networks get.

Shapes: N frames, H height, W width, C = 3 (RGB), D height and width of what the network is given.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from resact.train.clips.plain_transform import resize_clip
from resact.train.clips.residual import residual_frames

Frames = npt.NDArray[np.uint8]


def losses_against(
    lossless_NHWC: Frames, *, steps: Sequence[int], size: int
) -> Callable[[Frames], dict[str, float | None]]:
    """Compare other versions of neighbouring frames with the reference.

    Args:
        lossless_NHWC: the reference frames, uint8 RGB.
        steps: residual steps.
        size: D. Residuals use the centre crop, resized as in training, without normalisation.

    Returns:
        A function of uint8 frames of the same shape. It gives, in dB, `frames_db`, peak signal to noise over all pixels
        of all frames, and for each step s `residual_step_s_db`, the power of the reference residuals divided by that of
        the difference; infinite if nothing differs, None if the reference residuals are zero and others are not.
    """
    right = {step: residual.double() for step, residual in _residuals(lossless_NHWC, steps, size).items()}

    def compare(lossy_NHWC: Frames) -> dict[str, float | None]:
        pairs = zip(lossy_NHWC, lossless_NHWC, strict=True)
        error = sum(int(np.square(lossy.astype(np.int32) - lossless).sum()) for lossy, lossless in pairs)
        found = {"frames_db": decibels(255**2, error / lossless_NHWC.size)}
        for step, residual in _residuals(lossy_NHWC, steps, size).items():
            noise = residual.double().sub_(right[step]).square_().mean().item()
            found[f"residual_step_{step}_db"] = decibels(right[step].square().mean().item(), noise)
        return found

    return compare


def decibels(signal: float, noise: float) -> float | None:
    """Ratio of two powers in dB; infinite without noise, None without a signal."""
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else None


def _residuals(frames_NHWC: Frames, steps: Sequence[int], size: int) -> dict[int, torch.Tensor]:
    """(1, 3, N - step, D, D) each, of the centre crop."""
    _, height, width, _ = frames_NHWC.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    small_NCDD = resize_clip(torch.from_numpy(frames_NHWC), top=top, left=left, side=side, size=size)
    return {step: residual_frames(small_NCDD.transpose(0, 1)[None], step=step) for step in steps}
