"""Checks that frames, clips, geometry and outputs fit each other: otherwise memory outside the frames would be read."""

import torch
from torch import Tensor

from resact.errors import UsageError
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.sampling import Clip


def fitting_output(
    frames_NHWC: Tensor, clip: Clip, geometry: ClipGeometry, dtype: torch.dtype, out: dict[str, Tensor] | None
) -> dict[str, Tensor]:
    """`out`, or new tensors, after checking that everything fits."""
    count = clip.stop - clip.start
    if frames_NHWC.dtype != torch.uint8 or frames_NHWC.ndim != 4 or frames_NHWC.shape[::3] != (count, 3):
        raise UsageError(f"got frames {described(frames_NHWC)}, expected ({count}, H, W, 3) of uint8")
    check_fit(frames_NHWC.shape[1], frames_NHWC.shape[2], clip, geometry)
    shape = (3, geometry.frames, geometry.size, geometry.size)
    if out is None:
        out = {stream: torch.empty(shape, dtype=dtype, device=frames_NHWC.device) for stream in geometry.streams}
    for stream in geometry.streams:
        if out[stream].shape != shape or out[stream].dtype != dtype:
            raise UsageError(f"got out[{stream!r}] {described(out[stream])}, expected {shape} of {dtype}")
    return out


def check_fit(height: int, width: int, clip: Clip, geometry: ClipGeometry) -> None:
    """Check the crop and the order: otherwise memory outside the frames would be read."""
    top, left, side, count = clip.top, clip.left, clip.side, clip.stop - clip.start
    if not (side >= 1 and 0 <= top <= height - side and 0 <= left <= width - side):
        raise UsageError(f"got a crop of {side} at ({top}, {left}), expected it within frames of {height}x{width}")
    if len(clip.order) != geometry.frames_read:
        raise UsageError(f"got a clip of {len(clip.order)} frames, expected the geometry's {geometry.frames_read}")
    if clip.order.min() < 0 or clip.order.max() >= count:
        raise UsageError(f"got the order {clip.order.tolist()}, expected positions among the {count} frames read")


def described(tensor: Tensor) -> str:
    """A tensor's shape and dtype, for messages."""
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
