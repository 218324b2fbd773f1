"""The devices of this machine, and their peak rates."""

from dataclasses import dataclass

import torch

from resact.errors import UsageError
from resact.train.networks.timing import median_seconds

_COPY_ELEMENTS = {"cuda": 2**29, "cpu": 2**26}  # 1 GiB and 128 MiB: far more than their caches
_MATRIX_SIDE = {"cuda": 8192, "cpu": 512}


@dataclass(frozen=True)
class DeviceRates:
    """Peak rates of a device."""

    bytes_per_second: float
    """Bytes read and written per second by a large copy."""

    flops_per_second: float
    """Operations per second of a large bfloat16 matrix product; a multiply-add counts as two."""


def require_device(device: str | None) -> str:
    """The device to measure: the one asked for, or the GPU if there is one, else the CPU.

    Raises:
        UsageError: there is no such device.
    """
    there = ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)
    if device not in (None, *there):
        raise UsageError(f"got --device {device}, expected one of {', '.join(there)}")
    return device or there[0]


def measure_rates(device: torch.device, *, elements: int | None = None, side: int | None = None) -> DeviceRates:
    """Measure a device's peak rates: medians of a large copy and of a large matrix product, both in bfloat16.

    Args:
        device: the device; needs 2 GiB of a GPU's memory.
        elements: number of elements to copy; None for a suitable number.
        side: side of the two square matrices; None for a suitable number.
    """
    elements, side = elements or _COPY_ELEMENTS[device.type], side or _MATRIX_SIDE[device.type]
    source = torch.ones(elements, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    copying = median_seconds(lambda: target.copy_(source), device)
    left, right = torch.randn(2, side, side, device=device).bfloat16()
    product = torch.empty_like(left)
    multiplying = median_seconds(lambda: torch.mm(left, right, out=product), device)
    return DeviceRates(bytes_per_second=2 * source.nbytes / copying, flops_per_second=2 * side**3 / multiplying)
