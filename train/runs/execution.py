"""How a run's settings are computed: its network, the layout of activations, the precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from resact.train.networks.models import ActionNetwork
from resact.train.runs.files.config import RunConfig


def build_network(config: RunConfig, num_classes: int | None = None) -> ActionNetwork:
    """The run's network with fresh weights, drawn from torch's global generator.

    Args:
        config: of the run.
        num_classes: None for those that the config says.
    """
    architecture = config.architecture if num_classes is None else config.architecture.for_classes(num_classes)
    return ActionNetwork(architecture, checkpoint_activations=config.checkpoint_activations)


def memory_format(config: RunConfig) -> torch.memory_format:
    """Of activations and weights."""
    return torch.channels_last_3d if config.channels_last else torch.contiguous_format


def autocast(config: RunConfig, device: torch.device) -> AbstractContextManager[Any]:
    """For every forward pass of the network; a run's own config has settled `amp`."""
    return torch.autocast(device.type, torch.bfloat16) if config.amp else nullcontext()
