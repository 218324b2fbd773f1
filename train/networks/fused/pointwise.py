"""1x1x1 convolutions, by PyTorch's matrix products: the bottom of a module, and its projected shortcut.

Operands have the activations' type, and are added up in float32. Shapes: B clips, R rows of each, C channels in, N
channels out.
"""

import math

import torch
import triton
from torch import Tensor
from torch.nn import functional

from resact.train.networks.fused.launch import programs

_TILE = 128
"""Rows and columns that a library's product usually computes in one program."""


def strided(x_BTHWC: Tensor, stride: int) -> Tensor:
    """The pixels that a convolution with this stride in space reads, contiguous."""
    return x_BTHWC[:, :, ::stride, ::stride].contiguous()


def forward(x_BTHWC: Tensor, weight: Tensor) -> Tensor:
    """The raw output (B, T, H, W, N). `weight` is (N, C, 1, 1, 1)."""
    return functional.linear(x_BTHWC, weight.flatten(1).to(x_BTHWC.dtype))


def add_input_gradient(gradient_BTHWN: Tensor, weight: Tensor, total_BTHWC: Tensor) -> None:
    """Adds the gradient of the input to `total_BTHWC`."""
    rows, of_rows = total_BTHWC.flatten(0, 3), gradient_BTHWN.flatten(0, 3)
    rows.addmm_(of_rows, weight.flatten(1).to(of_rows.dtype))


def weight_gradient(gradient_BTHWN: Tensor, x_BTHWC: Tensor, weight: Tensor) -> Tensor:
    """The weight's gradient in float32, shaped like it."""
    return clip_products(gradient_BTHWN.flatten(1, 3), x_BTHWC.flatten(1, 3)).sum(0).view_as(weight)


def clip_products(gradient_BRN: Tensor, x_BRC: Tensor) -> Tensor:
    """Each clip's gradient of a weight, (B, N, C) in float32.

    A clip's rows are many and its product is small, so rows are split until the products fill the GPU.
    """
    (b, rows, n), c = gradient_BRN.shape, x_BRC.shape[2]
    wanted = max(programs(x_BRC) // (b * triton.cdiv(n, _TILE) * triton.cdiv(c, _TILE)), 1)
    parts = math.gcd(rows, 1 << (wanted.bit_length() - 1))
    gradient, x = gradient_BRN.reshape(b * parts, -1, n), x_BRC.reshape(b * parts, -1, c)
    if gradient.device.type == "cpu":  # PyTorch has no float32 result of bfloat16 there
        products = gradient.float().mT @ x.float()
    else:
        products = torch.bmm(gradient.mT, x, out_dtype=torch.float32)
    return products.view(b, parts, n, c).sum(1)
