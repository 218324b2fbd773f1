"""The transform of a clip in plain PyTorch, on any device: the reference for all other implementations.

Shapes: N stored frames of a clip, T frames of a clip, C channels, H height, W width, D height and width of the
network's input.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from resact.errors import UsageError
from resact.train.clips.appearance import altered
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.normalisation import Channels, Normalisation
from resact.train.clips.residual import residual_frames
from resact.train.clips.sampling import Clip


def resize_clip(frames_NHWC: Tensor, *, top: int, left: int, side: int, size: int) -> Tensor:
    """A crop of each frame, resized.

    Each output pixel is a weighted mean of the input pixels around its centre. The weights form a triangle whose
    half-width is the distance between neighbouring output pixels, in input pixels, but at least 1: bilinear
    interpolation when enlarging, antialiased when reducing. Centres lie at half pixels; the weights of pixels inside
    the crop add up to 1. The result is rounded to 8 bits, ties to even. It equals
    `interpolate(mode="bilinear", antialias=True)`.

    The CPU rounds after each of the two axes, which is twenty times as fast as floating point and changes no value by
    more than 1: in UCF101 clips, it changes one pixel in eight.

    Args:
        frames_NHWC: (N, H, W, 3) uint8, on any device.
        top: top edge of the crop, in pixels.
        left: left edge of the crop, in pixels.
        side: height and width of the crop, in pixels.
        size: D, height and width of the result, in pixels.

    Returns:
        (N, 3, D, D) uint8; on the CPU with the channels last in memory.
    """
    square_NCHW = frames_NHWC[:, top : top + side, left : left + side].permute(0, 3, 1, 2)
    return (_resize_bytes if frames_NHWC.device.type == "cpu" else _resize_floats)(square_NCHW, size)


def transform_clip(
    frames_NHWC: Tensor,
    clip: Clip,
    geometry: ClipGeometry,
    normalisation: Normalisation,
    *,
    dtype: torch.dtype = torch.float32,
    out: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The network's input for a clip: crop, resize, flip, residual, normalisation.

    Args:
        frames_NHWC: (N, H, W, 3) uint8, the stored frames [clip.start, clip.stop), on any device.
        clip: crop, order of frames, flip, and changes of appearance.
        geometry: geometry of the clip.
        normalisation: for each of `geometry.streams`; computed in float32.
        dtype: dtype of the result.
        out: tensors to write to, one for each of `geometry.streams`, shaped as the result; slices of a batch will do.

    Returns:
        For each of `geometry.streams` (3, T, D, D), on the frames' device; `out` if given.

    Raises:
        UsageError: frames, clip, normalisation or `out` do not fit each other.
    """
    out = fitting_output(frames_NHWC, clip, geometry, dtype, out)
    resized_NCDD = resize_clip(frames_NHWC, top=clip.top, left=clip.left, side=clip.side, size=geometry.size)
    if not np.array_equal(clip.order, np.arange(len(resized_NCDD))):
        resized_NCDD = resized_NCDD[torch.tensor(clip.order, device=resized_NCDD.device)]
    clip_CTDD = resized_NCDD.transpose(0, 1).contiguous()
    if clip.flip:
        clip_CTDD = clip_CTDD.flip(-1)
    if clip.appearance is not None:
        clip_CTDD = altered(clip_CTDD, clip.appearance)
    if "rgb" in geometry.streams:
        _normalise(clip_CTDD[:, : geometry.frames], normalisation.scale_and_shift("rgb"), out["rgb"])
    if "residual" in geometry.streams:
        residual_CTDD = residual_frames(clip_CTDD[None], step=geometry.step)[0]
        _normalise(residual_CTDD, normalisation.scale_and_shift("residual"), out["residual"])
    return out


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


def _resize_bytes(square_NCHW: Tensor, size: int) -> Tensor:
    # Height first, which is the faster direction: resizing the width then has fewer rows to do.
    return _interpolate(_interpolate(square_NCHW, size, square_NCHW.shape[3]), size, size)


def _resize_floats(square_NCHW: Tensor, size: int) -> Tensor:
    return _interpolate(square_NCHW.float(), size, size).round_().to(torch.uint8)


def _interpolate(frames_NCHW: Tensor, height: int, width: int) -> Tensor:
    return interpolate(frames_NCHW, size=(height, width), mode="bilinear", antialias=True)


def _normalise(source_CTDD: Tensor, scale_and_shift: tuple[Channels, Channels], out_CTDD: Tensor) -> None:
    scale_C111, shift_C111 = (torch.tensor(v, device=out_CTDD.device).view(3, 1, 1, 1) for v in scale_and_shift)
    values_CTDD = out_CTDD if out_CTDD.dtype == torch.float32 else torch.empty_like(out_CTDD, dtype=torch.float32)
    values_CTDD.copy_(source_CTDD).mul_(scale_C111).add_(shift_C111)
    if values_CTDD is not out_CTDD:
        out_CTDD.copy_(values_CTDD)
