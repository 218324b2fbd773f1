"""Checks before a training: whether a device can compute the network in a form, and computes it correctly."""

import re
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from resact.errors import ToolError, UsageError
from resact.train.networks.cost import count_saved_bytes
from resact.train.networks.kernel_probe import probe_kernels
from resact.train.networks.kernels import fused_obstacle
from resact.train.networks.modules import convolve, use_form
from resact.train.networks.parity import ParityReport, probe_parity
from resact.train.runs.distributed import Ranks
from resact.train.runs.execution import convolution_form, memory_format, outline
from resact.train.runs.files.config import RunConfig

_MOST_KEPT = 2000
"""More than the bytes that a step keeps for each byte of its clips: about 530 for one input of the paper's network. If
that fits, nothing is counted, since counting loads PyTorch's compiler, which takes seconds."""


def rightly_computed(config: RunConfig, ranks: Ranks, console: Console, *, may_change: bool) -> RunConfig:
    """The config, with bfloat16 only if every GPU computes its convolutions correctly in it, if need be without cuDNN.

    Choose the kernels first: the fused ones do not use PyTorch's convolutions.

    Raises:
        UsageError: convolutions are wrong, and the precision may not be changed or changing it would not help.
    """
    if not config.amp or ranks.device.type != "cuda" or config.fused:
        return config
    try:
        report = convolutions_report(config, ranks.device, world_size=ranks.world_size)
    except Exception:
        if not config.architecture.is_own:
            raise
        console.print("note: the network's code needs values, so its convolutions are not compared with float64")
        return config
    console.print(str(report))

    def check_here() -> None:
        if report.fallback == "another device":
            raise UsageError(f"{report}: train on another device, or with another version of torch")
        if report.fallback == "float32" and not may_change:
            raise UsageError(f"{report}: train again with --no-amp, or with another version of torch")

    ranks.on_each(check_here)
    if ranks.any(report.fallback == "float32"):
        return replace(config, amp=False)
    if ranks.any(report.fallback == "without cudnn"):
        torch.backends.cudnn.enabled = False
    return config


def convolutions_report(config: RunConfig, device: torch.device, *, world_size: int = 1) -> ParityReport:
    """The parity probe of a run's convolutions in bfloat16, in its form and at its shapes."""
    return probe_parity(
        outline(config, 2),
        streams=config.geometry.streams,
        device=device,
        batch=-(-config.recipe.batch_size // (world_size * config.recipe.accumulate)),
        frames=config.geometry.frames,
        size=config.geometry.size,
        memory_format=memory_format(config),
        convolve=partial(convolve, form=convolution_form(config) or "3d"),
    )


def memory_shortage(config: RunConfig, ranks: Ranks) -> str | None:
    """What a step on the CPU needs and what is available, where that is less; or None. A GPU says so itself.

    Without it the system may end the process with no word about memory.
    """
    available = available_bytes()
    if ranks.device.type != "cpu" or config.architecture.is_own or available is None:
        return None
    geometry, local_ranks = config.geometry, ranks.world_size // ranks.hosts
    clips = -(-config.recipe.batch_size // (ranks.world_size * config.recipe.accumulate))
    clips_bytes = local_ranks * clips * len(geometry.streams) * 3 * geometry.frames * geometry.size**2 * 4
    if clips_bytes * _MOST_KEPT * max(1, config.architecture.width) <= available:
        return None
    network = outline(config, 2)
    use_form(network, convolution_form(config) or "folded")
    kept = count_saved_bytes(network, batch=clips, frames=geometry.frames, size=geometry.size)
    needed = kept * local_ranks // (2 if config.amp else 1)  # counted in float32
    if needed <= available:
        return None
    return (
        f"a step of {clips} clips needs {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are available: "
        "expected at least as many. Otherwise the system may end the training without a word. Change --batch-size, "
        "--accumulate, --checkpoint-activations, --frames, --size or --width, or train on a GPU"
    )


def available_bytes() -> int | None:
    """Memory that this process may still take, also within a container; None where the system does not say."""
    try:
        found = re.search(r"^MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    limits = [int(found[1]) * 1024] if found else []
    with suppress(OSError, ValueError):  # no such control group, or "max"
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(limits, default=None)


def form_obstacle(config: RunConfig, device: torch.device, *, world_size: int = 1) -> str | None:
    """Why a form of the step is not for this run or device, or None: found without computing anything.

    Args:
        config: its `kernels` are the form.
        device: the run's device.
        world_size: number of devices.
    """
    if config.graphed and device.type != "cuda":
        return f"CUDA graphs need a CUDA device, not {device.type}"
    if config.graphed and world_size > 1:
        return "CUDA graphs are for one device, and the run has several"
    if config.graphed and config.checkpoint_activations:
        return "CUDA graphs do not work with --checkpoint-activations"
    if not config.fused:
        return None
    return fused_obstacle(config.architecture.for_classes(2), device, checkpointed=config.checkpoint_activations)


def parity_obstacle(config: RunConfig, device: torch.device, console: Console | None = None) -> str | None:
    """What a form of the step computes wrongly on this device, part by part; or None.

    Args:
        config: its `kernels` are the form, its batch size is the device's.
        device: the device.
        console: where to print what the probe of the fused kernels found.
    """
    if config.fused:
        return _fused_parity_obstacle(config, device, console)
    if not config.amp or device.type != "cuda":
        return None
    report = convolutions_report(config, device)
    return None if report.passed else str(report)


def kernels_obstacle(config: RunConfig, device: torch.device, console: Console) -> str | None:
    """Why the fused kernels cannot compute a run's network on this device, or what is wrong with them; or None."""
    fused = config.in_form("fused")
    return form_obstacle(fused, device) or parity_obstacle(fused, device, console)


def _fused_parity_obstacle(config: RunConfig, device: torch.device, console: Console | None) -> str | None:
    try:
        parity = probe_kernels(
            config.architecture.for_classes(2),
            device=device,
            dtype=torch.bfloat16 if config.amp else torch.float32,
            frames=config.geometry.frames,
            size=config.geometry.size,
            memory_format=memory_format(config),
        )
    except ToolError as error:
        return str(error)
    if console is not None:
        console.print(f"kernels: {parity}")
    return None if parity.right else str(parity)
