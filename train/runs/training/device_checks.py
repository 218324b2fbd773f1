"""Checks before a training: whether the device computes the network correctly, and with which kernels."""

import gc
import math
from dataclasses import replace

import torch
from rich.console import Console

from resact.errors import ToolError, UsageError
from resact.train.networks.kernel_probe import probe_kernels
from resact.train.networks.kernels import fused_obstacle, kernel_failures
from resact.train.networks.parity import probe_parity
from resact.train.networks.timing import median_seconds
from resact.train.runs.distributed import Ranks
from resact.train.runs.execution import memory_format, outline
from resact.train.runs.files.config import RunConfig
from resact.train.runs.training.step_variants import StepVariant

_TIMED_STEPS = 3


def rightly_computed(config: RunConfig, ranks: Ranks, console: Console, *, may_change: bool) -> RunConfig:
    """The config, with bfloat16 only if every GPU computes its convolutions correctly in it, if need be without cuDNN.

    Choose the kernels first: the fused ones do not use PyTorch's convolutions.

    Raises:
        UsageError: convolutions are wrong, and the precision may not be changed or changing it would not help.
    """
    if not config.amp or ranks.device.type != "cuda" or config.kernels == "fused":
        return config
    try:
        report = probe_parity(
            outline(config, 2),
            streams=config.geometry.streams,
            device=ranks.device,
            batch=-(-config.recipe.batch_size // (ranks.world_size * config.recipe.accumulate)),
            frames=config.geometry.frames,
            size=config.geometry.size,
            memory_format=memory_format(config),
        )
    except Exception:
        if not config.architecture.is_own:
            raise
        console.print("note: the network's code needs values, so its convolutions are not compared with float64")
        return config
    console.print(str(report))
    if ranks.any(report.fallback == "another device"):
        raise UsageError(f"{report}: train on another device, or with another version of torch")
    if ranks.any(report.fallback == "float32"):
        if not may_change:
            raise UsageError(f"{report}: train again with --no-amp, or with another version of torch")
        return replace(config, amp=False)
    if ranks.any(report.fallback == "without cudnn"):
        torch.backends.cudnn.enabled = False
    return config


def with_kernels(config: RunConfig, ranks: Ranks, console: Console) -> RunConfig:
    """The config with its kernels chosen: the fused ones if every device can run them and computes them correctly.

    With `auto`, they must also be faster than eager.

    Raises:
        UsageError: fused kernels were asked for, or the resumed run uses them, and they cannot run or are wrong.
    """
    if config.kernels == "eager" or config.architecture.is_own:
        return replace(config, kernels="eager")
    obstacle = None
    if config.compile:
        obstacle = "they do not work with --compile"
    elif config.recipe.sync_batch_norm:
        obstacle = "they do not work with --sync-batch-norm"
    elif config.kernels == "auto" and not config.amp and ranks.device.type == "cuda":
        obstacle = "in float32 they do not use the matrix units; --kernels fused uses them anyway"
    obstacle = obstacle or kernels_obstacle(config, ranks.device, console)
    if obstacle is None and config.kernels == "auto" and ranks.device.type == "cuda":
        obstacle = _slowness(config, ranks, console)
    if not ranks.any(obstacle is not None):
        return replace(config, kernels="fused")
    obstacle = obstacle or "another device cannot use them"
    if config.kernels == "fused":
        raise UsageError(f"got kernels 'fused', but {obstacle}; train again with --kernels eager, or on another device")
    if ranks.device.type == "cuda":
        console.print(f"kernels: eager; the fused ones are not used: {obstacle}")
    return replace(config, kernels="eager")


def _slowness(config: RunConfig, ranks: Ranks, console: Console) -> str | None:
    """What makes the fused kernels the worse choice although they are right; None where they are the quicker ones."""
    clips = max(1, config.recipe.batch_size // ranks.world_size)
    config = replace(config, recipe=replace(config.recipe, batch_size=clips))
    eager, fused = (step_seconds(replace(config, kernels=kernels), ranks.device) for kernels in ("eager", "fused"))
    found = f"a step of {clips} clips takes {1000 * fused:.1f} ms with them, {1000 * eager:.1f} without"
    console.print(f"kernels: the fused ones: {found}")
    return None if fused < eager else found


def step_seconds(config: RunConfig, device: torch.device) -> float:
    """A training step of a fresh network on clips already in memory; infinite where it needs too much memory."""
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return _timed_step(config, device)
    except kernel_failures():
        return math.inf
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _timed_step(config: RunConfig, device: torch.device) -> float:
    variant = StepVariant("as trained", config)
    step, batch = variant.step(variant.network(2, device), device), variant.batch(2, device)
    clips = config.recipe.batch_size
    return median_seconds(lambda: step(batch, clips=clips, lr=1e-4, seed=0), device, repeats=_TIMED_STEPS)


def kernels_obstacle(config: RunConfig, device: torch.device, console: Console) -> str | None:
    """Why the fused kernels cannot compute a run's network on this device, or what is wrong with them; or None."""
    geometry, dtype = config.geometry, torch.bfloat16 if config.amp else torch.float32
    architecture = config.architecture.for_classes(2)
    obstacle = fused_obstacle(architecture, device, checkpointed=config.checkpoint_activations)
    if obstacle is not None:
        return obstacle
    try:
        parity = probe_kernels(
            architecture,
            device=device,
            dtype=dtype,
            frames=geometry.frames,
            size=geometry.size,
            memory_format=memory_format(config),
        )
    except ToolError as error:
        return str(error)
    console.print(f"kernels: {parity}")
    return None if parity.right else str(parity)
