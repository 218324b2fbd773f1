"""Colour jitter and blur of a clip, before its residual is taken.

Random parameters are drawn once per clip and apply to all frames in the same way: where nothing moves, the residual
stays 0. Shapes: C colours, T frames, D height and width.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from resact.train.clips.sampling import Appearance

_GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a pixel's grey (ITU-R BT.601)."""


def altered(clip_CTDD: Tensor, appearance: Appearance) -> Tensor:
    """A clip with its colours changed, then blurred.

    In this order: pixels times `brightness`; their distance from the clip's mean grey times `contrast`; their distance
    from their own grey times `saturation`; a Gaussian of `sigma`, with the outermost pixels repeated at the edges. It
    is rounded to 8 bits only at the end.

    Args:
        clip_CTDD: (3, T, D, D) uint8, on any device.
        appearance: the changes.

    Returns:
        A tensor like `clip_CTDD`.
    """
    values_CTDD = _recoloured(clip_CTDD, appearance)
    if appearance.sigma:
        weights_DD = torch.from_numpy(_gaussian(clip_CTDD.shape[-1], appearance.sigma)).to(clip_CTDD.device)
        values_CTDD = weights_DD @ (values_CTDD @ weights_DD.T)
    return values_CTDD.round_().clamp_(0, 255).to(torch.uint8)


def _recoloured(clip_CTDD: Tensor, appearance: Appearance) -> Tensor:
    """(3, T, D, D) float32, unrounded. The three changes of colour become one factor, and one addend per pixel."""
    brightness, contrast, saturation = appearance.brightness, appearance.contrast, appearance.saturation
    values_CTDD = clip_CTDD.float()
    red, green, blue = values_CTDD
    grey_TDD = red * _GREY[0] + green * _GREY[1] + blue * _GREY[2]
    sums = clip_CTDD.sum((1, 2, 3)).tolist()  # whole numbers: the mean is the same on every device
    mean = sum(total * part for total, part in zip(sums, _GREY, strict=True)) / grey_TDD.numel()
    addend_TDD = grey_TDD.mul_(brightness * contrast * (1 - saturation)).add_(brightness * (1 - contrast) * mean)
    return values_CTDD.mul_(brightness * contrast * saturation).add_(addend_TDD)


def _gaussian(size: int, sigma: float) -> npt.NDArray[np.float32]:
    """(D, D) the weight of each pixel of a line in each pixel of the blurred line."""
    reach = math.ceil(3 * sigma)
    offset = np.arange(-reach, reach + 1)
    share = np.exp(-(offset**2) / (2 * sigma**2))
    place = np.arange(size)[:, None]
    weights = np.zeros((size, size))
    np.add.at(weights, (place, np.clip(place + offset, 0, size - 1)), share / share.sum())
    return weights.astype(np.float32)
