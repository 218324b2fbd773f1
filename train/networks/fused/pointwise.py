"""1x1x1 convolutions, optionally with a stride in space: the bottom of a module, and its projected shortcut.

Shapes: C channels in, N channels out, (B, T, H, W) in, (B, T, h, w) out, P programs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from resact.train.networks.fused.launch import TYPES, block, product, programs, raw_gradient, rounded
from resact.train.networks.fused.norm import Moments, merged, store_moments

_BLOCK_ROWS = 128


def forward(x_BTHWC: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, Moments]:
    """The raw output (B, T, h, w, N), and the moments for its norm. `weight` is (N, C, 1, 1, 1)."""
    b, t, height, width, channels = x_BTHWC.shape
    h, w = -(-height // stride), -(-width // stride)
    out = x_BTHWC.new_empty(b, t, h, w, len(weight))
    rows = b * t * h * w
    count = programs(x_BTHWC, triton.cdiv(rows, _BLOCK_ROWS))
    moments = torch.empty(count, 3, len(weight), device=x_BTHWC.device)
    block_n = block(len(weight), 128)
    _forward[(count, triton.cdiv(len(weight), block_n))](
        x_BTHWC,
        weight,
        out,
        moments,
        rows,
        height,
        width,
        h,
        w,
        channels,
        len(weight),
        STRIDE=stride,
        BLOCK_ROWS=_BLOCK_ROWS,
        BLOCK_K=block(channels, 64),
        BLOCK_N=block_n,
        STORED=TYPES[x_BTHWC.dtype],
        num_warps=8,
    )
    return out, Moments(moments)


def weight_gradient(
    gradient_BThwN: Tensor, raw_BThwN: Tensor, coefficients_3N: Tensor, x_BTHWC: Tensor, stride: int
) -> Tensor:
    """The weight's gradient (N, C, 1, 1, 1). The first three arguments are as in `launch.raw_gradient`."""
    b, t, height, width, channels = x_BTHWC.shape
    h, w, n = gradient_BThwN.shape[2:]
    rows = b * t * h * w
    block_n, block_c = block(n, 64), block(channels, 128)
    blocks = triton.cdiv(n, block_n), triton.cdiv(channels, block_c)
    splits = max(programs(x_BTHWC, triton.cdiv(rows, _BLOCK_ROWS)) // (blocks[0] * blocks[1]), 1)
    partial = torch.empty(splits, n, channels, device=x_BTHWC.device)
    _weight_gradient[(splits, *blocks)](
        gradient_BThwN,
        raw_BThwN,
        coefficients_3N,
        x_BTHWC,
        partial,
        rows,
        height,
        width,
        h,
        w,
        channels,
        n,
        STRIDE=stride,
        BLOCK_ROWS=_BLOCK_ROWS // 2,
        BLOCK_N=block_n,
        BLOCK_C=block_c,
        STORED=TYPES[x_BTHWC.dtype],
        num_warps=8,
    )
    return partial.sum(0).view(n, channels, 1, 1, 1)


def input_gradient(
    x_BTHWC: Tensor,
    stride: int,
    convolutions: list[tuple[Tensor, Tensor, Tensor, Tensor]],
    passed_BTHWC: Tensor | None = None,
) -> Tensor:
    """The gradient of `x_BTHWC` (B, T, H, W, C), summed over one or two convolutions of it.

    Args:
        x_BTHWC: used for its shape and type.
        stride: stride of the convolutions.
        convolutions: for each: gradient, raw output, coefficients (as in `weight_gradient`) and weight.
        passed_BTHWC: gradient that comes back around the convolution, if there is only one, with stride 1.
    """
    b, t, height, width, channels = x_BTHWC.shape
    (gradient, raw, coefficients, weight), *others = convolutions
    gradient_2, raw_2, coefficients_2, weight_2 = others[0] if others else (None, None, None, None)
    h, w, n = gradient.shape[2:]
    rows = b * t * h * w
    out = torch.empty_like(x_BTHWC) if stride == 1 else torch.zeros_like(x_BTHWC)
    block_c = block(channels, 128)
    _input_gradient[(triton.cdiv(rows, _BLOCK_ROWS), triton.cdiv(channels, block_c))](
        gradient,
        raw,
        coefficients,
        weight,
        gradient_2,
        raw_2,
        coefficients_2,
        weight_2,
        passed_BTHWC,
        out,
        rows,
        height,
        width,
        h,
        w,
        channels,
        n,
        STRIDE=stride,
        BLOCK_ROWS=_BLOCK_ROWS,
        BLOCK_N=block(n, 32),
        BLOCK_C=block_c,
        STORED=TYPES[x_BTHWC.dtype],
        num_warps=8,
    )
    return out


@triton.jit
def _row_in(row, height, width, h, w, STRIDE: tl.constexpr):
    """Which row of the input a row of the output is made of."""
    source = row.to(tl.int64)
    if STRIDE > 1:
        frame = row // (h * w)
        source = (frame.to(tl.int64) * height + row // w % h * STRIDE) * width + row % w * STRIDE
    return source


@triton.jit
def _forward(
    x,
    weight,
    out,
    moments,
    rows,
    height,
    width,
    h,
    w,
    C,
    N,
    STRIDE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    STORED: tl.constexpr,
):
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_n = n < N
    count = 0.0
    mean = tl.zeros([BLOCK_N], tl.float32)
    squares = tl.zeros([BLOCK_N], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, BLOCK_ROWS), tl.num_programs(0)):
        row = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        inside = row < rows
        source = _row_in(row, height, width, h, w, STRIDE) * C
        y = tl.zeros([BLOCK_ROWS, BLOCK_N], tl.float32)
        for start in range(0, C, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            there = k < C
            x_block = tl.load(x + source[:, None] + k[None, :], mask=inside[:, None] & there[None, :], other=0.0)
            w_block = tl.load(weight + n[None, :] * C + k[:, None], mask=inside_n[None, :] & there[:, None], other=0.0)
            y = product(x_block, w_block, y, STORED)
        y = rounded(y, STORED)
        pointers = out + row[:, None].to(tl.int64) * N + n[None, :]
        tl.store(pointers, y, mask=inside[:, None] & inside_n[None, :])
        count, mean, squares = merged(count, mean, squares, y.to(tl.float32), inside)
    store_moments(moments, tl.program_id(0), n, inside_n, N, count, mean, squares)


@triton.jit
def _weight_gradient(
    gradient,
    raw,
    coefficients,
    x,
    partial,
    rows,
    height,
    width,
    h,
    w,
    C,
    N,
    STRIDE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STORED: tl.constexpr,
):
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    c = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside_n, inside_c = n < N, c < C
    total = tl.zeros([BLOCK_N, BLOCK_C], tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, BLOCK_ROWS), tl.num_programs(0)):
        row = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        inside = row < rows
        there = inside[:, None] & inside_n[None, :]
        place = row[:, None].to(tl.int64) * N + n[None, :]
        dy = tl.load(gradient + place, mask=there, other=0.0).to(tl.float32)
        z = tl.load(raw + place, mask=there, other=0.0).to(tl.float32)
        dz = tl.where(there, raw_gradient(dy, z, coefficients, n, inside_n, N), 0.0)
        source = _row_in(row, height, width, h, w, STRIDE) * C
        x_block = tl.load(x + source[:, None] + c[None, :], mask=inside[:, None] & inside_c[None, :], other=0.0)
        total = product(tl.trans(dz), x_block, total, STORED)
    pointers = partial + (tl.program_id(0) * N + n[:, None]) * C + c[None, :]
    tl.store(pointers, total, mask=inside_n[:, None] & inside_c[None, :])


@triton.jit
def _through(
    dx,
    gradient,
    raw,
    coefficients,
    weight,
    row,
    inside,
    c,
    inside_c,
    C,
    N,
    BLOCK_N: tl.constexpr,
    STORED: tl.constexpr,
):
    """`dx` and what comes back through one convolution."""
    for start in range(0, N, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        inside_n = n < N
        there = inside[:, None] & inside_n[None, :]
        place = row[:, None].to(tl.int64) * N + n[None, :]
        dy = tl.load(gradient + place, mask=there, other=0.0).to(tl.float32)
        z = tl.load(raw + place, mask=there, other=0.0).to(tl.float32)
        dz = raw_gradient(dy, z, coefficients, n, inside_n, N)
        w_block = tl.load(weight + n[:, None] * C + c[None, :], mask=inside_n[:, None] & inside_c[None, :], other=0.0)
        dx = product(dz, w_block, dx, STORED)
    return dx


@triton.jit
def _input_gradient(
    gradient,
    raw,
    coefficients,
    weight,
    gradient_2,
    raw_2,
    coefficients_2,
    weight_2,
    passed,
    out,
    rows,
    height,
    width,
    h,
    w,
    C,
    N,
    STRIDE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STORED: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside, inside_c = row < rows, c < C
    dx = tl.zeros([BLOCK_ROWS, BLOCK_C], tl.float32)
    dx = _through(dx, gradient, raw, coefficients, weight, row, inside, c, inside_c, C, N, BLOCK_N, STORED)
    if gradient_2 is not None:
        dx = _through(dx, gradient_2, raw_2, coefficients_2, weight_2, row, inside, c, inside_c, C, N, BLOCK_N, STORED)
    place = _row_in(row, height, width, h, w, STRIDE)[:, None] * C + c[None, :]
    there = inside[:, None] & inside_c[None, :]
    if passed is not None:
        dx += tl.load(passed + place, mask=there, other=0.0).to(tl.float32)
    tl.store(out + place, rounded(dx, STORED), mask=there)
