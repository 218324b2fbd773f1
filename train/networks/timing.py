"""How long a device takes for something.

A GPU works on while its host goes ahead. A moment is therefore an event there, which comes once the GPU has done what
it was asked to before; on the CPU it is the clock.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

_WARMUP, _REPEATS = 3, 20


def mark(device: torch.device) -> Any:
    """A moment."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def seconds_between(begin: Any, end: Any) -> float:
    """Of two moments, both over."""
    return float(end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1000)


@contextmanager
def tuned_cudnn() -> Iterator[None]:
    """Where shapes stay, cuDNN's own choice is slower than the best of its ways, which it finds by trying them."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(work: Callable[[], object], device: torch.device, *, repeats: int = _REPEATS) -> float:
    """What one call takes on the device, after a few that do not count."""
    for _ in range(_WARMUP):
        work()
    moments = [mark(device)]
    for _ in range(repeats):
        work()
        moments.append(mark(device))
    synchronise(device)
    return median(map(seconds_between, moments[:-1], moments[1:]))
