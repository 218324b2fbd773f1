"""Variants that compute the same training step: eager forms, fused kernels, a CUDA graph.

Training chooses between them by timing them; `resact bench train` compares all of them.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from resact.errors import ToolError
from resact.train.networks.models import ActionNetwork
from resact.train.networks.modules import ConvolutionForm, use_form
from resact.train.runs.distributed import Ranks
from resact.train.runs.execution import build_network, place
from resact.train.runs.files.config import RunConfig
from resact.train.runs.training.optimiser import build_optimiser
from resact.train.runs.training.step import TrainStep

Step = Callable[..., Any]
"""A function with the signature of `TrainStep.__call__`."""

EAGER: dict[str, tuple[ConvolutionForm, bool]] = {
    "ncdhw": ("3d", False),
    "channels-last": ("3d", True),
    "folded": ("folded", True),
    "shifted": ("shifted", True),
}
"""Name of an eager variant -> the form of its convolutions, and whether it uses channels last in memory."""

_WARMUP_STEPS = 3


@dataclass(frozen=True)
class StepVariant:
    """One way to compute a training step."""

    name: str
    config: RunConfig
    """Complete config, without automatic choices left."""

    form: ConvolutionForm | None = None
    """Form of the convolutions; None for the network's own choice."""

    graphed: bool = False
    """Whether a step is captured as a CUDA graph once and then replayed."""

    def network(self, num_classes: int, device: torch.device) -> nn.Module:
        """A network with new random weights.

        Raises:
            UsageError: the fused kernels cannot compute it here.

        """
        torch.manual_seed(self.config.seed)
        network = self.build(num_classes)
        place(network, self.config, device)
        use_form(network, self.form)
        if self.config.kernels == "fused":
            assert isinstance(network, ActionNetwork)
            network.use_kernels("fused")
        return network

    def build(self, num_classes: int) -> nn.Module:
        """The network, on the CPU and in its own form."""
        return build_network(self.config, num_classes)

    def step(self, network: nn.Module, device: torch.device) -> TrainStep:
        """The step of a network on the device, without a CUDA graph."""
        ranks = Ranks(rank=0, world_size=1, device=device)
        return TrainStep(self.config, network, build_optimiser(network, self.config.recipe), ranks)

    def batch(self, num_classes: int, device: torch.device) -> dict[str, Any]:
        """Random clips and labels, in the form of a loader's batch."""
        geometry, clips = self.config.geometry, self.config.recipe.batch_size
        shape = clips, 3, geometry.frames, geometry.size, geometry.size
        dtype = torch.bfloat16 if self.config.amp else torch.float32
        batch: dict[str, Any] = {name: torch.randn(shape).to(device, dtype) for name in geometry.streams}
        return batch | {"label": torch.arange(clips, device=device) % num_classes}


def eager_variants(config: RunConfig) -> dict[str, StepVariant]:
    """The eager variants of one network, by name."""
    config = replace(config, compile=False, kernels="eager")
    return {
        name: StepVariant(name, replace(config, channels_last=channels_last), form=form)
        for name, (form, channels_last) in EAGER.items()
    }


def fused_variant(config: RunConfig) -> StepVariant:
    """The variant with fused kernels."""
    return StepVariant("fused", replace(config, compile=False, channels_last=True, kernels="fused"))


@contextmanager
def graph_of(step: Step, batch: Mapping[str, Any], device: torch.device, **options: Any) -> Iterator[Step]:
    """Forward, backward and optimiser on one batch, captured as a CUDA graph: each call of the step replays it.

    Raises:
        ToolError: the device does not support CUDA graphs.

    """
    if device.type != "cuda":
        raise ToolError(f"CUDA graphs need a CUDA device, not {device.type}")
    # As torch's notes on CUDA graphs have it: first on another stream, so that all that is set up once is there.
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(_WARMUP_STEPS):
            step(batch, **options)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(batch, **options)
    try:
        yield lambda *_, **__: graph.replay()
    finally:
        graph.reset()
