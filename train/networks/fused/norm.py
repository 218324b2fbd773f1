"""Batch norm, folded into those around it: from sums to what its readers multiply with and add.

Shapes: P partial sums, C channels.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resact.errors import UsageError

_BLOCK_C, _BLOCK_P = 16, 64


@dataclass(frozen=True)
class Sums:
    """Of some rows of a channel each; all rows together make a whole."""

    partial: Tensor
    """(P, n, C) float32: n kinds of sums."""
    first: int = 0
    """Which of them is the sum of the values (backward: of the gradients)."""
    second: int = 1
    """Which is that of their squares (backward: of gradients times raw values)."""


def forward(norm: nn.BatchNorm3d, sums: Sums, count: int) -> Tensor:
    """(4, C): scale and shift, mean and 1 / standard deviation; updates running statistics as PyTorch does.

    Args:
        norm: in training, its batch's statistics count, otherwise the running ones.
        sums: of what it is to normalise, from a whole batch.
        count: of values of a channel.

    Raises:
        UsageError: in training, channels have a single value.
    """
    if norm.training and count < 2:
        raise UsageError("batch norm got 1 value a channel, expected more while training; use more or larger clips")
    state = torch.empty(4, norm.num_features, device=sums.partial.device)
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    _statistics[(triton.cdiv(norm.num_features, _BLOCK_C),)](
        sums.partial,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        state,
        len(sums.partial),
        count,
        norm.momentum,
        norm.eps,
        norm.num_features,
        KINDS=sums.partial.shape[1],
        FIRST=sums.first,
        SECOND=sums.second,
        TRAINING=norm.training,
        BLOCK_C=_BLOCK_C,
        BLOCK_P=_BLOCK_P,
    )
    return state


def backward(norm: _BatchNorm, state: Tensor, sums: Sums, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(3, C) as `launch.raw_gradient` takes it; gradients of the norm's weight and bias, (C,) each.

    Args:
        norm: as in `forward`.
        state: what `forward` gave.
        sums: of gradients of the norm's output, and of these times the raw values.
        count: as in `forward`.
    """
    coefficients = torch.empty(3, norm.num_features, device=state.device)
    weight_gradient, bias_gradient = torch.empty_like(norm.weight), torch.empty_like(norm.bias)
    _gradients[(triton.cdiv(norm.num_features, _BLOCK_C),)](
        sums.partial,
        state,
        coefficients,
        weight_gradient,
        bias_gradient,
        len(sums.partial),
        count,
        norm.num_features,
        KINDS=sums.partial.shape[1],
        FIRST=sums.first,
        SECOND=sums.second,
        TRAINING=norm.training,
        BLOCK_C=_BLOCK_C,
        BLOCK_P=_BLOCK_P,
    )
    return coefficients, weight_gradient, bias_gradient


@triton.jit
def _totals(
    partial,
    P,
    channel,
    inside,
    C,
    KINDS: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """In float64: the variance is a difference of two of them."""
    first = tl.zeros([BLOCK_C], tl.float64)
    second = tl.zeros([BLOCK_C], tl.float64)
    for start in range(0, P, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        there = (p < P)[:, None] & inside[None, :]
        pointers = partial + p[:, None].to(tl.int64) * (KINDS * C) + channel[None, :]
        first += tl.sum(tl.load(pointers + FIRST * C, mask=there, other=0.0).to(tl.float64), 0)
        second += tl.sum(tl.load(pointers + SECOND * C, mask=there, other=0.0).to(tl.float64), 0)
    return first, second


@triton.jit
def _statistics(
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
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    TRAINING: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channel < C
    running = tl.load(running_mean + channel, mask=inside, other=0.0)
    running_v = tl.load(running_var + channel, mask=inside, other=1.0)
    if TRAINING:
        total, squares = _totals(partial, P, channel, inside, C, KINDS, FIRST, SECOND, BLOCK_C, BLOCK_P)
        mean64 = total / count
        var64 = tl.maximum(squares / count - mean64 * mean64, 0.0)
        mean, var = mean64.to(tl.float32), var64.to(tl.float32)
        unbiased = (var64 * count / (count - 1)).to(tl.float32)
        tl.store(running_mean + channel, running + momentum * (mean - running), mask=inside)
        tl.store(running_var + channel, running_v + momentum * (unbiased - running_v), mask=inside)
    else:
        mean, var = running, running_v
    inverse = 1.0 / tl.sqrt(var + eps)
    scale = tl.load(weight + channel, mask=inside, other=0.0) * inverse
    tl.store(state + channel, scale, mask=inside)
    tl.store(state + C + channel, tl.load(bias + channel, mask=inside, other=0.0) - mean * scale, mask=inside)
    tl.store(state + 2 * C + channel, mean, mask=inside)
    tl.store(state + 3 * C + channel, inverse, mask=inside)


@triton.jit
def _gradients(
    partial,
    state,
    coefficients,
    weight_gradient,
    bias_gradient,
    P,
    count,
    C,
    KINDS: tl.constexpr,
    FIRST: tl.constexpr,
    SECOND: tl.constexpr,
    TRAINING: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channel < C
    scale = tl.load(state + channel, mask=inside, other=0.0).to(tl.float64)
    mean = tl.load(state + 2 * C + channel, mask=inside, other=0.0).to(tl.float64)
    inverse = tl.load(state + 3 * C + channel, mask=inside, other=0.0).to(tl.float64)
    total, weighted = _totals(partial, P, channel, inside, C, KINDS, FIRST, SECOND, BLOCK_C, BLOCK_P)
    of_weight = inverse * (weighted - mean * total)
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
