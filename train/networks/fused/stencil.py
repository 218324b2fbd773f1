"""The channel-separable 1x3x3 (`fs`) and 3x1x1 (`fm`) of a module; they read the bottom's raw output once.

They write the raw features side by side: the spatial output `s`, the temporal output `m`, and `abs(m(t + 1) - m(t))`.
A norm scales and shifts, so that the feature residual `abs(fm(t + 1) - fm(t))` is `abs(scale)` times that.

A program owns a few rows and columns and a block of channels, walks through the frames and keeps the last ones in
registers. Shapes: B clips, (T, H, W), C channels, K = 3C features (2C without feature residuals), P = programs that
share a clip.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from resact.train.networks.fused.launch import TYPES, rounded
from resact.train.networks.fused.norm import Moments, Sums

_BLOCK_H, _BLOCK_W, _BLOCK_C = 4, 8, 32


def forward(
    raw_BTHWC: Tensor, state_4C: Tensor, spatial: Tensor, temporal: Tensor, *, feature_residual: bool
) -> tuple[Tensor, Moments, Moments, Tensor]:
    """Convolve `relu(norm(raw))` both ways.

    Args:
        raw_BTHWC: the bottom's raw output.
        state_4C: state of its norm.
        spatial: weight, (C, 1, 1, 3, 3).
        temporal: weight, (C, 1, 3, 1, 1).
        feature_residual: whether the features have it.

    Returns:
        The raw features (B, T, H, W, K), the moments for the spatial and for the temporal norm, and the features' means
        over each clip, (B, K).
    """
    b, t, h, w, c = raw_BTHWC.shape
    kinds = 3 if feature_residual else 2
    features = raw_BTHWC.new_empty(b, t, h, w, kinds * c)
    tiles = triton.cdiv(h, _BLOCK_H) * triton.cdiv(w, _BLOCK_W)
    moments_PB6C = torch.empty(tiles, b, 6, c, device=raw_BTHWC.device)
    _stencil_forward[(tiles, triton.cdiv(c, _BLOCK_C), b)](
        raw_BTHWC,
        state_4C,
        spatial,
        temporal,
        features,
        moments_PB6C,
        t,
        h,
        w,
        c,
        FEATURE_RESIDUAL=feature_residual,
        BLOCK_H=_BLOCK_H,
        BLOCK_W=_BLOCK_W,
        BLOCK_C=_BLOCK_C,
        STORED=TYPES[raw_BTHWC.dtype],
        num_warps=8,
        maxnreg=128,  # so that a processor runs two programs at a time; they need no more
    )
    count, means, changes = moments_PB6C[:, :, :1], moments_PB6C[:, :, 1:3], moments_PB6C[:, :, 5:]
    sums_B3C = torch.cat([count * means, changes], dim=2).sum(0)
    means_BK = sums_B3C[:, :kinds].flatten(1) / (t * h * w)
    moments = moments_PB6C.flatten(0, 1)
    return features, Moments(moments, mean=1, squares=3), Moments(moments, mean=2, squares=4), means_BK


def backward(
    gradient_BTHWK: Tensor,
    features_BTHWK: Tensor,
    of_raw_2C: Tensor,
    constant_BK: Tensor,
    raw_BTHWC: Tensor,
    state_4C: Tensor,
    spatial: Tensor,
    temporal: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Sums]:
    """The backward pass through both convolutions.

    The gradient of the raw spatial output is `gradient + of_raw * s + constant`. That of the raw temporal one is
    likewise, and then what comes back through the differences.

    Args:
        gradient_BTHWK: gradient of the raw features, before the last two arguments add to it.
        features_BTHWK: raw features, from `forward`.
        of_raw_2C: coefficients of the two raw outputs.
        constant_BK: constants of the features of each clip.
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
    _stencil_backward[(tiles, triton.cdiv(c, _BLOCK_C), b)](
        gradient_BTHWK,
        features_BTHWK,
        of_raw_2C,
        constant_BK,
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
        FEATURE_RESIDUAL=features_BTHWK.shape[-1] == 3 * c,
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
def _spatial_gradient(gradient, features, place, there, of_raw, constant):
    """Of the raw spatial output."""
    ds = tl.load(gradient + place, mask=there, other=0.0).to(tl.float32)
    s = tl.load(features + place, mask=there, other=0.0).to(tl.float32)
    return tl.where(there, ds + s * of_raw[None, :] + constant[None, :], 0.0)


@triton.jit
def _temporal_gradient(
    gradient,
    features,
    place,
    there,
    followed,
    m,
    change_last,
    of_raw,
    constant,
    constant_change,
    frame,
    C,
    FEATURE_RESIDUAL: tl.constexpr,
):
    """Of the raw temporal output `m` in a frame; with it, `m` of the next frame, and the gradient of the change to it,
    which is `change_last` there.
    """
    dm = tl.load(gradient + place + C, mask=there, other=0.0).to(tl.float32)
    dm = tl.where(there, dm + m * of_raw[None, :] + constant[None, :], 0.0)
    m_next = tl.load(features + place + frame + C, mask=followed, other=0.0).to(tl.float32)
    change = tl.zeros_like(dm)
    if FEATURE_RESIDUAL:
        size = tl.load(gradient + place + 2 * C, mask=followed, other=0.0).to(tl.float32) + constant_change[None, :]
        sign = tl.where(m_next > m, 1.0, tl.where(m_next < m, -1.0, 0.0))
        change = tl.where(followed, sign * size, 0.0)
        dm += change_last - change
    return dm, m_next, change


@triton.jit
def _stencil_forward(
    raw,
    state,
    spatial,
    temporal,
    features,
    moments,
    T,
    H,
    W,
    C,
    FEATURE_RESIDUAL: tl.constexpr,
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

    K = 3 * C if FEATURE_RESIDUAL else 2 * C
    frame, frame_k = H * W * C, H * W * K
    raw += clip.to(tl.int64) * T * frame
    features += clip.to(tl.int64) * T * frame_k
    pixel = (row[:, None] * W + column[:, None]) * C + channel[None, :]
    pixel_k = (row[:, None] * W + column[:, None]) * K + channel[None, :]
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
        stored = features + t * frame_k + pixel_k
        tl.store(stored, rounded(s, STORED), mask=inside)
        tl.store(stored + C, m, mask=inside)
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
        if FEATURE_RESIDUAL:
            change = rounded(tl.abs(m - m_last), STORED)
            tl.store(stored - frame_k + 2 * C, change, mask=inside & (t > 0))
            sum_d += tl.where(t > 0, change.to(tl.float32), 0.0)
        m_last, y_last, y = m, y, y_next

    if FEATURE_RESIDUAL:
        tl.store(features + (T - 1) * frame_k + pixel_k + 2 * C, rounded(none, STORED), mask=inside)
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
def _stencil_backward(
    of_features,
    features,
    of_raw,
    constant,
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
    FEATURE_RESIDUAL: tl.constexpr,
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
    K = 3 * C if FEATURE_RESIDUAL else 2 * C
    of_s = tl.load(of_raw + channel, mask=inside_c, other=0.0)
    of_m = tl.load(of_raw + C + channel, mask=inside_c, other=0.0)
    constant_s = tl.load(constant + clip * K + channel, mask=inside_c, other=0.0)
    constant_m = tl.load(constant + clip * K + C + channel, mask=inside_c, other=0.0)
    constant_d = tl.zeros([BLOCK_C], tl.float32)
    if FEATURE_RESIDUAL:
        constant_d = tl.load(constant + clip * K + 2 * C + channel, mask=inside_c, other=0.0)
    before = tl.load(temporal + channel * 3, mask=inside_c, other=0.0)
    at = tl.load(temporal + channel * 3 + 1, mask=inside_c, other=0.0)
    after = tl.load(temporal + channel * 3 + 2, mask=inside_c, other=0.0)

    frame, frame_k = H * W * C, H * W * K
    raw += clip.to(tl.int64) * T * frame
    out += clip.to(tl.int64) * T * frame
    features += clip.to(tl.int64) * T * frame_k
    of_features += clip.to(tl.int64) * T * frame_k
    pixel = (row[:, None] * W + column[:, None]) * C + channel[None, :]
    pixel_k = (row[:, None] * W + column[:, None]) * K + channel[None, :]
    none = tl.zeros([BLOCK_H * BLOCK_W, BLOCK_C], tl.float32)
    of_taps = (none, none, none, none, none, none, none, none, none)
    w_before, w_at, w_after, total, weighted, dm_last = none, none, none, none, none, none
    m = tl.load(features + pixel_k + C, mask=inside, other=0.0).to(tl.float32)
    dm, m, change = _temporal_gradient(
        of_features, features, pixel_k, inside, inside & (T > 1), m, none, of_m, constant_m, constant_d, frame_k, C,
        FEATURE_RESIDUAL,
    )  # fmt: skip
    for t in range(T):
        start, start_k = t * frame, t * frame_k
        dm_next, m, change = _temporal_gradient(
            of_features, features, start_k + frame_k + pixel_k, inside & (t + 1 < T), inside & (t + 2 < T), m, change,
            of_m, constant_m, constant_d, frame_k, C, FEATURE_RESIDUAL,
        )  # fmt: skip
        z = tl.load(raw + start + pixel, mask=inside, other=0.0).to(tl.float32)
        normed = z * scale[None, :] + shift[None, :]
        y = tl.where(inside, tl.maximum(normed, 0.0, propagate_nan=tl.PropagateNan.ALL), 0.0)
        # A value takes part in the output before it with the weight `after`, and the other way round.
        gradient = dm_next * before[None, :] + dm * at[None, :] + dm_last * after[None, :]
        w_before += y * dm_next
        w_at += y * dm
        w_after += y * dm_last
        of_taps_next = ()
        for tap in tl.static_range(9):
            r, q = row + 1 - tap // 3, column + 1 - tap % 3
            there = inside & ((r >= 0) & (r < H) & (q >= 0) & (q < W))[:, None]
            place = start_k + pixel_k + ((1 - tap // 3) * W + 1 - tap % 3) * K
            ds = _spatial_gradient(of_features, features, place, there, of_s, constant_s)
            weight = tl.load(spatial + channel * 9 + tap, mask=inside_c, other=0.0)
            gradient += ds * weight[None, :]
            of_taps_next += (of_taps[tap] + y * ds,)  # type: ignore[assignment]
        of_taps = of_taps_next  # type: ignore[assignment]
        gradient = rounded(tl.where(normed > 0, gradient, 0.0), STORED)
        tl.store(out + start + pixel, gradient, mask=inside)
        gradient = tl.where(inside, gradient.to(tl.float32), 0.0)
        total += gradient
        weighted += gradient * (z - mean[None, :])
        dm_last, dm = dm, dm_next

    pointers = sums + (tl.program_id(0) * tl.num_programs(2) + clip) * 14 * C + channel
    for tap in tl.static_range(9):
        tl.store(pointers + tap * C, tl.sum(of_taps[tap], 0), mask=inside_c)
    tl.store(pointers + 9 * C, tl.sum(w_before, 0), mask=inside_c)
    tl.store(pointers + 10 * C, tl.sum(w_at, 0), mask=inside_c)
    tl.store(pointers + 11 * C, tl.sum(w_after, 0), mask=inside_c)
    tl.store(pointers + 12 * C, tl.sum(total, 0), mask=inside_c)
    tl.store(pointers + 13 * C, tl.sum(weighted, 0), mask=inside_c)
