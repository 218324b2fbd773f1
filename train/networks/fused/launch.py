"""Code shared by all kernels: numbers of programs, rounding, and norms as their readers apply them.

Each kernel's name is unique, since profiles show it alone.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_PROGRAMS_A_PROCESSOR = 4
_INTERPRETED_PROGRAMS = 3  # not 1, so that programs share the work there too

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}


def programs(tensor: Tensor) -> int:
    """Number of programs that fill the tensor's GPU."""
    if tensor.device.type != "cuda":
        return _INTERPRETED_PROGRAMS
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count * _PROGRAMS_A_PROCESSOR


def clip_grid(tensor: Tensor, block_rows: int, block_c: int) -> tuple[int, int, int]:
    """(Programs that share a clip's rows, blocks of channels, clips) of a tensor (B, ..., C)."""
    clips, channels = len(tensor), tensor.shape[-1]
    blocks = triton.cdiv(tensor.numel() // (clips * channels), block_rows)
    return min(max(programs(tensor) // clips, 2), blocks), triton.cdiv(channels, block_c), clips


@triton.jit
def rounded(values, STORED: tl.constexpr):
    """Values rounded to the nearest of the stored type; the interpreter by itself would truncate."""
    if INTERPRETED and tl.bfloat16 == STORED:
        bits = values.to(tl.float32).to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        values = (bits & 0xFFFF0000).to(tl.float32, bitcast=True)
    return values.to(STORED)


@triton.jit
def clip_constant(constant, clip, channel, inside, C):
    """What a clip's raw output lacks where it is stored, (1, channels): zeros, if `constant` (B, C) is None."""
    values = tl.zeros([1, channel.shape[0]], tl.float32)
    if constant is not None:
        values = tl.load(constant + clip * C + channel, mask=inside, other=0.0)[None, :]
    return values


@triton.jit
def affine(values, coefficients, channel, inside, C):
    """`values * scale + shift` of blocks (rows, channels); coefficients are (2, C) or longer."""
    scale = tl.load(coefficients + channel, mask=inside, other=0.0)
    shift = tl.load(coefficients + C + channel, mask=inside, other=0.0)
    return values * scale[None, :] + shift[None, :]


@triton.jit
def raw_gradient(gradient, raw, coefficients, channel, inside, C):
    """The gradient of a raw output, from that of its norm's output; coefficients (3, C) are from `norm.backward`."""
    of_norm = tl.load(coefficients + channel, mask=inside, other=0.0)
    of_raw = tl.load(coefficients + C + channel, mask=inside, other=0.0)
    constant = tl.load(coefficients + 2 * C + channel, mask=inside, other=0.0)
    return gradient * of_norm[None, :] + raw * of_raw[None, :] + constant[None, :]
