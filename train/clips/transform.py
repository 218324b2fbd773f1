"""From stored frames to the network's input: crop, resize, flip, appearance, residual, normalisation, in that order.

Everything before the normalisation works on 8-bit values, so a residual is the exact difference of two of them.
`plain_transform.transform_clip` is the reference. In use are `make_clip`, with machine code on the CPU
(`transform_cpu`), and `transform_batch`, with a kernel on CUDA (`transform_kernel`). A clip whose appearance is changed
uses the reference.

Shapes: B clips, N stored frames of a clip, T frames of a clip, H height, W width, D height and width of the network's
input.
"""

import os
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from resact.cache import machine_code
from resact.errors import ToolError, UsageError
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.normalisation import Normalisation
from resact.train.clips.packed_clips import PackedClips
from resact.train.clips.plain_transform import check_fit, fitting_output, transform_clip
from resact.train.clips.sampling import Clip

TRANSFORM_KERNELS = ("auto", "triton", "plain")
_CPU_DTYPES = (torch.float32, torch.bfloat16)


def make_clip(
    frames_NHWC: Tensor,
    clip: Clip,
    geometry: ClipGeometry,
    normalisation: Normalisation,
    *,
    dtype: torch.dtype = torch.float32,
    out: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The same as `transform_clip`, bit for bit, in less than half the time if frames and result are on the CPU.

    This holds for float32 and bfloat16, frames whose rows are contiguous, and a contiguous `out`. Everything else, and
    clips whose appearance is changed, use `transform_clip`.
    """
    out = fitting_output(frames_NHWC, clip, geometry, dtype, out)
    wanted = {stream: out[stream] for stream in geometry.streams}
    in_order = frames_NHWC.stride()[2:] == (3, 1) and all(x.is_contiguous() for x in wanted.values())
    on_cpu = all(x.device.type == "cpu" for x in (frames_NHWC, *wanted.values()))
    plain = clip.appearance is not None or dtype not in _CPU_DTYPES
    if plain or not (in_order and on_cpu and machine_code.is_on()):
        return transform_clip(frames_NHWC, clip, geometry, normalisation, dtype=dtype, out=out)
    from resact.train.clips.transform_cpu import transform_by_machine_code  # the first import compiles for seconds

    transform_by_machine_code(frames_NHWC, clip, geometry, normalisation, wanted)
    return out


def transform_batch(
    packed: PackedClips,
    geometry: ClipGeometry,
    normalisation: Normalisation,
    *,
    dtype: torch.dtype = torch.float32,
    kernel: Literal["auto", "triton", "plain"] = "auto",
) -> dict[str, Tensor]:
    """The network's input for a batch of clips.

    Args:
        packed: the clips and their frames.
        geometry: geometry of the clips.
        normalisation: for each of `geometry.streams`.
        dtype: dtype of the result.
        kernel: `triton`: one kernel on CUDA, whose pixels equal those of `transform_clip` up to the rounding that
            `resize_clip` describes; `plain`: `transform_clip`, clip by clip; `auto`: `triton` on CUDA unless the
            appearance of a clip is changed, and `make_clip` elsewhere.

    Returns:
        For each of `geometry.streams` (B, 3, T, D, D), on the frames' device.

    Raises:
        UsageError: frames, clips, normalisation and kernel do not fit each other.
        ToolError: Triton is needed and not installed.
    """
    if kernel not in TRANSFORM_KERNELS:
        raise UsageError(f"got kernel {kernel!r}, expected one of {', '.join(TRANSFORM_KERNELS)}")
    device = packed.frames.device
    shape = (len(packed.clips), 3, geometry.frames, geometry.size, geometry.size)
    batch = {stream: torch.empty(shape, dtype=dtype, device=device) for stream in geometry.streams}
    changed = any(clip.appearance is not None for clip in packed.clips)
    if kernel == "triton" and changed:
        raise UsageError("got kernel 'triton' and clips whose appearance is changed, expected 'auto' or 'plain'")
    if (kernel == "triton" or (kernel == "auto" and device.type == "cuda" and not changed)) and packed.clips:
        for clip, height, width in zip(packed.clips, packed.heights, packed.widths, strict=True):
            check_fit(height, width, clip, geometry)
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
