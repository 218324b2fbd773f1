"""Before a training: whether the device computes the network rightly, and by which kernels."""

from dataclasses import replace

import torch
from rich.console import Console

from resact.errors import ToolError, UsageError
from resact.train.networks.architecture import Architecture
from resact.train.networks.kernels import fused_obstacle, probe_kernels
from resact.train.networks.parity import probe_parity
from resact.train.runs.config import RunConfig
from resact.train.runs.distributed import Ranks


def rightly_computed(config: RunConfig, ranks: Ranks, console: Console, *, may_change: bool) -> RunConfig:
    """With bfloat16 only where every GPU's convolutions come out right in it, if need be without cuDNN.

    Raises:
        UsageError: they do not, and it is not for us to change the precision, or that would not help.
    """
    if not config.amp or ranks.device.type != "cuda":
        return config
    with torch.device("meta"):
        network = config.network.build(config.geometry.modality, num_classes=2)
    report = probe_parity(
        network,
        device=ranks.device,
        batch=config.recipe.batch_size // ranks.world_size,
        frames=config.geometry.frames,
        size=config.geometry.size,
        memory_format=config.memory_format,
    )
    console.print(str(report))
    if ranks.any(report.fallback == "another device"):
        raise UsageError(f"{report}: train on another device, or with another version of torch")
    if ranks.any(report.fallback == "float32"):
        if not may_change:
            raise UsageError(f"{report}: train anew with --no-amp, or with another version of torch")
        return replace(config, amp=False)
    if ranks.any(report.fallback == "without cudnn"):
        torch.backends.cudnn.enabled = False
    return config


def with_kernels(config: RunConfig, ranks: Ranks, console: Console) -> RunConfig:
    """With the kernels chosen: the fused ones where every device can run them and they are right there.

    Raises:
        UsageError: fused ones were asked for, or the run that goes on has them, and they cannot run or are wrong.
    """
    if config.kernels == "eager":
        return config
    with torch.device("meta"):
        network = config.network.build(config.geometry.modality, num_classes=2)
    checkpointed = config.network.checkpoint_activations
    obstacle = fused_obstacle(network.architecture, ranks.device, checkpointed=checkpointed)
    if obstacle is None and config.compile:
        obstacle = "they do not go with --compile"
    if obstacle is None:
        obstacle = _wrongness(config, network.architecture, ranks, console)
    if not ranks.any(obstacle is not None):
        return replace(config, kernels="fused")
    obstacle = obstacle or "another device cannot use them"
    if config.kernels == "fused":
        raise UsageError(f"got kernels 'fused', but {obstacle}; train anew with --kernels eager, or on another device")
    if ranks.device.type == "cuda":
        console.print(f"kernels: eager; not the fused ones: {obstacle}")
    return replace(config, kernels="eager")


def _wrongness(config: RunConfig, architecture: Architecture, ranks: Ranks, console: Console) -> str | None:
    """What is wrong with the fused kernels on this device, or None."""
    geometry, dtype = config.geometry, torch.bfloat16 if config.amp else torch.float32
    try:
        parity = probe_kernels(
            architecture, device=ranks.device, dtype=dtype, frames=geometry.frames, size=geometry.size
        )
    except ToolError as error:
        return str(error)
    console.print(f"kernels: {parity}")
    return None if parity.right else str(parity)
