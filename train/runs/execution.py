"""Applies a run's execution settings: its network, memory layout and precision."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from resact.train.networks.build import build
from resact.train.networks.models import ActionNetwork
from resact.train.networks.modules import ConvolutionForm, use_form
from resact.train.runs.files.config import RunConfig

_CONVOLUTIONS: dict[str, ConvolutionForm] = {
    "ncdhw": "3d",
    "channels-last": "3d",
    "folded": "folded",
    "shifted": "shifted",
}
"""Form of a step -> the form of its convolutions; others leave it to the network."""


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


def chosen_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for; by default the GPU if there is one, else the CPU."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def place(network: nn.Module, config: RunConfig, device: torch.device) -> None:
    """Move a network to the device, its weights of five dimensions in the run's layout."""
    network.to(device)
    if config.channels_last:
        for parameter in network.parameters():
            if parameter.ndim == 5:
                parameter.data = parameter.data.to(memory_format=torch.channels_last_3d)


def use_kernels(network: nn.Module, config: RunConfig) -> None:
    """Compute a network on its device in the config's form.

    Raises:
        UsageError: the fused kernels cannot compute it there.
    """
    use_form(network, convolution_form(config))
    if config.fused:
        assert isinstance(network, ActionNetwork)
        network.use_kernels("fused")


def convolution_form(config: RunConfig) -> ConvolutionForm | None:
    """Form of the convolutions; None: the network chooses by its device."""
    return _CONVOLUTIONS.get(config.form)


def memory_format(config: RunConfig) -> torch.memory_format:
    """Memory layout of activations and weights."""
    return torch.channels_last_3d if config.channels_last else torch.contiguous_format


def autocast(config: RunConfig, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast context for every forward pass of the network; `amp` must already be set in the config."""
    return torch.autocast(device.type, torch.bfloat16) if config.amp else nullcontext()
