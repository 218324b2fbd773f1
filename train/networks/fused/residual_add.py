"""`relu(norm(raw) + shortcut)`, the end of a module and of a stem. Shapes: B clips, C channels, P programs."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from resact.train.networks.fused.launch import TYPES, affine, clip_constant, clip_grid, rounded

_BLOCK_ROWS, _BLOCK_C = 64, 64


def forward(
    out: Tensor,
    raw: Tensor,
    state_4C: Tensor,
    constant_BC: Tensor | None = None,
    shortcut: Tensor | None = None,
    shortcut_state_4C: Tensor | None = None,
) -> None:
    """Fills `out`.

    Args:
        out: (B, ..., C) like the others, or such a slice of a tensor with more channels.
        raw: (B, ..., C), contiguous.
        state_4C: state of its norm.
        constant_BC: what it lacks, as in `launch.clip_constant`.
        shortcut: (B, ..., C), contiguous, or None.
        shortcut_state_4C: state of the shortcut's norm, if the shortcut is a projection's raw output.
    """
    channels = raw.shape[-1]
    rows = raw[0].numel() // channels
    _residual_add_forward[(triton.cdiv(rows, _BLOCK_ROWS), triton.cdiv(channels, _BLOCK_C), len(raw))](
        out,
        raw,
        state_4C,
        constant_BC,
        shortcut,
        shortcut_state_4C,
        rows,
        channels,
        out.stride(-2),
        BLOCK_ROWS=_BLOCK_ROWS,
        BLOCK_C=_BLOCK_C,
        STORED=TYPES[raw.dtype],
    )


def backward(
    gradient: Tensor,
    out: Tensor,
    raw: Tensor,
    state_4C: Tensor,
    constant_BC: Tensor | None = None,
    projected: Tensor | None = None,
    projected_state_4C: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The backward pass through the residual add and its ReLU.

    Args:
        gradient: gradient of `out`, with the same strides.
        out: as `forward` filled it.
        raw: as in `forward`.
        state_4C: as in `forward`.
        constant_BC: as in `forward`.
        projected: the shortcut, if it is a projection's raw output.
        projected_state_4C: state of its norm.

    Returns:
        The gradient of the sum under it (B, ..., C), and (P, 3, C): sums of that, and of that times the deviations of
        `raw` and of `projected` from their means.
    """
    channels = raw.shape[-1]
    below = torch.empty_like(raw)
    grid = clip_grid(raw, _BLOCK_ROWS, _BLOCK_C)
    sums_P3C = torch.empty(grid[2] * grid[0], 3, channels, device=raw.device)
    _residual_add_backward[grid](
        gradient,
        out,
        raw,
        state_4C,
        constant_BC,
        projected,
        projected_state_4C,
        below,
        sums_P3C,
        raw[0].numel() // channels,
        channels,
        out.stride(-2),
        BLOCK_ROWS=_BLOCK_ROWS,
        BLOCK_C=_BLOCK_C,
        STORED=TYPES[raw.dtype],
    )
    return below, sums_P3C


@triton.jit
def _residual_add_forward(
    out,
    raw,
    state,
    constant,
    shortcut,
    shortcut_state,
    rows,
    C,
    out_stride,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STORED: tl.constexpr,
):
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    clip = tl.program_id(2).to(tl.int64)
    inside_c = c < C
    there = (row < rows)[:, None] & inside_c[None, :]
    row = clip * rows + row
    place = row[:, None] * C + c[None, :]
    z = tl.load(raw + place, mask=there, other=0.0).to(tl.float32) + clip_constant(constant, clip, c, inside_c, C)
    y = affine(z, state, c, inside_c, C)
    if shortcut is not None:
        passed = tl.load(shortcut + place, mask=there, other=0.0).to(tl.float32)
        if shortcut_state is not None:
            passed = affine(passed, shortcut_state, c, inside_c, C)
        y += passed
    tl.store(
        out + row[:, None] * out_stride + c[None, :],
        rounded(tl.maximum(y, 0.0, propagate_nan=tl.PropagateNan.ALL), STORED),
        mask=there,
    )


@triton.jit
def _residual_add_backward(
    gradient,
    out,
    raw,
    state,
    constant,
    projected,
    projected_state,
    below,
    sums,
    rows,
    C,
    out_stride,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STORED: tl.constexpr,
):
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    clip = tl.program_id(2).to(tl.int64)
    inside_c = c < C
    total = tl.zeros([BLOCK_C], tl.float32)
    weighted = tl.zeros([BLOCK_C], tl.float32)
    weighted_projected = tl.zeros([BLOCK_C], tl.float32)
    mean = tl.load(state + 2 * C + c, mask=inside_c, other=0.0)[None, :]
    mean -= clip_constant(constant, clip, c, inside_c, C)
    if projected is not None:
        mean_projected = tl.load(projected_state + 2 * C + c, mask=inside_c, other=0.0)[None, :]
    for tile in range(tl.program_id(0), tl.cdiv(rows, BLOCK_ROWS), tl.num_programs(0)):
        row = tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        there = (row < rows)[:, None] & inside_c[None, :]
        row = clip * rows + row
        place = row[:, None] * C + c[None, :]
        out_place = row[:, None] * out_stride + c[None, :]
        passes = tl.load(out + out_place, mask=there, other=0.0).to(tl.float32) > 0
        dy = tl.where(passes, tl.load(gradient + out_place, mask=there, other=0.0).to(tl.float32), 0.0)
        tl.store(below + place, rounded(dy, STORED), mask=there)
        total += tl.sum(dy, 0)
        weighted += tl.sum(dy * (tl.load(raw + place, mask=there, other=0.0).to(tl.float32) - mean), 0)
        if projected is not None:
            passed = tl.load(projected + place, mask=there, other=0.0).to(tl.float32)
            weighted_projected += tl.sum(dy * (passed - mean_projected), 0)
    pointers = sums + (clip * tl.num_programs(0) + tl.program_id(0)) * 3 * C + c
    tl.store(pointers, total, mask=inside_c)
    tl.store(pointers + C, weighted, mask=inside_c)
    tl.store(pointers + 2 * C, weighted_projected, mask=inside_c)
