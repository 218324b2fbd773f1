"""Measures where the time of a training step goes: by layer, and by kernel or, on a CPU, by PyTorch operator."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from resact.train.networks.models import ActionNetwork
from resact.train.networks.modules import Bottleneck, Stem
from resact.train.networks.timing import mark, seconds_between, synchronise

_LONGEST_NAME = 120


class LayerTimes:
    """Forward and backward times of conv1, of each module, fc1 and fc2, for some steps.

    A layer's forward time ends when its output is ready. Its backward time starts with the gradient of its output and
    ends with the gradient of its input, or, in conv1, whose input has none, with the last weight's gradient.
    """

    def __init__(self, device: torch.device) -> None:
        """`device`: of the network."""
        self._device = device
        self._moments: dict[tuple[str, str], list[list[Any]]] = {}

    @contextmanager
    def watching(self, network: ActionNetwork) -> Iterator[None]:
        """A context in which steps are measured, whichever kernels compute them."""
        names: dict[nn.Module, str] = {
            module: name for name, module in network.named_modules() if isinstance(module, Bottleneck)
        }
        first, run = next(iter(names)), network._run

        def run_timed(module: nn.Module, x_BCTHW: Tensor) -> Tensor:
            if module is first:
                self._made("conv1", x_BCTHW)
            return self._timed(names[module], partial(run, module), x_BCTHW)

        with ExitStack() as undo:
            undo.callback(network.register_forward_pre_hook(lambda *_: self._begin("conv1", "forward")).remove)
            for stem in network.conv1.children():
                assert isinstance(stem, Stem)
                accumulated = stem.spatial.weight.register_post_accumulate_grad_hook
                undo.callback(accumulated(lambda _: self._end("conv1", "backward")).remove)  # type: ignore[no-untyped-call]
            # Fused kernels do not call the modules, so hooks on modules would see nothing.
            network._run = run_timed  # type: ignore[method-assign]
            undo.callback(delattr, network, "_run")
            for name, linear in (("fc1", network.fc1), ("fc2", network.fc2)):
                linear.forward = partial(self._timed, name, linear.forward)  # type: ignore[method-assign]
                undo.callback(delattr, linear, "forward")
            yield

    def _timed(self, name: str, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        self._begin(name, "forward")
        y = layer(x)
        self._made(name, y)
        x.register_hook(lambda _: self._end(name, "backward"))  # type: ignore[no-untyped-call]
        return y

    def _made(self, name: str, output: Tensor) -> None:
        self._end(name, "forward")
        output.register_hook(lambda _: self._begin(name, "backward"))  # type: ignore[no-untyped-call]

    def _begin(self, name: str, direction: str) -> None:
        self._moments.setdefault((name, direction), []).append([mark(self._device)])

    def _end(self, name: str, direction: str) -> None:
        """Called for each stream of conv1: the last call counts."""
        self._moments[name, direction][-1][1:] = [mark(self._device)]

    def rows(self) -> list[dict[str, Any]]:
        """One row per layer: `layer, forward_milliseconds, backward_milliseconds`, medians over steps."""
        synchronise(self._device)
        times = {
            key: 1000 * median(seconds_between(*moments) for moments in steps) for key, steps in self._moments.items()
        }
        return [
            {"layer": name, **{f"{way}_milliseconds": times[name, way] for way in ("forward", "backward")}}
            for name in dict.fromkeys(name for name, _ in times)
        ]


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
