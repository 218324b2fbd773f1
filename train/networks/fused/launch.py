"""Code shared by all kernels: block sizes, numbers of programs, the product of two blocks."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_PROGRAMS_A_PROCESSOR = 4
_INTERPRETED_PROGRAMS = 3  # not 1, so that programs share the work there too

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}


def programs(tensor: Tensor, at_most: int) -> int:
    """Number of programs to launch: as many as the GPU runs at a time, but at most `at_most`."""
    if tensor.device.type != "cuda":
        return min(_INTERPRETED_PROGRAMS, at_most)
    return min(torch.cuda.get_device_properties(tensor.device).multi_processor_count * _PROGRAMS_A_PROCESSOR, at_most)


def block(size: int, at_most: int, at_least: int = 16) -> int:
    """A power of two of at least `size`, within bounds; 16 is the minimum for the matrix units."""
    return max(min(1 << (size - 1).bit_length(), at_most), at_least)


@triton.jit
def rounded(values, STORED: tl.constexpr):
    """Values rounded to the nearest of the stored type; the interpreter by itself would truncate."""
    if INTERPRETED and tl.bfloat16 == STORED:
        bits = values.to(tl.float32).to(tl.uint32, bitcast=True)
        bits += 0x7FFF + ((bits >> 16) & 1)
        values = (bits & 0xFFFF0000).to(tl.float32, bitcast=True)
    return values.to(STORED)


@triton.jit
def product(a, b, total, STORED: tl.constexpr):
    """`total + a @ b` in float32, with operands rounded to the stored type."""
    a, b = rounded(a, STORED), rounded(b, STORED)
    if INTERPRETED:  # it would multiply bfloat16's bits
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


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
