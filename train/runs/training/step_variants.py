"""Variants that compute the same training step: eager forms, fused kernels, compiled, as a CUDA graph.

Training chooses between them by timing them; `resact bench train` compares all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from resact.train.networks.parts import freeze
from resact.train.runs.distributed import Ranks
from resact.train.runs.execution import build_network, place, use_kernels
from resact.train.runs.files.config import EAGER_FORMS, RunConfig
from resact.train.runs.training.optimiser import build_optimiser
from resact.train.runs.training.step import TrainStep

Step = Callable[..., Any]
"""A function with the signature of `TrainStep.__call__`."""


@dataclass(frozen=True)
class StepVariant:
    """One way to compute a training step."""

    name: str
    config: RunConfig
    """Complete config, without automatic choices left; its `kernels` are the form."""

    def network(self, num_classes: int, device: torch.device) -> nn.Module:
        """A network with new random weights.

        Raises:
            UsageError: the fused kernels cannot compute it here.

        """
        torch.manual_seed(self.config.seed)
        network = self.build(num_classes)
        place(network, self.config, device)
        use_kernels(network, self.config)
        return network

    def build(self, num_classes: int) -> nn.Module:
        """The network, on the CPU and in its own form."""
        return build_network(self.config, num_classes)

    def step(self, network: nn.Module, device: torch.device) -> TrainStep:
        """The step of a network on the device.

        Raises:
            ToolError: it should be a CUDA graph, and the device does not support them.

        """
        freeze(network, self.config.fine_tuning.freeze)
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
    return {name: StepVariant(name, config.in_form(name)) for name in EAGER_FORMS}


def fused_variant(config: RunConfig) -> StepVariant:
    """The variant with fused kernels."""
    return StepVariant("fused", config.in_form("fused"))
