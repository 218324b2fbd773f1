"""Time measurement on a CPU or GPU.

A GPU works asynchronously. So on a GPU a time mark is an event, which occurs when the GPU has finished all earlier
work; on the CPU it is the clock's time.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

_WARMUP, _REPEATS = 3, 20


def mark(device: torch.device) -> Any:
    """A time mark on the device, for `seconds_between`."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def seconds_between(begin: Any, end: Any) -> float:
    """Seconds between two time marks, both in the past."""
    return float(end - begin if isinstance(begin, float) else begin.elapsed_time(end) / 1000)


@contextmanager
def tuned_cudnn() -> Iterator[None]:
    """Let cuDNN try its algorithms and keep the fastest: with constant shapes that beats its default choice."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(work: Callable[[], object], device: torch.device, *, repeats: int = _REPEATS) -> float:
    """Median time of a call on the device, after a few warm-up calls."""
    for _ in range(_WARMUP):
        work()
    moments = [mark(device)]
    for _ in range(repeats):
        work()
        moments.append(mark(device))
    synchronise(device)
    return median(map(seconds_between, moments[:-1], moments[1:]))
