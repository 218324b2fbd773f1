"""Peak rates of a device."""

from dataclasses import dataclass

import torch

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


def measure_rates(device: torch.device, *, elements: int | None = None, side: int | None = None) -> DeviceRates:
    """Measure a device's peak rates: medians of a large copy and of a large matrix product, both in bfloat16.

    Args:
        device: the device; needs 2 GiB of a GPU's memory.
        elements: number of elements to copy; None for a suitable number.
        side: side of the two square matrices; None for a suitable number.
    """
    elements, side = elements or _COPY_ELEMENTS[device.type], side or _MATRIX_SIDE[device.type]
    copying, bytes_moved = _copy(elements, device)
    left, right = torch.randn(2, side, side, device=device).bfloat16()
    product = torch.empty_like(left)
    multiplying = median_seconds(lambda: torch.mm(left, right, out=product), device)
    return DeviceRates(bytes_per_second=bytes_moved / copying, flops_per_second=2 * side**3 / multiplying)


def _copy(elements: int, device: torch.device) -> tuple[float, int]:
    """Seconds, and bytes read and written."""
    source = torch.ones(elements, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    return median_seconds(lambda: target.copy_(source), device), source.nbytes + target.nbytes
