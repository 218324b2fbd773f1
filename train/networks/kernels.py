"""Chooses the code that computes a network: PyTorch's operations (`eager`) or the kernels of `fused`.

Both are the same function of the same weights.
"""

import os
from importlib.util import find_spec
from subprocess import SubprocessError
from typing import Literal

import torch

from resact.train.networks.architecture import Architecture

Kernels = Literal["eager", "fused"]


def fused_obstacle(architecture: Architecture, device: torch.device, *, checkpointed: bool = False) -> str | None:
    """Why the fused kernels cannot compute a network, or None if they can.

    Args:
        architecture: the network's architecture.
        device: the network's device.
        checkpointed: whether the network recomputes activations to save memory.
    """
    if architecture.conv != "separable":
        return "they are for channel-separated convolutions, and the network's are dense"
    if checkpointed:
        return "they keep little memory anyway, and do not work with --checkpoint-activations"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"they run on CUDA, and the network is on {device.type}"
    if find_spec("triton") is None:
        return "they need Triton: `pip install triton`"
    return None


def kernel_failures() -> tuple[type[Exception], ...]:
    """Exceptions raised if the fused kernels do not compile, or need more resources than the device has."""
    failures = RuntimeError, OSError, ImportError, SubprocessError
    try:
        from triton.errors import TritonError
    except ImportError:
        return failures
    return *failures, TritonError
