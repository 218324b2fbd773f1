"""What a device takes: moments on it, its rates, and the time of each of a network's layers.

A GPU works on while its host goes ahead. A moment is therefore an event there, which comes once the GPU has done what
it was asked to before; on the CPU it is the clock.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
    """Forward and backward times of conv1's streams, of each module, fc1 and fc2, for some steps.

    Times of a layer are those between the moments at which its first operation could begin and its last was done, on
    one stream: what overlaps them there is counted, too.
    """

    def __init__(self, device: torch.device) -> None:
        """`device`: of the network."""
        self._device = device
        self._moments: dict[tuple[str, str], list[tuple[Any, Any]]] = {}
        self._begun: dict[tuple[str, str], Any] = {}

    @contextmanager
    def watching(self, network: ActionNetwork) -> Iterator[None]:
        """Steps inside are measured."""
        with ExitStack() as hooks:
            for name, layer in network.named_modules():
                if isinstance(layer, Stem | Bottleneck | nn.Linear) and "attention" not in name:
                    for handle in self._watch(name, layer):
                        hooks.callback(handle.remove)
            yield

    def _watch(self, name: str, layer: nn.Module) -> Iterator[Any]:
        def forward_ends(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            self._end(name, "forward")
            output.register_hook(lambda _: self._begin(name, "backward"))  # type: ignore[no-untyped-call]
            if inputs[0].requires_grad:
                inputs[0].register_hook(lambda _: self._end(name, "backward"))  # type: ignore[no-untyped-call]

        yield layer.register_forward_pre_hook(lambda *_: self._begin(name, "forward"))
        yield layer.register_forward_hook(forward_ends)
        if isinstance(layer, Stem):  # a clip has no gradient that would come last: the first weight's does
            accumulated = layer.spatial.weight.register_post_accumulate_grad_hook
            yield accumulated(lambda _: self._end(name, "backward"))  # type: ignore[no-untyped-call]

    def _begin(self, name: str, direction: str) -> None:
        self._begun[name, direction] = mark(self._device)

    def _end(self, name: str, direction: str) -> None:
        moments = self._begun.pop((name, direction)), mark(self._device)
        self._moments.setdefault((name, direction), []).append(moments)

    def rows(self) -> list[dict[str, Any]]:
        """A row a layer, in the order of the forward pass: `layer, forward_milliseconds, backward_milliseconds`."""
        synchronise(self._device)
        times = {
            key: 1000 * median(seconds_between(*moments) for moments in steps) for key, steps in self._moments.items()
        }
        return [
            {
                "layer": name,
                "forward_milliseconds": milliseconds,
                "backward_milliseconds": times[name, "backward"],
            }
            for (name, direction), milliseconds in times.items()
            if direction == "forward"
        ]
