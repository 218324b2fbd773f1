"""The channel-separable 1x3x3 (`fs`) and 3x1x1 (`fm`) of a module; they read the bottom's raw output once.

The feature residual needs no tensor of its own: a norm scales and shifts, so that `abs(fm(t + 1) - fm(t))` is
`abs(scale) * abs(m(t + 1) - m(t))` of the raw temporal output `m`, which the reader computes on the fly. Attention
needs its sum over a clip, which is computed here.

A program owns a few rows and columns and a block of channels, walks through the frames and keeps the last ones in
registers. Shapes: B clips, (T, H, W), C channels, P = programs that share a clip.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from resact.train.networks.fused.launch import TYPES, rounded
from resact.train.networks.fused.norm import Moments, Sums

_BLOCK_H, _BLOCK_W, _BLOCK_C = 4, 8, 32


def forward(
    raw_BTHWC: Tensor, state_4C: Tensor, spatial: Tensor, temporal: Tensor
) -> tuple[Tensor, Tensor, Moments, Moments, Tensor]:
    """Convolve `relu(norm(raw))` both ways.

    Args:
        raw_BTHWC: the bottom's raw output.
        state_4C: state of its norm.
        spatial: weight, (C, 1, 1, 3, 3).
        temporal: weight, (C, 1, 3, 1, 1).

    Returns:
        Both raw outputs (B, T, H, W, C), the moments for each one's norm, and (B, 3, C): the sums over each clip of the
        spatial, the temporal, and the temporal's absolute differences from frame to frame.
    """
    b, t, h, w, c = raw_BTHWC.shape
    s, m = torch.empty_like(raw_BTHWC), torch.empty_like(raw_BTHWC)
    tiles = triton.cdiv(h, _BLOCK_H) * triton.cdiv(w, _BLOCK_W)
    moments_PB6C = torch.empty(tiles, b, 6, c, device=raw_BTHWC.device)
    _forward[(tiles, triton.cdiv(c, _BLOCK_C), b)](
        raw_BTHWC,
        state_4C,
        spatial,
        temporal,
        s,
        m,
        moments_PB6C,
        t,
        h,
        w,
        c,
        BLOCK_H=_BLOCK_H,
        BLOCK_W=_BLOCK_W,
        BLOCK_C=_BLOCK_C,
        STORED=TYPES[raw_BTHWC.dtype],
        num_warps=8,
    )
    count, means, changes = moments_PB6C[:, :, :1], moments_PB6C[:, :, 1:3], moments_PB6C[:, :, 5:]
    clip_sums_B3C = torch.cat([count * means, changes], dim=2).sum(0)
    moments = moments_PB6C.flatten(0, 1)
    return s, m, Moments(moments, mean=1, squares=3), Moments(moments, mean=2, squares=4), clip_sums_B3C


def backward(
    gradients_BTHWC: tuple[Tensor, Tensor],
    raw_outputs_BTHWC: tuple[Tensor, Tensor],
    coefficients_3C: tuple[Tensor, Tensor],
    raw_BTHWC: Tensor,
    state_4C: Tensor,
    spatial: Tensor,
    temporal: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Sums]:
    """The backward pass through both convolutions.

    Args:
        gradients_BTHWC: gradients of the norms' outputs, for spatial and temporal, as in the next two arguments.
        raw_outputs_BTHWC: raw outputs of `forward`.
        coefficients_3C: as in `launch.raw_gradient`.
        raw_BTHWC: as in `forward`.
        state_4C: as in `forward`.
        spatial: as in `forward`.
        temporal: as in `forward`.

    Returns:
        The gradient of `norm(raw)` (B, T, H, W, C), of both weights, and the sums for that norm's backward pass.
    """
    b, t, h, w, c = raw_BTHWC.shape
    gradient = torch.empty_like(raw_BTHWC)
    tiles = triton.cdiv(h, _BLOCK_H) * triton.cdiv(w, _BLOCK_W)
    sums_P14C = torch.empty(tiles * b, 14, c, device=raw_BTHWC.device)
    _backward[(tiles, triton.cdiv(c, _BLOCK_C), b)](
        *gradients_BTHWC,
        *raw_outputs_BTHWC,
        *coefficients_3C,
        raw_BTHWC,
        state_4C,
        spatial,
        temporal,
        gradient,
        sums_P14C,
        t,
        h,
        w,
        c,
        BLOCK_H=_BLOCK_H,
        BLOCK_W=_BLOCK_W,
        BLOCK_C=_BLOCK_C,
        STORED=TYPES[raw_BTHWC.dtype],
        num_warps=8,
    )
    of_weights_C12 = sums_P14C[:, :12].sum(0).t()
    of_spatial = of_weights_C12[:, :9].reshape(spatial.shape)
    return gradient, of_spatial, of_weights_C12[:, 9:].reshape(temporal.shape), Sums(sums_P14C, 12, 13)


@triton.jit
def _square(tile, W, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr):
    """Rows and columns of a program's pixels, (BLOCK_H * BLOCK_W,) each."""
    columns = tl.cdiv(W, BLOCK_W)
    pixel = tl.arange(0, BLOCK_H * BLOCK_W)
    return tile // columns * BLOCK_H + pixel // BLOCK_W, tile % columns * BLOCK_W + pixel % BLOCK_W


@triton.jit
def _activated(raw, place, there, scale, shift):
    """`relu(norm(raw))`, and the zeros of the padding around it."""
    y = tl.load(raw + place, mask=there, other=0.0).to(tl.float32) * scale[None, :] + shift[None, :]
    return tl.where(there, tl.maximum(y, 0.0, propagate_nan=tl.PropagateNan.ALL), 0.0)


@triton.jit
def _raw_gradient(gradient, raw, place, there, of_norm, of_raw, constant):
    dy = tl.load(gradient + place, mask=there, other=0.0).to(tl.float32)
    y = tl.load(raw + place, mask=there, other=0.0).to(tl.float32)
    return tl.where(there, dy * of_norm[None, :] + y * of_raw[None, :] + constant[None, :], 0.0)


@triton.jit
def _forward(
    raw,
    state,
    spatial,
    temporal,
    s_out,
    m_out,
    moments,
    T,
    H,
    W,
    C,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STORED: tl.constexpr,
):
    row, column = _square(tl.program_id(0), W, BLOCK_H, BLOCK_W)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    clip = tl.program_id(2)
    inside_c = channel < C
    inside = ((row < H) & (column < W))[:, None] & inside_c[None, :]
    scale = tl.load(state + channel, mask=inside_c, other=0.0)
    shift = tl.load(state + C + channel, mask=inside_c, other=0.0)
    before = tl.load(temporal + channel * 3, mask=inside_c, other=0.0)
    at = tl.load(temporal + channel * 3 + 1, mask=inside_c, other=0.0)
    after = tl.load(temporal + channel * 3 + 2, mask=inside_c, other=0.0)

    frame = H * W * C
    first = clip.to(tl.int64) * T * frame
    raw, s_out, m_out = raw + first, s_out + first, m_out + first
    pixel = (row[:, None] * W + column[:, None]) * C + channel[None, :]
    none = tl.zeros([BLOCK_H * BLOCK_W, BLOCK_C], tl.float32)
    pixels = tl.sum(((row < H) & (column < W)).to(tl.float32), 0)
    # Moments are taken about the first frame's means.
    about_s, about_m = tl.zeros([BLOCK_C], tl.float32), tl.zeros([BLOCK_C], tl.float32)
    sum_s, sum_m, sum_d, squares_s, squares_m, m_last, y_last = none, none, none, none, none, none, none
    y = _activated(raw, pixel, inside, scale, shift)
    for t in range(T):
        start = t * frame
        y_next = _activated(raw + start + frame, pixel, inside & (t + 1 < T), scale, shift)
        m = rounded(y_last * before[None, :] + y * at[None, :] + y_next * after[None, :], STORED)
        s = none
        for dy in tl.static_range(3):
            for dx in tl.static_range(3):
                weight = tl.load(spatial + channel * 9 + dy * 3 + dx, mask=inside_c, other=0.0)
                if dy == 1 and dx == 1:
                    neighbour = y
                else:
                    r, q = row + dy - 1, column + dx - 1
                    there = inside & ((r >= 0) & (r < H) & (q >= 0) & (q < W))[:, None]
                    place = pixel + ((dy - 1) * W + dx - 1) * C
                    neighbour = _activated(raw + start, place, there, scale, shift)
                s += neighbour * weight[None, :]
        tl.store(s_out + start + pixel, rounded(s, STORED), mask=inside)
        tl.store(m_out + start + pixel, m, mask=inside)
        s, m = rounded(s, STORED).to(tl.float32), tl.where(inside, m.to(tl.float32), 0.0)
        if t == 0:
            about_s = tl.sum(tl.where(inside, s, 0.0), 0) / pixels
            about_m = tl.sum(m, 0) / pixels
        apart_s = tl.where(inside, s - about_s[None, :], 0.0)
        apart_m = tl.where(inside, m - about_m[None, :], 0.0)
        sum_s += apart_s
        squares_s += apart_s * apart_s
        sum_m += apart_m
        squares_m += apart_m * apart_m
        sum_d += tl.where(t > 0, tl.abs(m - m_last), 0.0)
        m_last, y_last, y = m, y, y_next

    count = pixels * T
    total_s, total_m = tl.sum(sum_s, 0), tl.sum(sum_m, 0)
    pointers = moments + (tl.program_id(0) * tl.num_programs(2) + clip) * 6 * C + channel
    tl.store(pointers, tl.zeros_like(total_s) + count, mask=inside_c)
    tl.store(pointers + C, about_s + total_s / count, mask=inside_c)
    tl.store(pointers + 2 * C, about_m + total_m / count, mask=inside_c)
    tl.store(pointers + 3 * C, tl.maximum(tl.sum(squares_s, 0) - total_s * total_s / count, 0.0), mask=inside_c)
    tl.store(pointers + 4 * C, tl.maximum(tl.sum(squares_m, 0) - total_m * total_m / count, 0.0), mask=inside_c)
    tl.store(pointers + 5 * C, tl.sum(sum_d, 0), mask=inside_c)


@triton.jit
def _tap(
    gradient,
    weight_gradient,
    y,
    gradient_s,
    raw_s,
    place,
    row,
    column,
    inside,
    norm_s,
    own_s,
    constant_s,
    spatial,
    channel,
    inside_c,
    H,
    W,
    C,
    ROW: tl.constexpr,
    COLUMN: tl.constexpr,
):
    """What row ROW, column COLUMN of the 1x3x3 adds to the gradient of its input and to its own."""
    r, q = row - ROW + 1, column - COLUMN + 1
    there = inside & ((r >= 0) & (r < H) & (q >= 0) & (q < W))[:, None]
    ds = _raw_gradient(gradient_s, raw_s, place - ((ROW - 1) * W + COLUMN - 1) * C, there, norm_s, own_s, constant_s)
    weight = tl.load(spatial + channel * 9 + ROW * 3 + COLUMN, mask=inside_c, other=0.0)
    return gradient + ds * weight[None, :], weight_gradient + y * ds


@triton.jit
def _backward(
    gradient_s,
    gradient_m,
    raw_s,
    raw_m,
    coefficients_s,
    coefficients_m,
    raw,
    state,
    spatial,
    temporal,
    out,
    sums,
    T,
    H,
    W,
    C,
    BLOCK_H: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STORED: tl.constexpr,
):
    row, column = _square(tl.program_id(0), W, BLOCK_H, BLOCK_W)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    clip = tl.program_id(2)
    inside_c = channel < C
    inside = ((row < H) & (column < W))[:, None] & inside_c[None, :]
    scale = tl.load(state + channel, mask=inside_c, other=0.0)
    shift = tl.load(state + C + channel, mask=inside_c, other=0.0)
    mean = tl.load(state + 2 * C + channel, mask=inside_c, other=0.0)
    norm_s = tl.load(coefficients_s + channel, mask=inside_c, other=0.0)
    own_s = tl.load(coefficients_s + C + channel, mask=inside_c, other=0.0)
    constant_s = tl.load(coefficients_s + 2 * C + channel, mask=inside_c, other=0.0)
    norm_m = tl.load(coefficients_m + channel, mask=inside_c, other=0.0)
    own_m = tl.load(coefficients_m + C + channel, mask=inside_c, other=0.0)
    constant_m = tl.load(coefficients_m + 2 * C + channel, mask=inside_c, other=0.0)
    before = tl.load(temporal + channel * 3, mask=inside_c, other=0.0)
    at = tl.load(temporal + channel * 3 + 1, mask=inside_c, other=0.0)
    after = tl.load(temporal + channel * 3 + 2, mask=inside_c, other=0.0)

    frame = H * W * C
    first = clip.to(tl.int64) * T * frame
    gradient_s, gradient_m, raw_s, raw_m = gradient_s + first, gradient_m + first, raw_s + first, raw_m + first
    raw, out = raw + first, out + first
    pixel = (row[:, None] * W + column[:, None]) * C + channel[None, :]
    none = tl.zeros([BLOCK_H * BLOCK_W, BLOCK_C], tl.float32)
    # Of the nine weights in space, by row and column; and of the three in time.
    w00, w01, w02, w10, w11, w12, w20, w21, w22 = none, none, none, none, none, none, none, none, none
    w_before, w_at, w_after, total, weighted, dm_last = none, none, none, none, none, none
    dm = _raw_gradient(gradient_m, raw_m, pixel, inside, norm_m, own_m, constant_m)
    for t in range(T):
        start = t * frame
        there = inside & (t + 1 < T)
        following = start + frame
        dm_next = _raw_gradient(gradient_m + following, raw_m + following, pixel, there, norm_m, own_m, constant_m)
        z = tl.load(raw + start + pixel, mask=inside, other=0.0).to(tl.float32)
        normed = z * scale[None, :] + shift[None, :]
        y = tl.where(inside, tl.maximum(normed, 0.0, propagate_nan=tl.PropagateNan.ALL), 0.0)
        # A value takes part in the output before it with the weight `after`, and the other way round.
        gradient = dm_next * before[None, :] + dm * at[None, :] + dm_last * after[None, :]
        w_before += y * dm_next
        w_at += y * dm
        w_after += y * dm_last
        gradient, w00 = _tap(
            gradient, w00, y, gradient_s + start, raw_s + start, pixel, row, column, inside, norm_s, own_s, constant_s,
            spatial, channel, inside_c, H, W, C, 0, 0,
        )  # fmt: skip
        gradient, w01 = _tap(
            gradient, w01, y, gradient_s + start, raw_s + start, pixel, row, column, inside, norm_s, own_s, constant_s,
            spatial, channel, inside_c, H, W, C, 0, 1,
        )  # fmt: skip
        gradient, w02 = _tap(
            gradient, w02, y, gradient_s + start, raw_s + start, pixel, row, column, inside, norm_s, own_s, constant_s,
            spatial, channel, inside_c, H, W, C, 0, 2,
        )  # fmt: skip
        gradient, w10 = _tap(
            gradient, w10, y, gradient_s + start, raw_s + start, pixel, row, column, inside, norm_s, own_s, constant_s,
            spatial, channel, inside_c, H, W, C, 1, 0,
        )  # fmt: skip
        gradient, w11 = _tap(
            gradient, w11, y, gradient_s + start, raw_s + start, pixel, row, column, inside, norm_s, own_s, constant_s,
            spatial, channel, inside_c, H, W, C, 1, 1,
        )  # fmt: skip
        gradient, w12 = _tap(
            gradient, w12, y, gradient_s + start, raw_s + start, pixel, row, column, inside, norm_s, own_s, constant_s,
            spatial, channel, inside_c, H, W, C, 1, 2,
        )  # fmt: skip
        gradient, w20 = _tap(
            gradient, w20, y, gradient_s + start, raw_s + start, pixel, row, column, inside, norm_s, own_s, constant_s,
            spatial, channel, inside_c, H, W, C, 2, 0,
        )  # fmt: skip
        gradient, w21 = _tap(
            gradient, w21, y, gradient_s + start, raw_s + start, pixel, row, column, inside, norm_s, own_s, constant_s,
            spatial, channel, inside_c, H, W, C, 2, 1,
        )  # fmt: skip
        gradient, w22 = _tap(
            gradient, w22, y, gradient_s + start, raw_s + start, pixel, row, column, inside, norm_s, own_s, constant_s,
            spatial, channel, inside_c, H, W, C, 2, 2,
        )  # fmt: skip
        gradient = rounded(tl.where(normed > 0, gradient, 0.0), STORED)
        tl.store(out + start + pixel, gradient, mask=inside)
        gradient = tl.where(inside, gradient.to(tl.float32), 0.0)
        total += gradient
        weighted += gradient * (z - mean[None, :])
        dm_last, dm = dm, dm_next

    pointers = sums + (tl.program_id(0) * tl.num_programs(2) + clip) * 14 * C + channel
    tl.store(pointers, tl.sum(w00, 0), mask=inside_c)
    tl.store(pointers + C, tl.sum(w01, 0), mask=inside_c)
    tl.store(pointers + 2 * C, tl.sum(w02, 0), mask=inside_c)
    tl.store(pointers + 3 * C, tl.sum(w10, 0), mask=inside_c)
    tl.store(pointers + 4 * C, tl.sum(w11, 0), mask=inside_c)
    tl.store(pointers + 5 * C, tl.sum(w12, 0), mask=inside_c)
    tl.store(pointers + 6 * C, tl.sum(w20, 0), mask=inside_c)
    tl.store(pointers + 7 * C, tl.sum(w21, 0), mask=inside_c)
    tl.store(pointers + 8 * C, tl.sum(w22, 0), mask=inside_c)
    tl.store(pointers + 9 * C, tl.sum(w_before, 0), mask=inside_c)
    tl.store(pointers + 10 * C, tl.sum(w_at, 0), mask=inside_c)
    tl.store(pointers + 11 * C, tl.sum(w_after, 0), mask=inside_c)
    tl.store(pointers + 12 * C, tl.sum(total, 0), mask=inside_c)
    tl.store(pointers + 13 * C, tl.sum(weighted, 0), mask=inside_c)
