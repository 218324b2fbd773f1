"""What a device takes: moments on it, its rates, and the time of each of a network's layers.

A GPU works on while its host goes ahead. A moment is therefore an event there, which comes once the GPU has done what
it was asked to before; on the CPU it is the clock.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from resact.train.networks.floor import Rates
from resact.train.networks.models import ActionNetwork
from resact.train.networks.modules import Bottleneck, Stem

_COPY_ELEMENTS = {"cuda": 2**29, "cpu": 2**26}  # 1 GiB and 128 MiB: far more than their caches
_MATRIX_SIDE = {"cuda": 8192, "cpu": 512}
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


def measure_rates(device: torch.device, *, elements: int | None = None, side: int | None = None) -> Rates:
    """What the device does at most: medians of a large copy and of a large matrix product, both in bfloat16.

    Args:
        device: takes 2 GiB of a GPU.
        elements: that are copied; None: as many as mean something there.
        side: of both square matrices; None: likewise.
    """
    elements, side = elements or _COPY_ELEMENTS[device.type], side or _MATRIX_SIDE[device.type]
    copying, bytes_moved = _copy(elements, device)
    left, right = torch.randn(2, side, side, device=device).bfloat16()
    product = torch.empty_like(left)
    multiplying = median_seconds(lambda: torch.mm(left, right, out=product), device)
    return Rates(bytes_per_second=bytes_moved / copying, flops_per_second=2 * side**3 / multiplying)


def _copy(elements: int, device: torch.device) -> tuple[float, int]:
    """Seconds, and bytes read and written."""
    source = torch.ones(elements, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    return median_seconds(lambda: target.copy_(source), device), source.nbytes + target.nbytes


class LayerTimes:
    """Forward and backward times of conv1, of each module, fc1 and fc2, for some steps.

    A layer's forward time ends when its output is there; its backward time begins with the output's gradient and ends
    with the input's, or in conv1, whose input has none, with the last weight's.
    """

    def __init__(self, device: torch.device) -> None:
        """`device`: of the network."""
        self._device = device
        self._moments: dict[tuple[str, str], list[list[Any]]] = {}

    @contextmanager
    def watching(self, network: ActionNetwork) -> Iterator[None]:
        """Steps inside are measured, whichever kernels compute them."""
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
            # Not hooks of the modules: fused kernels do not call them.
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
        """For conv1 called for each stream: the last call counts."""
        self._moments[name, direction][-1][1:] = [mark(self._device)]

    def rows(self) -> list[dict[str, Any]]:
        """A row a layer: `layer, forward_milliseconds, backward_milliseconds`, medians over steps."""
        synchronise(self._device)
        times = {
            key: 1000 * median(seconds_between(*moments) for moments in steps) for key, steps in self._moments.items()
        }
        return [
            {"layer": name, "forward_milliseconds": forward, "backward_milliseconds": times[name, "backward"]}
            for (name, direction), forward in times.items()
            if direction == "forward"
        ]
