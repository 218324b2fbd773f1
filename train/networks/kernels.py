"""Which code computes a network: PyTorch's operations (`eager`) or the kernels of `fused`, and whether those are right.

Both are the same function of the same weights.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from resact.errors import ToolError
from resact.train.networks.architecture import Architecture

Kernels = Literal["eager", "fused"]
KERNELS = ("auto", "fused", "eager")
"""What may be asked for: `auto` is `fused` wherever that works and is found right."""

_PROBED_CLIPS = 2
_DRAWS = 3
_SLACK = {torch.bfloat16: 1.5, torch.float32: 3.0}
_LEAST = 1e-5  # in float32 both are nearly exact


def fused_obstacle(architecture: Architecture, device: torch.device, *, checkpointed: bool = False) -> str | None:
    """Why the fused kernels cannot compute a network, or None where they can.

    Args:
        architecture: of the network.
        device: that it is on.
        checkpointed: whether it computes activations twice to save memory.
    """
    if architecture.conv != "separable":
        return "they are for channel-separated convolutions, and the network's are dense"
    if checkpointed:
        return "they keep little anyhow, and do not go with checkpoint_activations"
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"they run on CUDA, and the network is on {device.type}"
    if find_spec("triton") is None:
        return "they need Triton: `pip install triton`"
    return None


@dataclass(frozen=True)
class KernelParity:
    """How far the fused and the eager network are from the same network in float64.

    Each is the larger of two relative errors, of the logits and of all weights' gradients: the norm of the difference
    over the norm of the right values.
    """

    fused: float
    eager: float
    dtype: torch.dtype

    @property
    def right(self) -> bool:
        """Whether the fused one is about as near as the eager one; not where it is NaN."""
        return self.fused <= _SLACK[self.dtype] * self.eager + _LEAST

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        verdict = "right" if self.right else "wrong"
        return f"fused kernels {verdict} in {name}: {self.fused:.1e} from float64, eager ones {self.eager:.1e}"


def probe_kernels(
    architecture: Architecture,
    *,
    device: torch.device,
    dtype: torch.dtype,
    frames: int,
    size: int,
    clips: int = _PROBED_CLIPS,
    seed: int = 0,
) -> KernelParity:
    """One training step of a network with random weights and clips, fused, eager and in float64.

    A value that one of them rounds across a ReLU's zero moves many gradients. So what is not right is tried again with
    other weights and clips, three times in all: kernels that are wrong are wrong in each.

    Args:
        architecture: of the network; `zero_init`, which would hide most of it, and dropout are left out.
        device: to compute on.
        dtype: `bfloat16`, under autocast, or `float32`.
        frames: of a clip.
        size: height and width of a clip.
        clips: of the step.
        seed: of weights and clips.

    Raises:
        UsageError: the fused kernels cannot compute it at all (`fused_obstacle`).
        ToolError: they fail on this device.
    """
    for draw in range(_DRAWS):
        parity = _probe(architecture, device, dtype, frames, size, clips, seed + draw)
        if parity.right:
            break
    return parity


def _probe(
    architecture: Architecture, device: torch.device, dtype: torch.dtype, frames: int, size: int, clips: int, seed: int
) -> KernelParity:
    from resact.train.networks.models import ActionNetwork

    plain = replace(architecture, zero_init=False, dropout=0.0)
    generator = torch.Generator().manual_seed(seed)
    shape = clips, 3, frames, size, size
    inputs = {name: torch.randn(shape, generator=generator).bfloat16() for name in plain.streams}  # exact in all three
    labels = torch.arange(clips, device=device) % plain.num_classes
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        weights = ActionNetwork(plain).state_dict()

    def step(kernels: Kernels, kind: torch.dtype) -> list[Tensor]:
        network = ActionNetwork(plain)
        network.load_state_dict(weights)
        network.to(device, torch.float64 if kind == torch.float64 else torch.float32)
        network.use_kernels(kernels)
        batch = {
            name: clip.to(device, torch.float64 if kind == torch.float64 else dtype) for name, clip in inputs.items()
        }
        autocast = torch.autocast(device.type, kind) if kind == torch.bfloat16 else nullcontext()
        with autocast:
            logits = network(**batch)
        functional.cross_entropy(logits.to(torch.float64), labels).backward()  # type: ignore[no-untyped-call]
        gradients = torch.cat([p.grad.flatten().double().cpu() for p in network.parameters() if p.grad is not None])
        return [logits.detach().double().cpu(), gradients]

    right = step("eager", torch.float64)
    eager = _error(step("eager", dtype), right)
    return KernelParity(_error(_fused(partial(step, "fused", dtype)), right), eager, dtype)


def _fused(step: Callable[[], list[Tensor]]) -> list[Tensor]:
    from triton.errors import TritonError

    try:
        return step()
    except (TritonError, RuntimeError) as error:  # they do not compile, or need more than the device has
        raise ToolError(f"the fused kernels fail: {type(error).__name__}: {error}") from error


def _error(got: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    errors = [((a - b).norm() / b.norm()).item() for a, b in zip(got, right, strict=True)]
    return max(errors) if all(error == error for error in errors) else float("nan")
