"""Applies a run's execution settings: its network, memory layout and precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from resact.train.networks.build import build
from resact.train.runs.files.config import RunConfig


def build_network(config: RunConfig, num_classes: int | None = None) -> nn.Module:
    """The run's network with fresh weights, drawn from torch's global generator.

    Args:
        config: config of the run.
        num_classes: number of classes; None for the config's.
    """
    architecture = config.architecture if num_classes is None else config.architecture.for_classes(num_classes)
    geometry = config.geometry
    return build(
        architecture,
        frames=geometry.frames,
        size=geometry.size,
        checkpoint_activations=config.checkpoint_activations,
    )


def outline(config: RunConfig, num_classes: int | None = None) -> nn.Module:
    """The same for its shapes: without values, unless it is the user's own, whose code may need them."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu" if config.architecture.is_own else "meta"):
        return build_network(config, num_classes)


def place(network: nn.Module, config: RunConfig, device: torch.device) -> None:
    """Move a network to the device, its weights of five dimensions in the run's layout."""
    network.to(device)
    if config.channels_last:
        for parameter in network.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.to(memory_format=torch.channels_last_3d)


def memory_format(config: RunConfig) -> torch.memory_format:
    """Memory layout of activations and weights."""
    return torch.channels_last_3d if config.channels_last else torch.contiguous_format


def autocast(config: RunConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast context for every forward pass of the network; `amp` must already be set in the config."""
    return torch.autocast(device.type, torch.bfloat16) if config.amp else nullcontext()
