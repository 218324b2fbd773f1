"""Batch norm: moments of a raw output, the scale and shift that its readers apply, and its gradient.

Shapes: B clips, C channels, P partial sums or programs.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resact.errors import UsageError
from resact.train.networks.fused import launch
from resact.train.networks.fused.launch import TYPES, rounded

_BLOCK_C, _BLOCK_P = 16, 256
_BLOCK_ROWS, _BLOCK_CHANNELS = 64, 64


@dataclass(frozen=True)
class Moments:
    """Moments per channel; each partial result covers some rows, and together they cover all.

    These are not sums of squares: minus the square of a large mean, they would have few correct digits in float32.
    """

    partial: Tensor
    """(P, n, C) float32: n kinds, among them these."""
    count: int = 0
    mean: int = 1
    squares: int = 2
    """Sum of squared deviations from the mean of the same rows."""


@dataclass(frozen=True)
class Sums:
    """Sums of the gradients of a norm's output; each partial result covers some rows, and together they cover all."""

    partial: Tensor
    """(P, n, C) float32: n kinds, among them these."""
    plain: int = 0
    weighted: int = 1
    """Sum of gradients times the raw values' deviations from the channel's mean."""


def moments_of(raw: Tensor, constant_BC: Tensor | None = None) -> Moments:
    """The moments of a raw output (B, ..., C). `constant_BC` is as in `launch.clip_constant`."""
    channels = raw.shape[-1]
    grid = launch.clip_grid(raw, _BLOCK_ROWS, _BLOCK_CHANNELS)
    moments = torch.empty(grid[2] * grid[0], 3, channels, device=raw.device)
    _norm_moments[grid](
        raw,
        constant_BC,
        moments,
        raw[0].numel() // channels,
        channels,
        BLOCK_ROWS=_BLOCK_ROWS,
        BLOCK_C=_BLOCK_CHANNELS,
        maxnreg=128,  # so that `launch.programs` run at a time
    )
    return Moments(moments)


def raw_gradient(
    gradient: Tensor, raw: Tensor, coefficients_3C: Tensor, constant_BC: Tensor | None = None, *, out: Tensor
) -> Tensor:
    """Fills `out` with the gradient of a raw output, and returns its sums over each clip, (B, C).

    Args:
        gradient: gradient of the norm's output, (B, ..., C).
        raw: the raw output.
        coefficients_3C: from `backward`.
        constant_BC: as in `launch.clip_constant`.
        out: like `gradient`, which it may be.
    """
    channels = raw.shape[-1]
    grid = launch.clip_grid(raw, _BLOCK_ROWS, _BLOCK_CHANNELS)
    sums_BPC = torch.empty(grid[2], grid[0], channels, device=raw.device)
    _norm_raw_gradient[grid](
        gradient,
        raw,
        coefficients_3C,
        constant_BC,
        out,
        sums_BPC,
        raw[0].numel() // channels,
        channels,
        BLOCK_ROWS=_BLOCK_ROWS,
        BLOCK_C=_BLOCK_CHANNELS,
        STORED=TYPES[raw.dtype],
    )
    return sums_BPC.sum(1)


def forward(norm: nn.BatchNorm3d, moments: Moments, count: int) -> Tensor:
    """(4, C): scale and shift, mean and 1 / standard deviation; updates running statistics as PyTorch does.

    Args:
        norm: in training mode, the batch's statistics are used, otherwise the running ones.
        moments: moments of its input over a complete batch.
        count: number of values per channel.

    Raises:
        UsageError: in training mode, with a single value per channel.
    """
    if norm.training and count < 2:
        raise UsageError("batch norm got 1 value a channel, expected more while training; use more or larger clips")
    state = torch.empty(4, norm.num_features, device=moments.partial.device)
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    _norm_statistics[(triton.cdiv(norm.num_features, _BLOCK_C),)](
        moments.partial,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        state,
        len(moments.partial),
        count,
        norm.momentum,
        norm.eps,
        norm.num_features,
        KINDS=moments.partial.shape[1],
        COUNT=moments.count,
        MEAN=moments.mean,
        SQUARES=moments.squares,
        TRAINING=norm.training,
        BLOCK_C=_BLOCK_C,
        BLOCK_P=_BLOCK_P,
        num_warps=8,
    )
    return state


def backward(
    norm: _BatchNorm, state: Tensor, sums: Sums, count: int, *, training: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(3, C) for `launch.raw_gradient`, and the gradients of the norm's weight and bias, (C,) each.

    Args:
        norm: as in `forward`.
        state: result of `forward`.
        sums: sums of the gradients of its output over a complete batch.
        count: as in `forward`.
        training: whether the norm was in training mode in `forward`.
    """
    coefficients = torch.empty(3, norm.num_features, device=state.device)
    weight_gradient, bias_gradient = torch.empty_like(norm.weight), torch.empty_like(norm.bias)
    _norm_gradients[(triton.cdiv(norm.num_features, _BLOCK_C),)](
        sums.partial,
        state,
        coefficients,
        weight_gradient,
        bias_gradient,
        len(sums.partial),
        count,
        norm.num_features,
        KINDS=sums.partial.shape[1],
        PLAIN=sums.plain,
        WEIGHTED=sums.weighted,
        TRAINING=training,
        BLOCK_C=_BLOCK_C,
        BLOCK_P=_BLOCK_P,
        num_warps=8,
    )
    return coefficients, weight_gradient, bias_gradient


@triton.jit
def merged(count, mean, squares, values, inside):
    """The moments of some rows, (channels,) each, and of a block of others, (rows, channels)."""
    others = tl.sum(inside.to(tl.float32), 0)
    others_mean = tl.sum(tl.where(inside[:, None], values, 0.0), 0) / tl.maximum(others, 1.0)
    deviations = tl.where(inside[:, None], values - others_mean[None, :], 0.0)
    both = tl.maximum(count + others, 1.0)
    apart = others_mean - mean
    squares += tl.sum(deviations * deviations, 0) + apart * apart * (count * others / both)
    return count + others, mean + apart * (others / both), squares


@triton.jit
def store_moments(partial, row, channel, inside, C, count, mean, squares):
    """As row `row` of (P, 3, C)."""
    pointers = partial + row * 3 * C + channel
    tl.store(pointers, tl.zeros_like(mean) + count, mask=inside)
    tl.store(pointers + C, mean, mask=inside)
    tl.store(pointers + 2 * C, squares, mask=inside)


@triton.jit
def _norm_moments(raw, constant, moments, rows, C, BLOCK_ROWS: tl.constexpr, BLOCK_C: tl.constexpr):
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    clip = tl.program_id(2).to(tl.int64)
    inside_c = c < C
    raw += clip * rows * C
    count = 0.0
    about = tl.zeros([BLOCK_C], tl.float32)  # the first rows' mean, which moments are taken about
    total = tl.zeros([BLOCK_ROWS, BLOCK_C], tl.float32)
    squares = tl.zeros([BLOCK_ROWS, BLOCK_C], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, BLOCK_ROWS), tl.num_programs(0)):
        row = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        there = (row < rows)[:, None] & inside_c[None, :]
        values = tl.load(raw + row[:, None] * C + c[None, :], mask=there, other=0.0).to(tl.float32)
        number = tl.sum((row < rows).to(tl.float32), 0)
        if tile == tl.program_id(0):
            about = tl.sum(values, 0) / number
        apart = tl.where(there, values - about[None, :], 0.0)
        count += number
        total += apart
        squares += apart * apart
    from_about = tl.sum(total, 0) / count
    mean = about + from_about + tl.sum(launch.clip_constant(constant, clip, c, inside_c, C), 0)
    squares_c = tl.maximum(tl.sum(squares, 0) - from_about * from_about * count, 0.0)
    store_moments(moments, clip * tl.num_programs(0) + tl.program_id(0), c, inside_c, C, count, mean, squares_c)


@triton.jit
def _norm_raw_gradient(
    gradient,
    raw,
    coefficients,
    constant,
    out,
    sums,
    rows,
    C,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STORED: tl.constexpr,
):
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    clip = tl.program_id(2).to(tl.int64)
    inside_c = c < C
    lacking = launch.clip_constant(constant, clip, c, inside_c, C)
    total = tl.zeros([BLOCK_C], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, BLOCK_ROWS), tl.num_programs(0)):
        row = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        there = (row < rows)[:, None] & inside_c[None, :]
        place = (clip * rows + row[:, None]) * C + c[None, :]
        dy = tl.load(gradient + place, mask=there, other=0.0).to(tl.float32)
        z = tl.load(raw + place, mask=there, other=0.0).to(tl.float32) + lacking
        dz = rounded(launch.raw_gradient(dy, z, coefficients, c, inside_c, C), STORED)
        tl.store(out + place, dz, mask=there)
        total += tl.sum(tl.where(there, dz.to(tl.float32), 0.0), 0)
    tl.store(sums + (clip * tl.num_programs(0) + tl.program_id(0)) * C + c, total, mask=inside_c)


@triton.jit
def _rows(partial, start, P, channel, inside, C, KINDS: tl.constexpr, KIND: tl.constexpr, BLOCK_P: tl.constexpr):
    """(rows, channels) of one kind."""
    p = start + tl.arange(0, BLOCK_P)
    pointers = partial + p[:, None].to(tl.int64) * (KINDS * C) + KIND * C + channel[None, :]
    return tl.load(pointers, mask=(p < P)[:, None] & inside[None, :], other=0.0).to(tl.float64)


@triton.jit
def _norm_statistics(
    partial,
    weight,
    bias,
    running_mean,
    running_var,
    state,
    P,
    count,
    momentum,
    eps,
    C,
    KINDS: tl.constexpr,
    COUNT: tl.constexpr,
    MEAN: tl.constexpr,
    SQUARES: tl.constexpr,
    TRAINING: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channel < C
    mean = tl.load(running_mean + channel, mask=inside, other=0.0)
    var = tl.load(running_var + channel, mask=inside, other=1.0)
    if TRAINING:
        total = tl.zeros([BLOCK_C], tl.float64)
        for start in range(0, P, BLOCK_P):
            n = _rows(partial, start, P, channel, inside, C, KINDS, COUNT, BLOCK_P)
            total += tl.sum(n * _rows(partial, start, P, channel, inside, C, KINDS, MEAN, BLOCK_P), 0)
        mean64 = total / count
        squares = tl.zeros([BLOCK_C], tl.float64)
        for start in range(0, P, BLOCK_P):
            n = _rows(partial, start, P, channel, inside, C, KINDS, COUNT, BLOCK_P)
            apart = _rows(partial, start, P, channel, inside, C, KINDS, MEAN, BLOCK_P) - mean64[None, :]
            own = _rows(partial, start, P, channel, inside, C, KINDS, SQUARES, BLOCK_P)
            squares += tl.sum(own + n * apart * apart, 0)
        batch_mean, batch_var = mean64.to(tl.float32), (squares / count).to(tl.float32)
        unbiased = (squares / (count - 1)).to(tl.float32)
        tl.store(running_mean + channel, mean + momentum * (batch_mean - mean), mask=inside)
        tl.store(running_var + channel, var + momentum * (unbiased - var), mask=inside)
        mean, var = batch_mean, batch_var
    inverse = 1.0 / tl.sqrt(var + eps)
    scale = tl.load(weight + channel, mask=inside, other=0.0) * inverse
    tl.store(state + channel, scale, mask=inside)
    tl.store(state + C + channel, tl.load(bias + channel, mask=inside, other=0.0) - mean * scale, mask=inside)
    tl.store(state + 2 * C + channel, mean, mask=inside)
    tl.store(state + 3 * C + channel, inverse, mask=inside)


@triton.jit
def _norm_gradients(
    partial,
    state,
    coefficients,
    weight_gradient,
    bias_gradient,
    P,
    count,
    C,
    KINDS: tl.constexpr,
    PLAIN: tl.constexpr,
    WEIGHTED: tl.constexpr,
    TRAINING: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channel < C
    scale = tl.load(state + channel, mask=inside, other=0.0).to(tl.float64)
    mean = tl.load(state + 2 * C + channel, mask=inside, other=0.0).to(tl.float64)
    inverse = tl.load(state + 3 * C + channel, mask=inside, other=0.0).to(tl.float64)
    total = tl.zeros([BLOCK_C], tl.float64)
    of_weight = tl.zeros([BLOCK_C], tl.float64)
    for start in range(0, P, BLOCK_P):
        total += tl.sum(_rows(partial, start, P, channel, inside, C, KINDS, PLAIN, BLOCK_P), 0)
        of_weight += tl.sum(_rows(partial, start, P, channel, inside, C, KINDS, WEIGHTED, BLOCK_P), 0) * inverse
    of_raw = tl.zeros([BLOCK_C], tl.float64)
    constant = tl.zeros([BLOCK_C], tl.float64)
    if TRAINING:
        of_raw = -scale * inverse * of_weight / count
        constant = -scale * total / count - of_raw * mean
    tl.store(weight_gradient + channel, of_weight.to(tl.float32), mask=inside)
    tl.store(bias_gradient + channel, total.to(tl.float32), mask=inside)
    tl.store(coefficients + channel, scale.to(tl.float32), mask=inside)
    tl.store(coefficients + C + channel, of_raw.to(tl.float32), mask=inside)
    tl.store(coefficients + 2 * C + channel, constant.to(tl.float32), mask=inside)
