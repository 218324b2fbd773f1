"""conv1: each stream's dense 1x7x7 with stride 2 and channel-separable 3x1x1, with nothing stored in between.

A program owns some pixels, walks through the frames and keeps the 1x7x7's last outputs in registers; the backward pass
recomputes them. Shapes: B clips, (T, H, W) in, (T, h, w) out, N channels of a stream, P programs.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from resact.errors import UsageError
from resact.train.networks.fused import norm, residual_add
from resact.train.networks.fused.launch import INTERPRETED, TYPES, programs, raw_gradient, rounded
from resact.train.networks.modules import Conv1, Stem

_BLOCK_PIXELS, _MOST_CHANNELS = 32, 64
_TAPS = tl.constexpr(3 * 7 * 7)
_BLOCK_TAPS = tl.constexpr(128)
_REST_TAPS = tl.constexpr(32)  # the smallest power of two for those beyond


def conv1(stems: Conv1, clips_BCTHW: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """The streams' features, concatenated: (B, streams * N, T, h, w) in `dtype`, channels last in memory.

    Raises:
        UsageError: a clip requires a gradient, which these kernels do not compute.
    """
    for stream, clip in clips_BCTHW.items():
        if clip.requires_grad:
            raise UsageError(f"the fused kernels got {stream} that requires a gradient, expected data; use eager ones")
    clips = [clips_BCTHW[stream].to(dtype) for stream in stems]
    out_BTHWC: Tensor = _Conv1.apply(list(stems.values()), *clips, *stems.parameters())
    return out_BTHWC.permute(0, 4, 1, 2, 3)


class _Conv1(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stems: list[Stem], *tensors: Tensor) -> Tensor:
        clips = tensors[: len(stems)]
        b, _, t, height, width = clips[0].shape
        n = stems[0].spatial.out_channels
        out = clips[0].new_empty(b, t, -(-height // 2), -(-width // 2), len(stems) * n)
        raws, states = [], []
        for number, (stem, clip) in enumerate(zip(stems, clips, strict=True)):
            raw, moments = _convolve(clip, stem)
            state = norm.forward(stem.temporal.norm, moments, raw.numel() // n)
            residual_add.forward(out[..., number * n : (number + 1) * n], raw, state)
            raws.append(raw)
            states.append(state)
        ctx.stems, ctx.training = stems, [stem.temporal.norm.training for stem in stems]
        ctx.save_for_backward(out, *clips, *raws, *states)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        stems, (out, *saved) = ctx.stems, ctx.saved_tensors
        count, n = len(stems), stems[0].spatial.out_channels
        clips, raws, states = saved[:count], saved[count : 2 * count], saved[2 * count :]
        gradient = gradient.contiguous()
        of_parameters: list[Tensor] = []
        for number, (stem, clip, raw, state) in enumerate(zip(stems, clips, raws, states, strict=True)):
            part = slice(number * n, (number + 1) * n)
            below, sums = residual_add.backward(gradient[..., part], out[..., part], raw, state)
            coefficients, of_scale, of_shift = norm.backward(
                stem.temporal.norm, state, norm.Sums(sums), raw.numel() // n, training=ctx.training[number]
            )
            of_spatial, of_temporal = _gradients(clip, stem, below, raw, coefficients)
            of_parameters += [of_spatial, of_temporal, of_scale, of_shift]
        return None, *(None for _ in clips), *of_parameters


def _convolve(clip_BCTHW: Tensor, stem: Stem) -> tuple[Tensor, norm.Moments]:
    """(B, T, h, w, N), raw, and the moments for its norm."""
    b, _, t, height, width = clip_BCTHW.shape
    h, w, n = -(-height // 2), -(-width // 2), stem.spatial.out_channels
    out = clip_BCTHW.new_empty(b, t, h, w, n)
    tiles, block_n = triton.cdiv(h * w, _BLOCK_PIXELS), _block_n(n)
    moments = torch.empty(tiles * b, 3, n, device=clip_BCTHW.device)
    _conv1_forward[(tiles, triton.cdiv(n, block_n), b)](
        clip_BCTHW,
        *clip_BCTHW.stride(),
        stem.spatial.weight.contiguous(),  # with channels last its taps lie in another order
        stem.temporal.conv.weight,
        out,
        moments,
        t,
        height,
        width,
        h,
        w,
        n,
        BLOCK_PIXELS=_BLOCK_PIXELS,
        BLOCK_N=block_n,
        STORED=TYPES[clip_BCTHW.dtype],
        num_warps=8,
    )
    return out, norm.Moments(moments)


def _block_n(channels: int) -> int:
    """A power of two; the matrix units need at least 16."""
    return max(min(1 << (channels - 1).bit_length(), _MOST_CHANNELS), 16)


def _gradients(
    clip_BCTHW: Tensor, stem: Stem, gradient_BThwN: Tensor, raw_BThwN: Tensor, coefficients_3N: Tensor
) -> tuple[Tensor, Tensor]:
    """Of the 1x7x7's weight and of the 3x1x1's."""
    b, _, t, height, width = clip_BCTHW.shape
    h, w, n = gradient_BThwN.shape[2:]
    tiles, block_n = triton.cdiv(h * w, _BLOCK_PIXELS), _block_n(n)
    count = min(programs(clip_BCTHW), tiles * b)
    spatial = torch.empty(count, _TAPS.value, n, device=clip_BCTHW.device)
    temporal = torch.empty(count, 3, n, device=clip_BCTHW.device)
    _conv1_backward[(count, triton.cdiv(n, block_n))](
        clip_BCTHW,
        *clip_BCTHW.stride(),
        stem.spatial.weight.contiguous(),  # with channels last its taps lie in another order
        stem.temporal.conv.weight,
        gradient_BThwN,
        raw_BThwN,
        coefficients_3N,
        spatial,
        temporal,
        b,
        t,
        height,
        width,
        h,
        w,
        n,
        BLOCK_PIXELS=_BLOCK_PIXELS,
        BLOCK_N=block_n,
        STORED=TYPES[clip_BCTHW.dtype],
        num_warps=8,
    )
    of_spatial = spatial.sum(0).t().reshape(stem.spatial.weight.shape)
    return of_spatial, temporal.sum(0).t().reshape(stem.temporal.conv.weight.shape)


@triton.jit
def _product(a, b, total, STORED: tl.constexpr):
    """`total + a @ b` in float32, with operands rounded to the stored type."""
    a, b = rounded(a, STORED), rounded(b, STORED)
    if INTERPRETED:  # it would multiply bfloat16's bits
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def _patches(
    frame,
    stride_c,
    stride_h,
    stride_w,
    first_tap,
    pixel,
    inside,
    H,
    W,
    w,
    BLOCK: tl.constexpr,
):
    """(pixels, taps) of the input under a block of output pixels; taps are numbered as in the weight."""
    tap = first_tap + tl.arange(0, BLOCK)
    row = (pixel // w * 2 - 3)[:, None] + (tap // 7 % 7)[None, :]
    column = (pixel % w * 2 - 3)[:, None] + (tap % 7)[None, :]
    there = (row >= 0) & (row < H) & (column >= 0) & (column < W) & (tap < _TAPS)[None, :] & inside[:, None]
    place = (tap // 49 * stride_c)[None, :] + row * stride_h + column * stride_w
    return tl.load(frame + place, mask=there, other=0.0)


@triton.jit
def _weights(weight, first_tap, n, N, BLOCK: tl.constexpr):
    """(taps, channels)."""
    tap = first_tap + tl.arange(0, BLOCK)
    there = (tap < _TAPS)[:, None] & (n < N)[None, :]
    return tl.load(weight + n[None, :] * _TAPS + tap[:, None], mask=there, other=0.0)


@triton.jit
def _spatial(patches, rest, weight, n, N, STORED: tl.constexpr):
    """The 1x7x7 at a block of pixels of a frame."""
    none = tl.zeros([patches.shape[0], n.shape[0]], tl.float32)
    r = _product(patches, _weights(weight, 0, n, N, _BLOCK_TAPS), none, STORED)
    return _product(rest, _weights(weight, _BLOCK_TAPS, n, N, _REST_TAPS), r, STORED)


@triton.jit
def _temporal_weights(temporal, n, N):
    before = tl.load(temporal + n * 3, mask=n < N, other=0.0)[None, :]
    at = tl.load(temporal + n * 3 + 1, mask=n < N, other=0.0)[None, :]
    after = tl.load(temporal + n * 3 + 2, mask=n < N, other=0.0)[None, :]
    return before, at, after


@triton.jit
def _conv1_forward(
    clip,
    stride_b,
    stride_c,
    stride_t,
    stride_h,
    stride_w,
    spatial,
    temporal,
    out,
    moments,
    T,
    H,
    W,
    h,
    w,
    N,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STORED: tl.constexpr,
):
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    b = tl.program_id(2).to(tl.int64)
    inside = pixel < h * w
    there = inside[:, None] & (n < N)[None, :]
    before, at, after = _temporal_weights(temporal, n, N)
    r_last = tl.zeros([BLOCK_PIXELS, BLOCK_N], tl.float32)
    r = tl.zeros([BLOCK_PIXELS, BLOCK_N], tl.float32)
    count = 0.0
    mean = tl.zeros([BLOCK_N], tl.float32)
    squares = tl.zeros([BLOCK_N], tl.float32)
    for t in range(-1, T):  # the first round only makes r
        frame = clip + b * stride_b + (t + 1) * stride_t
        seen = inside & (t + 1 < T)
        patches = _patches(frame, stride_c, stride_h, stride_w, 0, pixel, seen, H, W, w, _BLOCK_TAPS)
        rest = _patches(frame, stride_c, stride_h, stride_w, _BLOCK_TAPS, pixel, seen, H, W, w, _REST_TAPS)
        r_next = _spatial(patches, rest, spatial, n, N, STORED)
        m = rounded(r_last * before + r * at + r_next * after, STORED)
        stored = there & (t >= 0)
        tl.store(out + (b * T + t) * (h * w * N) + pixel[:, None] * N + n[None, :], m, mask=stored)
        count, mean, squares = norm.merged(count, mean, squares, m.to(tl.float32), inside & (t >= 0))
        r_last, r = r, r_next
    row = tl.program_id(0) * tl.num_programs(2) + b
    norm.store_moments(moments, row, n, n < N, N, count, mean, squares)


@triton.jit
def _raw_gradient_at(gradient, raw, coefficients, place, there, n, N):
    dy = tl.load(gradient + place, mask=there, other=0.0).to(tl.float32)
    m = tl.load(raw + place, mask=there, other=0.0).to(tl.float32)
    return tl.where(there, raw_gradient(dy, m, coefficients, n, n < N, N), 0.0)


@triton.jit
def _conv1_backward(
    clip,
    stride_b,
    stride_c,
    stride_t,
    stride_h,
    stride_w,
    spatial,
    temporal,
    gradient,
    raw,
    coefficients,
    of_spatial,
    of_temporal,
    B,
    T,
    H,
    W,
    h,
    w,
    N,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STORED: tl.constexpr,
):
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    before, at, after = _temporal_weights(temporal, n, N)
    of_taps = tl.zeros([_BLOCK_TAPS, BLOCK_N], tl.float32)
    of_rest = tl.zeros([_REST_TAPS, BLOCK_N], tl.float32)
    of_before = tl.zeros([BLOCK_N], tl.float32)
    of_at = tl.zeros([BLOCK_N], tl.float32)
    of_after = tl.zeros([BLOCK_N], tl.float32)
    tiles = tl.cdiv(h * w, BLOCK_PIXELS)
    for work in range(tl.program_id(0), tiles * B, tl.num_programs(0)):
        pixel = work % tiles * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
        b = (work // tiles).to(tl.int64)
        inside = pixel < h * w
        there = inside[:, None] & (n < N)[None, :]
        place = pixel[:, None] * N + n[None, :]
        first = b * T * (h * w * N)
        dm_last = tl.zeros([BLOCK_PIXELS, BLOCK_N], tl.float32)
        dm = _raw_gradient_at(gradient + first, raw + first, coefficients, place, there, n, N)
        for t in range(T):
            following = first + (t + 1) * (h * w * N)
            dm_next = _raw_gradient_at(
                gradient + following, raw + following, coefficients, place, there & (t + 1 < T), n, N
            )
            frame = clip + b * stride_b + t * stride_t
            patches = _patches(frame, stride_c, stride_h, stride_w, 0, pixel, inside, H, W, w, _BLOCK_TAPS)
            rest = _patches(frame, stride_c, stride_h, stride_w, _BLOCK_TAPS, pixel, inside, H, W, w, _REST_TAPS)
            r = _spatial(patches, rest, spatial, n, N, STORED)
            # A value takes part in the output before it with the weight `after`, and the other way round.
            dr = dm_next * before + dm * at + dm_last * after
            of_before += tl.sum(r * dm_next, 0)
            of_at += tl.sum(r * dm, 0)
            of_after += tl.sum(r * dm_last, 0)
            of_taps = _product(tl.trans(patches), dr, of_taps, STORED)
            of_rest = _product(tl.trans(rest), dr, of_rest, STORED)
            dm_last, dm = dm, dm_next
    tap = tl.arange(0, _BLOCK_TAPS)
    pointers = of_spatial + tl.program_id(0) * _TAPS * N + n[None, :]
    tl.store(pointers + tap[:, None] * N, of_taps, mask=(n < N)[None, :])
    tap = _BLOCK_TAPS + tl.arange(0, _REST_TAPS)
    tl.store(pointers + tap[:, None] * N, of_rest, mask=(tap < _TAPS)[:, None] & (n < N)[None, :])
    pointers = of_temporal + tl.program_id(0) * 3 * N + n
    tl.store(pointers, of_before, mask=n < N)
    tl.store(pointers + N, of_at, mask=n < N)
    tl.store(pointers + 2 * N, of_after, mask=n < N)
