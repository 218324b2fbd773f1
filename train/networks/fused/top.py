"""The top 1x1x1 of a module, which reads the raw outputs of the two convolutions below it.

Their norms, the feature residual, the concatenation and the attention are computed on the fly. After concatenation,
norms and recalibration, feature k of clip b is `raw * gain[b, k] + offset[b, k]`, where the raw value of a feature
residual is `abs(m(t + 1) - m(t))`. Feature residuals are zero in the last frame.

Shapes: B clips, C channels of a raw output, K = 3C features (2C without feature residuals) in the order fs, fm,
fmres, N channels out, S parts of a clip.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from resact.train.networks.fused.launch import TYPES, block, product, programs, raw_gradient, rounded
from resact.train.networks.fused.norm import Moments, Sums, merged, store_moments

_BLOCK_ROWS, _BLOCK_PIXELS = 64, 32
_BLOCK_WEIGHTS = 32


def forward(
    s_BTHWC: Tensor, m_BTHWC: Tensor, gain_BK: Tensor, offset_BK: Tensor, weight: Tensor
) -> tuple[Tensor, Moments]:
    """The raw output (B, T, H, W, N), and the moments for its norm. `weight` is (N, K, 1, 1, 1)."""
    b, t, h, w, c = s_BTHWC.shape
    n, k = weight.shape[:2]
    out = s_BTHWC.new_empty(b, t, h, w, n)
    parts = max(programs(s_BTHWC, b * triton.cdiv(t * h * w, _BLOCK_ROWS)) // b, 1)
    moments = torch.empty(b * parts, 3, n, device=s_BTHWC.device)
    block_n = block(n, 128)
    _forward[(parts, triton.cdiv(n, block_n), b)](
        s_BTHWC,
        m_BTHWC,
        gain_BK,
        offset_BK,
        weight,
        out,
        moments,
        t * h * w,
        h * w,
        c,
        k,
        n,
        FEATURE_RESIDUAL=k == 3 * c,
        BLOCK_ROWS=_BLOCK_ROWS,
        BLOCK_K=block(c, 32),
        BLOCK_N=block_n,
        STORED=TYPES[s_BTHWC.dtype],
        num_warps=8,
        num_stages=2,
    )
    return out, Moments(moments)


def weight_gradient(
    gradient_BTHWN: Tensor,
    raw_BTHWN: Tensor,
    coefficients_3N: Tensor,
    s_BTHWC: Tensor,
    m_BTHWC: Tensor,
    plain_gain_K: Tensor,
    plain_offset_K: Tensor,
    mask_BK: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor]:
    """The gradients of the weight (N, K, 1, 1, 1) and of attention's mask (B, K).

    Both are sums of the same product, a clip's gradients times its normed features before recalibration: summed over
    clips, scaled by `1 + mask`, and summed over the weight's outputs, scaled by the weight.

    Args:
        gradient_BTHWN: gradient of the norm's output.
        raw_BTHWN: the top's raw output.
        coefficients_3N: as in `launch.raw_gradient`.
        s_BTHWC: the raw spatial output.
        m_BTHWC: the raw temporal output.
        plain_gain_K: gain without attention.
        plain_offset_K: offset without attention.
        mask_BK: attention's mask; zeros without attention.
        weight: (N, K, 1, 1, 1).
    """
    b, t, h, w, c = s_BTHWC.shape
    n, k = weight.shape[:2]
    rows = t * h * w
    block_n, block_c = block(n, 64), block(c, 64)
    blocks = triton.cdiv(n, block_n), triton.cdiv(c, block_c)
    limit = programs(s_BTHWC, b * triton.cdiv(rows, _BLOCK_ROWS))
    parts = max(limit // (b * blocks[0] * blocks[1]), 1)
    products_BSNK = torch.empty(b, parts, n, k, device=s_BTHWC.device)
    _clip_products[(b * parts, *blocks)](
        gradient_BTHWN,
        raw_BTHWN,
        coefficients_3N,
        s_BTHWC,
        m_BTHWC,
        plain_gain_K,
        plain_offset_K,
        products_BSNK,
        parts,
        rows,
        h * w,
        c,
        k,
        n,
        FEATURE_RESIDUAL=k == 3 * c,
        BLOCK_ROWS=_BLOCK_ROWS,
        BLOCK_N=block_n,
        BLOCK_C=block_c,
        STORED=TYPES[s_BTHWC.dtype],
        num_warps=8,
    )
    products_BNK = products_BSNK.sum(1) if parts > 1 else products_BSNK[:, 0]
    of_weight = torch.empty_like(weight)
    rows_n, columns_k = triton.cdiv(n, _BLOCK_WEIGHTS), triton.cdiv(k, _BLOCK_WEIGHTS)
    of_mask = torch.empty(rows_n, b, k, device=weight.device)
    _over_clips[(rows_n, columns_k)](
        products_BNK,
        mask_BK,
        weight,
        of_weight,
        of_mask,
        b,
        n,
        k,
        BLOCK_N=_BLOCK_WEIGHTS,
        BLOCK_K=_BLOCK_WEIGHTS,
    )
    return of_weight, of_mask.sum(0)


def input_gradient(
    gradient_BTHWN: Tensor,
    raw_BTHWN: Tensor,
    coefficients_3N: Tensor,
    s_BTHWC: Tensor,
    m_BTHWC: Tensor,
    states_4C: tuple[Tensor, Tensor],
    gain_BK: Tensor,
    constant_BK: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Sums, Sums]:
    """The gradients of the spatial and of the temporal norm's output, and the sums for each one's backward pass.

    Args:
        gradient_BTHWN: as in `weight_gradient`.
        raw_BTHWN: as in `weight_gradient`.
        coefficients_3N: as in `weight_gradient`.
        s_BTHWC: as in `weight_gradient`.
        m_BTHWC: as in `weight_gradient`.
        states_4C: states of the spatial and the temporal norm.
        gain_BK: `1 + mask`.
        constant_BK: gradient that each value of a feature gets through attention's pooling.
        weight: (N, K, 1, 1, 1).
    """
    b, t, h, w, c = s_BTHWC.shape
    n, k = weight.shape[:2]
    of_s, of_m = torch.empty_like(s_BTHWC), torch.empty_like(m_BTHWC)
    block_c = block(c, 64)
    tiles = triton.cdiv(h * w, _BLOCK_PIXELS)
    sums = torch.empty(tiles * b, 4, c, device=s_BTHWC.device)
    _input_gradient[(tiles, triton.cdiv(c, block_c), b)](
        gradient_BTHWN,
        raw_BTHWN,
        coefficients_3N,
        s_BTHWC,
        m_BTHWC,
        *states_4C,
        gain_BK,
        constant_BK,
        weight,
        of_s,
        of_m,
        sums,
        t,
        h * w,
        c,
        k,
        n,
        FEATURE_RESIDUAL=k == 3 * c,
        BLOCK_PIXELS=_BLOCK_PIXELS,
        BLOCK_N=block(n, 32),
        BLOCK_C=block_c,
        STORED=TYPES[s_BTHWC.dtype],
        num_warps=8,
        num_stages=2,
    )
    return of_s, of_m, Sums(sums, 0, 1), Sums(sums, 2, 3)


@triton.jit
def _recalibrated(raw, there, gain, offset, place_k, inside_k):
    """`raw * gain + offset`, zero where there is nothing."""
    scale = tl.load(gain + place_k, mask=inside_k, other=0.0)
    shift = tl.load(offset + place_k, mask=inside_k, other=0.0)
    return tl.where(there, raw * scale[None, :] + shift[None, :], 0.0)


@triton.jit
def _forward(
    s,
    m,
    gain,
    offset,
    weight,
    out,
    moments,
    rows,
    frame,
    C,
    K,
    N,
    FEATURE_RESIDUAL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STORED: tl.constexpr,
):
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    clip = tl.program_id(2).to(tl.int64)
    inside_n = n < N
    weight_n = weight + n[None, :] * K
    count = 0.0
    mean = tl.zeros([BLOCK_N], tl.float32)
    squares = tl.zeros([BLOCK_N], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, BLOCK_ROWS), tl.num_programs(0)):
        row = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        inside = row < rows
        y = tl.zeros([BLOCK_ROWS, BLOCK_N], tl.float32)
        for start in range(0, C, BLOCK_K):
            c = start + tl.arange(0, BLOCK_K)
            inside_c = c < C
            there = inside[:, None] & inside_c[None, :]
            w_there = inside_c[:, None] & inside_n[None, :]
            place = (clip * rows + row[:, None]) * C + c[None, :]
            place_k = clip * K + c
            spatial = tl.load(s + place, mask=there, other=0.0).to(tl.float32)
            spatial = _recalibrated(spatial, there, gain, offset, place_k, inside_c)
            y = product(spatial, tl.load(weight_n + c[:, None], mask=w_there, other=0.0), y, STORED)
            raw = tl.load(m + place, mask=there, other=0.0).to(tl.float32)
            temporal = _recalibrated(raw, there, gain, offset, place_k + C, inside_c)
            y = product(temporal, tl.load(weight_n + (C + c)[:, None], mask=w_there, other=0.0), y, STORED)
            if FEATURE_RESIDUAL:
                followed = there & (row + frame < rows)[:, None]
                change = tl.abs(tl.load(m + place + frame * C, mask=followed, other=0.0).to(tl.float32) - raw)
                change = _recalibrated(change, followed, gain, offset, place_k + 2 * C, inside_c)
                w_block = tl.load(weight_n + (2 * C + c)[:, None], mask=w_there, other=0.0)
                y = product(change, w_block, y, STORED)
        y = rounded(y, STORED)
        tl.store(out + (clip * rows + row[:, None]) * N + n[None, :], y, mask=inside[:, None] & inside_n[None, :])
        count, mean, squares = merged(count, mean, squares, y.to(tl.float32), inside)
    store_moments(moments, clip * tl.num_programs(0) + tl.program_id(0), n, inside_n, N, count, mean, squares)


@triton.jit
def _clip_products(
    gradient,
    raw,
    coefficients,
    s,
    m,
    gain,
    offset,
    products,
    parts,
    rows,
    frame,
    C,
    K,
    N,
    FEATURE_RESIDUAL: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STORED: tl.constexpr,
):
    clip = (tl.program_id(0) // parts).to(tl.int64)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_n, inside_c = n < N, c < C
    of_s = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    of_m = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    of_d = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for tile in range(tl.program_id(0) % parts, tl.cdiv(rows, BLOCK_ROWS), parts):
        row = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        inside = row < rows
        there_n, there = inside[:, None] & inside_n[None, :], inside[:, None] & inside_c[None, :]
        place_n = (clip * rows + row[:, None]) * N + n[None, :]
        dy = tl.load(gradient + place_n, mask=there_n, other=0.0).to(tl.float32)
        z = tl.load(raw + place_n, mask=there_n, other=0.0).to(tl.float32)
        dz = tl.trans(tl.where(there_n, raw_gradient(dy, z, coefficients, n, inside_n, N), 0.0))
        place = (clip * rows + row[:, None]) * C + c[None, :]
        spatial = tl.load(s + place, mask=there, other=0.0).to(tl.float32)
        temporal = tl.load(m + place, mask=there, other=0.0).to(tl.float32)
        of_s = product(dz, _recalibrated(spatial, there, gain, offset, c, inside_c), of_s, STORED)
        of_m = product(dz, _recalibrated(temporal, there, gain, offset, C + c, inside_c), of_m, STORED)
        if FEATURE_RESIDUAL:
            followed = there & (row + frame < rows)[:, None]
            change = tl.abs(tl.load(m + place + frame * C, mask=followed, other=0.0).to(tl.float32) - temporal)
            change = _recalibrated(change, followed, gain, offset, 2 * C + c, inside_c)
            of_d = product(dz, change, of_d, STORED)
    pointers = products + (tl.program_id(0).to(tl.int64) * N + n[:, None]) * K + c[None, :]
    there = inside_n[:, None] & inside_c[None, :]
    tl.store(pointers, of_s, mask=there)
    tl.store(pointers + C, of_m, mask=there)
    if FEATURE_RESIDUAL:
        tl.store(pointers + 2 * C, of_d, mask=there)


@triton.jit
def _over_clips(products, mask, weight, of_weight, of_mask, B, N, K, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    inside_k = k < K
    there = (n < N)[:, None] & inside_k[None, :]
    place = n[:, None] * K + k[None, :]
    weights = tl.load(weight + place, mask=there, other=0.0)
    total = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    for clip in range(B):
        values = tl.load(products + tl.cast(clip, tl.int64) * N * K + place, mask=there, other=0.0)
        total += values * (1.0 + tl.load(mask + clip * K + k, mask=inside_k, other=0.0))[None, :]
        tl.store(of_mask + (tl.program_id(0) * B + clip) * K + k, tl.sum(values * weights, 0), mask=inside_k)
    tl.store(of_weight + place, total, mask=there)


@triton.jit
def _input_gradient(
    gradient,
    raw,
    coefficients,
    s,
    m,
    state_s,
    state_m,
    gain,
    constant,
    weight,
    of_s,
    of_m,
    sums,
    T,
    frame,
    C,
    K,
    N,
    FEATURE_RESIDUAL: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STORED: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    clip = tl.program_id(2).to(tl.int64)
    inside, inside_c = pixel < frame, c < C
    there = inside[:, None] & inside_c[None, :]
    gain_k, constant_k = gain + clip * K + c, constant + clip * K + c
    gain_s = tl.load(gain_k, mask=inside_c, other=0.0)[None, :]
    gain_m = tl.load(gain_k + C, mask=inside_c, other=0.0)[None, :]
    constant_s = tl.load(constant_k, mask=inside_c, other=0.0)[None, :]
    constant_m = tl.load(constant_k + C, mask=inside_c, other=0.0)[None, :]
    mean_s = tl.load(state_s + 2 * C + c, mask=inside_c, other=0.0)[None, :]
    mean_m = tl.load(state_m + 2 * C + c, mask=inside_c, other=0.0)[None, :]
    none = tl.zeros([BLOCK_PIXELS, BLOCK_C], tl.float32)
    change_last = none  # what the feature residual of the frame before gives back to this one
    if FEATURE_RESIDUAL:
        gain_d = tl.load(gain_k + 2 * C, mask=inside_c, other=0.0)[None, :]
        constant_d = tl.load(constant_k + 2 * C, mask=inside_c, other=0.0)[None, :]
        scale_m = tl.load(state_m + c, mask=inside_c, other=0.0)[None, :]
    total_s = tl.zeros([BLOCK_C], tl.float32)
    weighted_s = tl.zeros([BLOCK_C], tl.float32)
    total_m = tl.zeros([BLOCK_C], tl.float32)
    weighted_m = tl.zeros([BLOCK_C], tl.float32)
    place = (clip * T * frame + pixel[:, None]) * C + c[None, :]
    temporal = tl.load(m + place, mask=there, other=0.0).to(tl.float32)
    for t in range(T):
        row = (clip * T + t) * frame + pixel
        d_s, d_m, d_d = none, none, none
        for start in range(0, N, BLOCK_N):
            n = start + tl.arange(0, BLOCK_N)
            inside_n = n < N
            there_n = inside[:, None] & inside_n[None, :]
            place_n = row[:, None] * N + n[None, :]
            dy = tl.load(gradient + place_n, mask=there_n, other=0.0).to(tl.float32)
            z = tl.load(raw + place_n, mask=there_n, other=0.0).to(tl.float32)
            dz = tl.where(there_n, raw_gradient(dy, z, coefficients, n, inside_n, N), 0.0)
            w_there = inside_n[:, None] & inside_c[None, :]
            weights = weight + n[:, None] * K + c[None, :]
            d_s = product(dz, tl.load(weights, mask=w_there, other=0.0), d_s, STORED)
            d_m = product(dz, tl.load(weights + C, mask=w_there, other=0.0), d_m, STORED)
            if FEATURE_RESIDUAL:
                d_d = product(dz, tl.load(weights + 2 * C, mask=w_there, other=0.0), d_d, STORED)
        place = row[:, None] * C + c[None, :]
        d_s = d_s * gain_s + constant_s
        d_m = d_m * gain_m + constant_m
        following = there & (t + 1 < T)
        temporal_next = tl.load(m + place + frame * C, mask=following, other=0.0).to(tl.float32)
        if FEATURE_RESIDUAL:
            rise = (temporal_next - temporal) * scale_m  # has the sign of what `abs` was taken of
            sign = tl.where(rise > 0, 1.0, tl.where(rise < 0, -1.0, 0.0))
            change = tl.where(following, sign * (d_d * gain_d + constant_d), 0.0)
            d_m += change_last - change
            change_last = change
        spatial = tl.load(s + place, mask=there, other=0.0).to(tl.float32)
        tl.store(of_s + place, rounded(d_s, STORED), mask=there)
        tl.store(of_m + place, rounded(d_m, STORED), mask=there)
        d_s = tl.where(there, rounded(d_s, STORED).to(tl.float32), 0.0)
        d_m = tl.where(there, rounded(d_m, STORED).to(tl.float32), 0.0)
        total_s += tl.sum(d_s, 0)
        weighted_s += tl.sum(d_s * (spatial - mean_s), 0)
        total_m += tl.sum(d_m, 0)
        weighted_m += tl.sum(d_m * (temporal - mean_m), 0)
        temporal = temporal_next
    pointers = sums + (tl.program_id(0) * tl.num_programs(2) + clip) * 4 * C + c
    tl.store(pointers, total_s, mask=inside_c)
    tl.store(pointers + C, weighted_s, mask=inside_c)
    tl.store(pointers + 2 * C, total_m, mask=inside_c)
    tl.store(pointers + 3 * C, weighted_m, mask=inside_c)
