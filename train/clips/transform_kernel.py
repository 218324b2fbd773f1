"""The transform of a batch of clips on CUDA, in one kernel that must equal `plain_transform.transform_clip`.

A program makes one block of output pixels of one clip, for every `step`-th frame: it walks through those frames and
keeps the last one's values in registers, so that a stored frame is read once for both the RGB clip and the residual.
Importing this module needs Triton.

Here the weights of the resize are whole numbers. In units of 1 / (2 D) of an input pixel, output pixel o has its centre
at (2 o + 1) side, input pixel i at (2 i + 1) D, and the triangle reaches 2 max(side, D) to each side.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.normalisation import Normalisation
from resact.train.clips.packed_clips import PackedClips

_BLOCK = 256  # output pixels of a program: two for each of its 128 threads
_MAX_UNROLLED = 8  # taps; more weights do not fit into registers

_COLUMNS = tl.constexpr(5)  # numbers in a row of `_table` before the order of the frames
_ROUND = tl.constexpr(2.0**23)  # a float32 from here on has no fraction: adding it rounds, ties to even


def transform_on_device(
    packed: PackedClips, geometry: ClipGeometry, normalisation: Normalisation, batch: dict[str, Tensor]
) -> None:
    """Fill `batch`: for each of `geometry.streams` (B, 3, T, D, D) on the frames' device, float32 or bfloat16."""
    device = packed.frames.device
    scale_and_shift = {stream: normalisation.scale_and_shift(stream) for stream in geometry.streams}
    table = _table(packed)
    if device.type == "cuda":
        table = table.pin_memory().to(device, non_blocking=True)
    # Each value of TAPS compiles the kernel once more.
    largest = packed.largest_side or max(clip.side for clip in packed.clips)
    taps = -(-2 * max(largest, geometry.size) // geometry.size)
    step = geometry.step if "residual" in geometry.streams else 1
    grid = (triton.cdiv(geometry.size**2, _BLOCK), step, len(packed.clips))
    unused = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
    with torch.cuda.device(device if device.type == "cuda" else -1):
        _transform[grid](
            packed.frames,
            table,
            batch.get("rgb"),
            batch.get("residual"),
            *scale_and_shift.get("rgb", unused),
            *scale_and_shift.get("residual", unused),
            FRAMES=geometry.frames,
            FRAMES_READ=geometry.frames_read,
            STEP=step,
            SIZE=geometry.size,
            TAPS=taps if taps <= _MAX_UNROLLED else None,
            BLOCK=_BLOCK,
        )


def _table(packed: PackedClips) -> Tensor:
    """(B, 5 + frames_read) int64: everything the kernel needs about each clip, in one transfer."""
    clips = packed.clips
    offsets, heights, widths = (
        np.array(column, np.int64) for column in (packed.offsets, packed.heights, packed.widths)
    )
    squares = np.array([(clip.top, clip.left, clip.side, clip.flip) for clip in clips], np.int64)
    top, left, side, flip = squares.T
    starts = offsets + (top * widths + left) * 3
    columns = np.stack([starts, heights * widths * 3, widths * 3, side, flip], axis=1)
    return torch.from_numpy(np.concatenate([columns, np.stack([clip.order for clip in clips])], axis=1))


@triton.jit
def _first_tap(output, side, SIZE: tl.constexpr):
    """First input pixel within the triangle around an output pixel, and its distance from the triangle's centre."""
    centre = (2 * output + 1) * side
    first = tl.maximum(centre - 2 * tl.maximum(side, SIZE) + SIZE, 0) // (2 * SIZE)
    return first, (2 * first + 1) * SIZE - centre


@triton.jit
def _weight(tap, first, distance, side, SIZE: tl.constexpr):
    weight = tl.maximum(2 * tl.maximum(side, SIZE) - tl.abs(distance + tap * (2 * SIZE)), 0)
    return tl.where(first + tap < side, weight, 0)


@triton.jit
def _sum_of_weights(first, distance, side, taps, SIZE: tl.constexpr):
    total = tl.zeros_like(first)
    for tap in range(taps):
        total += _weight(tap, first, distance, side, SIZE)
    return total.to(tl.float32)


@triton.jit
def _add_tap(red, green, blue, row, tap, first, distance, side, SIZE: tl.constexpr):
    weight = _weight(tap, first, distance, side, SIZE)
    pointers = row + 3 * tl.minimum(first + tap, side - 1)
    red += weight * tl.load(pointers)
    green += weight * tl.load(pointers + 1)
    blue += weight * tl.load(pointers + 2)
    return red, green, blue


@triton.jit
def _resize(
    frame, row_bytes, first_y, distance_y, first_x, distance_x, side, taps, SIZE: tl.constexpr, TAPS: tl.constexpr
):
    """Red, green and blue of a block of output pixels, times the sum of their weights."""
    none = tl.zeros_like(first_y)
    red, green, blue = none.to(tl.float32), none.to(tl.float32), none.to(tl.float32)
    for tap_y in range(taps):
        row = frame + tl.minimum(first_y + tap_y, side - 1) * row_bytes
        row_red, row_green, row_blue = none, none, none  # integers: exact, and fewer conversions
        if TAPS is None:
            for tap_x in range(taps):
                row_red, row_green, row_blue = _add_tap(
                    row_red, row_green, row_blue, row, tap_x, first_x, distance_x, side, SIZE
                )
        else:
            for tap_x in tl.static_range(TAPS):
                row_red, row_green, row_blue = _add_tap(
                    row_red, row_green, row_blue, row, tap_x, first_x, distance_x, side, SIZE
                )
        weight = _weight(tap_y, first_y, distance_y, side, SIZE).to(tl.float32)
        red += weight * row_red.to(tl.float32)
        green += weight * row_green.to(tl.float32)
        blue += weight * row_blue.to(tl.float32)
    return red, green, blue


@triton.jit
def _store(pointers, inside, red, green, blue, scale, shift, CHANNEL: tl.constexpr):
    tl.store(pointers, red * scale[0] + shift[0], mask=inside)
    tl.store(pointers + CHANNEL, green * scale[1] + shift[1], mask=inside)
    tl.store(pointers + 2 * CHANNEL, blue * scale[2] + shift[2], mask=inside)


@triton.jit
def _transform(
    frames,
    table,
    rgb,
    residual,
    rgb_scale,
    rgb_shift,
    residual_scale,
    residual_shift,
    FRAMES: tl.constexpr,
    FRAMES_READ: tl.constexpr,
    STEP: tl.constexpr,
    SIZE: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    CHANNEL: tl.constexpr = FRAMES * SIZE * SIZE
    clip = tl.program_id(2).to(tl.int64)
    entries = table + clip * (_COLUMNS + FRAMES_READ)
    square = frames + tl.load(entries)
    frame_bytes = tl.load(entries + 1)
    row_bytes = tl.load(entries + 2)
    side = tl.load(entries + 3).to(tl.int32)
    flip = tl.load(entries + 4) != 0

    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < SIZE * SIZE
    y = tl.minimum(pixel // SIZE, SIZE - 1)
    x = pixel % SIZE
    x = tl.where(flip, SIZE - 1 - x, x)
    first_y, distance_y = _first_tap(y, side, SIZE)
    first_x, distance_x = _first_tap(x, side, SIZE)
    taps = (2 * tl.maximum(side, SIZE) + SIZE - 1) // SIZE
    total_y = _sum_of_weights(first_y, distance_y, side, taps, SIZE)
    share = 1.0 / (total_y * _sum_of_weights(first_x, distance_x, side, taps, SIZE))

    last_red, last_green, last_blue = tl.zeros_like(share), tl.zeros_like(share), tl.zeros_like(share)
    for position in range(tl.program_id(1), FRAMES_READ, STEP):
        frame = square + tl.load(entries + _COLUMNS + position) * frame_bytes
        red, green, blue = _resize(frame, row_bytes, first_y, distance_y, first_x, distance_x, side, taps, SIZE, TAPS)
        red = (red * share + _ROUND) - _ROUND
        green = (green * share + _ROUND) - _ROUND
        blue = (blue * share + _ROUND) - _ROUND
        pointers = clip * 3 * CHANNEL + position * SIZE * SIZE + pixel
        if rgb is not None:
            _store(rgb + pointers, inside & (position < FRAMES), red, green, blue, rgb_scale, rgb_shift, CHANNEL)
        if residual is not None:
            _store(
                residual + (pointers - STEP * SIZE * SIZE),
                inside & (position >= STEP),
                tl.abs(red - last_red),
                tl.abs(green - last_green),
                tl.abs(blue - last_blue),
                residual_scale,
                residual_shift,
                CHANNEL,
            )
        last_red, last_green, last_blue = red, green, blue
