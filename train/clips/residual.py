"""Residual frames (paper, sec. 2.1).

Shapes: B batch, C channels, T frames, H height, W width.
"""

import torch
from torch import Tensor

from resact.errors import UsageError


def residual_frames(clip_BCTHW: Tensor, *, step: int = 1) -> Tensor:
    """`abs(x[t + step] - x[t])` for every `t` that has such a successor (paper, sec. 2.1).

    Args:
        clip_BCTHW: (B, C, T, H, W), uint8 or floating point, on any device.
        step: residual step in frames, 1 <= step < T.

    Returns:
        (B, C, T - step, H, W) in the clip's dtype; uint8 gives the exact difference, 0 to 255.

    Raises:
        UsageError: the clip has another type, shape or dtype, or no two frames `step` apart.

    Example:
        frames = torch.randint(0, 256, (1, 3, 34, 112, 112), dtype=torch.uint8)
        residual = resact.residual_frames(frames, step=2)  # uint8 (1, 3, 32, 112, 112)
    """
    _check(clip_BCTHW, step)
    later, earlier = clip_BCTHW[:, :, step:], clip_BCTHW[:, :, :-step]
    if clip_BCTHW.dtype == torch.uint8:
        # Subtraction would wrap around modulo 256; the larger less the smaller cannot.
        return torch.maximum(later, earlier).sub_(torch.minimum(later, earlier))
    return (later - earlier).abs()


def _check(clip: Tensor, step: int) -> None:
    if not isinstance(clip, Tensor):
        raise UsageError(
            f"residual_frames got a {type(clip).__name__}, expected a torch.Tensor (B, C, T, H, W); "
            "turn an array into one with torch.from_numpy"
        )
    if clip.ndim != 5:
        raise UsageError(
            f"residual_frames got a clip of shape {tuple(clip.shape)}, expected (B, C, T, H, W); "
            "permute the axes or add the batch axis with clip[None]"
        )
    if clip.dtype != torch.uint8 and not clip.is_floating_point():
        raise UsageError(f"residual_frames got dtype {clip.dtype}, expected uint8 or floating point; convert the clip")
    if not isinstance(step, int) or isinstance(step, bool) or not 1 <= step < clip.shape[2]:
        raise UsageError(
            f"residual_frames got step={step!r} for a clip of {clip.shape[2]} frames, expected a whole "
            "number from 1 to T - 1; T residuals need T + step frames"
        )
