"""A CUDA graph of the forward and backward pass: captured once for each size of a batch, then replayed.

A replay starts all kernels of a pass at once, so the GPU does not wait for Python. The optimiser stays outside: a graph
would keep the learning rate of the step in which it was captured.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resact.errors import ToolError

_WARMUP_PASSES = 3

Pass = Callable[[dict[str, Any], int], Tensor]
"""Takes a batch and the number of clips on all ranks. Adds gradients to those that are there, and returns figures."""


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    """What a replay reads."""
    figures: Tensor
    """What it writes, besides gradients and the norms' running statistics."""


class GraphedPass:
    """A pass that is captured for each size of its batch. Called like the pass; it zeroes the gradients first."""

    def __init__(self, run: Pass, network: nn.Module, device: torch.device) -> None:
        """Args:
        run: the pass; it must do the same for all batches of a size.
        network: the network that it computes, on the device.
        device: the device.

        Raises:
            ToolError: the device does not support CUDA graphs.

        """
        if device.type != "cuda":
            raise ToolError(f"CUDA graphs need a CUDA device, not {device.type}")
        self._run, self._network, self._device = run, network, device
        self._captured: dict[tuple[Any, ...], _Captured] = {}
        self._pool: Any = torch.cuda.graph_pool_handle()  # of memory, which all its graphs share

    def __call__(self, batch: dict[str, Any], clips: int) -> Tensor:
        """Replay the pass, and return a copy of its figures.

        Raises:
            ToolError: the pass cannot be captured.

        """
        tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
        key = clips, *((name, tensor.shape, tensor.dtype) for name, tensor in tensors.items())
        if key not in self._captured:
            self._captured[key] = self._capture(tensors, clips)
        captured = self._captured[key]
        for name, tensor in tensors.items():
            captured.inputs[name].copy_(tensor, non_blocking=True)
        captured.graph.replay()
        return captured.figures.clone()

    def _capture(self, tensors: dict[str, Tensor], clips: int) -> _Captured:
        """Without a trace on the network: passes that warm up change running statistics, which are set back."""
        inputs = {name: tensor.clone() for name, tensor in tensors.items()}
        for parameter in self._network.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)  # the same tensors for all graphs, and for the optimiser
        buffers = [(buffer, buffer.clone()) for buffer in self._network.buffers()]
        random = torch.cuda.get_rng_state(self._device)
        # As torch's notes on CUDA graphs have it: first on another stream, so that all that is set up once is there.
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(_WARMUP_PASSES):
                self._zeroed_pass(inputs, clips)
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # Threads that read clips go on meanwhile, on streams of their own. After a capture that fails, torch
            # leaves its own stream current, so the outer context sets this one again.
            with (
                torch.cuda.stream(current),
                torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
            ):
                figures = self._zeroed_pass(inputs, clips)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._give_up_pool()
            reason = str(error).strip().partition("\n")[0]
            raise ToolError(
                f"the step cannot be captured as a CUDA graph ({reason}): train with --kernels eager"
            ) from error
        for buffer, before in buffers:
            buffer.copy_(before)
        torch.cuda.set_rng_state(random, self._device)
        return _Captured(graph, inputs, figures)

    def _give_up_pool(self) -> None:
        """After a capture that CUDA broke off, or torch would believe for ever that it goes on, and free no batch."""
        device = torch.cuda.current_device() if self._device.index is None else self._device.index
        with suppress(RuntimeError):  # the capture did end, and another error came first
            torch._C._cuda_endAllocateToPool(device, self._pool)
            torch._C._cuda_releasePool(device, self._pool)

    def _zeroed_pass(self, inputs: dict[str, Tensor], clips: int) -> Tensor:
        torch._foreach_zero_([p.grad for p in self._network.parameters() if p.grad is not None])
        return self._run(inputs, clips)
