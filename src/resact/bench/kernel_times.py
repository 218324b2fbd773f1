"""Measures the time of each kernel of a training step on a GPU, and of each PyTorch operator on a CPU."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from resact.train.networks.timing import synchronise

_LONGEST_NAME = 120


def kernel_times(step: Callable[[], object], device: torch.device, *, steps: int) -> list[dict[str, Any]]:
    """Profile some steps; the step must be warmed up.

    Args:
        step: runs one step.
        device: its device.
        steps: number of steps to profile.

    Returns:
        `kernel, calls, milliseconds` per step, the longest first. Calls of one name count as one kernel.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]
    synchronise(device)
    with profile(activities=activities, acc_events=True) as profiled:
        for _ in range(steps):
            step()
        synchronise(device)
    rows = []
    for event in profiled.key_averages():
        if str(event.device_type).endswith("CUDA") == on_gpu:
            milliseconds = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1000 / steps
            kernel = event.key[:_LONGEST_NAME]
            rows.append({"kernel": kernel, "calls": event.count / steps, "milliseconds": milliseconds})
    return sorted(rows, key=lambda row: -row["milliseconds"])
