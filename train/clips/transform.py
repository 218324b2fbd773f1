"""From stored frames to what the network is given: crop, resize, flip, residual, normalisation, in that order.

Everything before the normalisation is on 8-bit values, so that a residual is an exact difference of two of them.
`transform_clip` is the reference, in plain PyTorch on any device. What runs is `make_clip`, which has machine code of
its own on the CPU (`transform_cpu`), and `transform_batch`, which has a kernel on CUDA too (`transform_kernel`).

Shapes: B clips, N stored frames of a clip, T frames of a clip, C channels, H height, W width, D height and width of
what the network is given.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from resact.cache import machine_code
from resact.errors import ToolError, UsageError
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.residual import residual_frames
from resact.train.clips.sampling import Clip

KERNELS = ("auto", "triton", "plain")
_CPU_DTYPES = (torch.float32, torch.bfloat16)

Channels = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Mean and standard deviation of each channel, in 8-bit pixel values (0 to 255): `x -> (x - mean) / std`.

    Those of a stream that is not used are None. Lists, as JSON has them, are taken too.
    """

    rgb_mean: Channels | None = None
    rgb_std: Channels | None = None
    residual_mean: Channels | None = None
    residual_std: Channels | None = None

    def __post_init__(self) -> None:
        for name in ("rgb_mean", "rgb_std", "residual_mean", "residual_std"):
            if (values := getattr(self, name)) is not None:
                object.__setattr__(self, name, _channels(name, values))
        for stream in ("rgb", "residual"):
            mean, std = getattr(self, f"{stream}_mean"), getattr(self, f"{stream}_std")
            if (mean is None) != (std is None):
                raise UsageError(f"got {stream} mean {mean} and std {std}, expected both or neither")
            if std is not None and min(std) <= 0:
                raise UsageError(f"got {stream} std {std}, expected numbers above 0")

    def scale_and_shift(self, stream: str) -> tuple[Channels, Channels]:
        """The same as `x * scale + shift`, each a number a channel.

        Args:
            stream: `rgb` or `residual`.

        Raises:
            UsageError: it has none for that stream.
        """
        mean, std = getattr(self, f"{stream}_mean"), getattr(self, f"{stream}_std")
        if mean is None:
            raise UsageError(f"got a normalisation without {stream}_mean and {stream}_std, expected both")
        first, second, third = ((1 / s, -m / s) for m, s in zip(mean, std, strict=True))
        return (first[0], second[0], third[0]), (first[1], second[1], third[1])


@dataclass(frozen=True, kw_only=True)
class PackedClips:
    """Frames of a batch of clips, as stored or the clips' squares alone, one clip after another in one buffer."""

    frames: Tensor
    """(bytes,) uint8, on any device."""
    offsets: Sequence[int]
    """Of each clip: where its `clip.stop - clip.start` frames begin; they are contiguous, (N, H, W, 3)."""
    heights: Sequence[int]
    """Of what is packed of each clip's frames."""
    widths: Sequence[int]
    clips: Sequence[Clip]
    largest_side: int | None = None
    """Of any batch like this one: the kernel is compiled for it once. None: of this batch, and each other largest side
    may compile the kernel anew."""

    def __post_init__(self) -> None:
        if self.frames.ndim != 1 or self.frames.dtype != torch.uint8 or not self.frames.is_contiguous():
            raise UsageError(f"got frames {_described(self.frames)}, expected contiguous (bytes,) of uint8")
        count = len(self.clips)
        if not count == len(self.offsets) == len(self.heights) == len(self.widths):
            raise UsageError(
                f"got {count} clips, {len(self.offsets)} offsets, {len(self.heights)} heights and {len(self.widths)} "
                "widths, expected equally many"
            )
        if self.largest_side is not None and any(clip.side > self.largest_side for clip in self.clips):
            raise UsageError(f"got a square larger than the largest side, {self.largest_side}")
        for clip, offset, height, width in zip(self.clips, self.offsets, self.heights, self.widths, strict=True):
            stop = offset + (clip.stop - clip.start) * height * width * 3
            if not 0 <= offset < stop <= self.frames.numel():
                raise UsageError(
                    f"got a clip at bytes [{offset}, {stop}) of a buffer of {self.frames.numel()}, expected it within"
                )

    def frames_of(self, position: int) -> Tensor:
        """(N, H, W, 3) uint8, a view: the stored frames of one of the clips."""
        clip, height, width = self.clips[position], self.heights[position], self.widths[position]
        shape = (clip.stop - clip.start, height, width, 3)
        return self.frames[self.offsets[position] :][: math.prod(shape)].view(shape)


def resize_clip(frames_NHWC: Tensor, *, top: int, left: int, side: int, size: int) -> Tensor:
    """A square of each frame, resized.

    Each output pixel is a mean of the pixels around its centre, weighted by a triangle that reaches as far to each side
    as neighbouring output pixels are apart, in input pixels, but at least 1: bilinear interpolation where the square is
    enlarged, antialiased where it is reduced. Centres lie at half pixels; the weights of what lies in the square add up
    to 1. The result is rounded to 8 bits, a tie to the even value. It is what `interpolate(mode="bilinear",
    antialias=True)` computes.

    The CPU rounds after each of the two axes, which is twenty times as fast as floating point and moves no value by
    more than 1: of pixels of genuine UCF101 clips, one in eight.

    Args:
        frames_NHWC: (N, H, W, 3) uint8, on any device.
        top: of the square, in pixels.
        left: of the square.
        side: height and width of the square.
        size: D, height and width of the result.

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
    """What the network is given of a clip.

    Args:
        frames_NHWC: (N, H, W, 3) uint8, the stored frames [clip.start, clip.stop), on any device.
        clip: which square of them, in which order, flipped or not.
        geometry: of the clip.
        normalisation: of each of `geometry.streams`, calculated in float32.
        dtype: of the result.
        out: where to write it: for each of `geometry.streams` a tensor such as is returned, perhaps a part of a batch.

    Returns:
        For each of `geometry.streams` (3, T, D, D), on the frames' device; `out` where that was given.

    Raises:
        UsageError: frames, clip, normalisation or `out` do not fit each other.
    """
    out = _checked(frames_NHWC, clip, geometry, dtype, out)
    resized_NCDD = resize_clip(frames_NHWC, top=clip.top, left=clip.left, side=clip.side, size=geometry.size)
    if not np.array_equal(clip.order, np.arange(len(resized_NCDD))):
        resized_NCDD = resized_NCDD[torch.tensor(clip.order, device=resized_NCDD.device)]
    clip_CTDD = resized_NCDD.transpose(0, 1).contiguous()
    if clip.flip:
        clip_CTDD = clip_CTDD.flip(-1)
    if "rgb" in geometry.streams:
        _normalise(clip_CTDD[:, : geometry.frames], normalisation.scale_and_shift("rgb"), out["rgb"])
    if "residual" in geometry.streams:
        residual_CTDD = residual_frames(clip_CTDD[None], step=geometry.step)[0]
        _normalise(residual_CTDD, normalisation.scale_and_shift("residual"), out["residual"])
    return out


def make_clip(
    frames_NHWC: Tensor,
    clip: Clip,
    geometry: ClipGeometry,
    normalisation: Normalisation,
    *,
    dtype: torch.dtype = torch.float32,
    out: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """As `transform_clip`, bit for bit, in less than half the time where frames and result lie on the CPU.

    That goes for float32 and bfloat16, for frames whose rows' pixels lie side by side, and a contiguous `out`; the rest
    goes through `transform_clip`.
    """
    out = _checked(frames_NHWC, clip, geometry, dtype, out)
    wanted = {stream: out[stream] for stream in geometry.streams}
    in_order = frames_NHWC.stride()[2:] == (3, 1) and all(x.is_contiguous() for x in wanted.values())
    on_cpu = all(x.device.type == "cpu" for x in (frames_NHWC, *wanted.values()))
    if not (in_order and on_cpu and machine_code.is_on()) or dtype not in _CPU_DTYPES:
        return transform_clip(frames_NHWC, clip, geometry, normalisation, dtype=dtype, out=out)
    from resact.train.clips.transform_cpu import transform_by_machine_code  # compiling takes seconds, the first time

    transform_by_machine_code(frames_NHWC, clip, geometry, normalisation, wanted)
    return out


def _checked(
    frames_NHWC: Tensor, clip: Clip, geometry: ClipGeometry, dtype: torch.dtype, out: dict[str, Tensor] | None
) -> dict[str, Tensor]:
    """`out`, or new tensors, once everything fits."""
    count = clip.stop - clip.start
    if frames_NHWC.dtype != torch.uint8 or frames_NHWC.ndim != 4 or frames_NHWC.shape[::3] != (count, 3):
        raise UsageError(f"got frames {_described(frames_NHWC)}, expected ({count}, H, W, 3) of uint8")
    _check_fit(frames_NHWC.shape[1], frames_NHWC.shape[2], clip, geometry)
    shape = (3, geometry.frames, geometry.size, geometry.size)
    if out is None:
        out = {stream: torch.empty(shape, dtype=dtype, device=frames_NHWC.device) for stream in geometry.streams}
    for stream in geometry.streams:
        if out[stream].shape != shape or out[stream].dtype != dtype:
            raise UsageError(f"got out[{stream!r}] {_described(out[stream])}, expected {shape} of {dtype}")
    return out


def transform_batch(
    packed: PackedClips,
    geometry: ClipGeometry,
    normalisation: Normalisation,
    *,
    dtype: torch.dtype = torch.float32,
    kernel: Literal["auto", "triton", "plain"] = "auto",
) -> dict[str, Tensor]:
    """What the network is given of a batch of clips.

    Args:
        packed: the clips and their frames.
        geometry: of the clips.
        normalisation: of each of `geometry.streams`.
        dtype: of the result.
        kernel: `triton`: one kernel on CUDA, whose pixels equal those of `transform_clip` as `resize_clip` says;
            `plain`: `transform_clip`, clip by clip; `auto`: `triton` on CUDA and `make_clip` elsewhere.

    Returns:
        For each of `geometry.streams` (B, 3, T, D, D), on the frames' device.

    Raises:
        UsageError: frames, clips, normalisation and kernel do not fit each other.
        ToolError: Triton is needed and not installed.
    """
    if kernel not in KERNELS:
        raise UsageError(f"got kernel {kernel!r}, expected one of {', '.join(KERNELS)}")
    device = packed.frames.device
    shape = (len(packed.clips), 3, geometry.frames, geometry.size, geometry.size)
    batch = {stream: torch.empty(shape, dtype=dtype, device=device) for stream in geometry.streams}
    if (kernel == "triton" or (kernel == "auto" and device.type == "cuda")) and packed.clips:
        for clip, height, width in zip(packed.clips, packed.heights, packed.widths, strict=True):
            _check_fit(height, width, clip, geometry)
        _kernel(device)(packed, geometry, normalisation, batch)
        return batch
    one_by_one = transform_clip if kernel == "plain" else make_clip
    for position, clip in enumerate(packed.clips):
        out = {stream: clips[position] for stream, clips in batch.items()}
        one_by_one(packed.frames_of(position), clip, geometry, normalisation, dtype=dtype, out=out)
    return batch


def _kernel(device: torch.device) -> Callable[[PackedClips, ClipGeometry, Normalisation, dict[str, Tensor]], None]:
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise UsageError(f"got kernel 'triton' and frames on {device}, expected them on CUDA; 'plain' runs anywhere")
    try:
        from resact.train.clips.transform_kernel import transform_on_device
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise ToolError("the kernel on CUDA needs Triton: `pip install triton`, or choose kernel='plain'") from error
    return transform_on_device


def _channels(name: str, values: Sequence[float]) -> Channels:
    if len(values) != 3 or not all(math.isfinite(value) for value in values):
        raise UsageError(f"got {name} {values!r}, expected a finite number for each of the 3 channels")
    first, second, third = (float(value) for value in values)
    return first, second, third


def _resize_bytes(square_NCHW: Tensor, size: int) -> Tensor:
    # Down the columns first, which is the quicker of the two: the other then has fewer rows to do.
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


def _check_fit(height: int, width: int, clip: Clip, geometry: ClipGeometry) -> None:
    """What does not fit would be read from outside the frames."""
    top, left, side, count = clip.top, clip.left, clip.side, clip.stop - clip.start
    if not (side >= 1 and 0 <= top <= height - side and 0 <= left <= width - side):
        raise UsageError(f"got a square of {side} at ({top}, {left}), expected it within frames of {height}x{width}")
    if len(clip.order) != geometry.frames_read:
        raise UsageError(f"got a clip of {len(clip.order)} frames, expected the geometry's {geometry.frames_read}")
    if clip.order.min() < 0 or clip.order.max() >= count:
        raise UsageError(f"got the order {clip.order.tolist()}, expected positions among the {count} frames read")


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
