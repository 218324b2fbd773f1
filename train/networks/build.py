"""Builds networks from their architecture, including the user's own."""

from typing import Any

import torch
from torch import nn

from resact.train.networks.architecture import Architecture
from resact.train.networks.cost import count_cost, row_of
from resact.train.networks.models import ActionNetwork
from resact.train.networks.own import build_own, try_own


def cost_row(architecture: Architecture, *, frames: int, size: int) -> dict[str, Any]:
    """The cost of one network, as a row of `cost.cost_rows`; arguments and errors as in `build`."""
    if architecture.is_own:
        with torch.random.fork_rng(devices=[]):
            network = build_own(architecture, frames=frames, size=size)
        found = try_own(network, architecture, frames=frames, size=size).cost
    else:
        with torch.device("meta"):
            found = count_cost(build(architecture, frames=frames, size=size), frames=frames, size=size)
    return row_of(architecture, found, paper_g=None)


def build(architecture: Architecture, *, frames: int, size: int, checkpoint_activations: bool = False) -> nn.Module:
    """A network in training mode with random weights from torch's global generator.

    Args:
        architecture: architecture with a number of classes.
        frames: frames per clip in training.
        size: height and width of a clip.
        checkpoint_activations: as in `build_model`.

    Raises:
        UsageError: the user's own network cannot be built.
    """
    if architecture.is_own:
        return build_own(architecture, frames=frames, size=size)
    return ActionNetwork(architecture, checkpoint_activations=checkpoint_activations)
