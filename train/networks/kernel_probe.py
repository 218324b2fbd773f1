"""Checks the fused kernels on a device: compares each part of a network with the eager code and float64."""

import copy
import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resact.errors import ToolError
from resact.train.networks.architecture import Architecture
from resact.train.networks.cost import module_inputs
from resact.train.networks.kernels import kernel_failures
from resact.train.networks.models import ActionNetwork
from resact.train.networks.modules import Bottleneck, Conv1

_PROBED_CLIPS = 2
_DRAWS = 5
_SLACK = {torch.bfloat16: 2.0, torch.float32: 3.0}
_LEAST = {torch.bfloat16: 0.05, torch.float32: 1e-4}
_LEAST_SCALE = {torch.bfloat16: 1e-2, torch.float32: 1e-3}
"""Norms make some gradients zero; their errors are relative to this share of the largest gradient."""


@dataclass(frozen=True)
class KernelParity:
    """Errors against float64 of the fused and the eager code, for the tensor where the fused code does worst."""

    fused: float
    """Relative error of a tensor: the norm of the difference divided by the norm of the correct values."""

    eager: float
    dtype: torch.dtype
    what: str
    """The part of the network and its tensor that the errors are of."""

    @property
    def right(self) -> bool:
        """Whether the fused code is about as accurate as the eager code; false for NaN."""
        return self._excess <= 1

    @property
    def _excess(self) -> float:
        return self.fused / (_SLACK[self.dtype] * self.eager + _LEAST[self.dtype])

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        verdict = "right" if self.right else "wrong"
        return f"fused kernels {verdict} in {name}: {self.what} {self.fused:.1e} from float64, eager {self.eager:.1e}"


def probe_kernels(
    architecture: Architecture,
    *,
    device: torch.device,
    dtype: torch.dtype,
    frames: int,
    size: int,
    clips: int = _PROBED_CLIPS,
    memory_format: torch.memory_format = torch.contiguous_format,
    seed: int = 0,
) -> KernelParity:
    """One training step of each part of a network, with random weights and input: fused, eager and in float64.

    conv1 and modules of each kind are checked separately, output and each gradient: through a complete network, errors
    in bfloat16 grow until they would hide anything. If one of the codes rounds a value across a ReLU's zero, many
    gradients change. So a part that fails is tried again with other weights and input, up to five times in all: wrong
    kernels fail each time.

    Args:
        architecture: the network's architecture.
        device: where to compute.
        dtype: `bfloat16`, under autocast, or `float32`.
        frames: frames per clip.
        size: height and width of a clip.
        clips: clips per step.
        memory_format: memory layout of the weights.
        seed: seed of weights and input.

    Returns: The parity of the worst tensor.

    Raises:
        ToolError: the kernels fail on this device, or it has too little memory for the check.
    """
    worst = KernelParity(0.0, 0.0, dtype, "nothing")
    for part in _parts(architecture, clips=clips, frames=frames, size=size):
        for draw in range(_DRAWS):
            parity = part.parity(device, dtype, memory_format, seed + draw)
            if parity.right:
                break
        if not parity.right:
            return parity
        if parity._excess > worst._excess:
            worst = parity
    return worst


@dataclass(frozen=True)
class _Part:
    """Conv1 or a module, on the meta device."""

    name: str
    module: Conv1 | Bottleneck
    shape: tuple[int, ...]
    """Of its input; for conv1, of each clip."""

    def parity(
        self, device: torch.device, dtype: torch.dtype, memory_format: torch.memory_format, seed: int
    ) -> KernelParity:
        """Of its worst tensor."""
        clips = tuple(self.module) if isinstance(self.module, Conv1) else None
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            module = copy.deepcopy(self.module).to_empty(device="cpu")
            for norm in module.modules():
                if isinstance(norm, nn.BatchNorm3d):
                    norm.reset_running_stats()
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5)
            inputs = {name: torch.randn(self.shape).bfloat16() for name in clips or ("x",)}  # exact in all three

        def step(kind: torch.dtype, *, fused: bool = False) -> dict[str, Tensor]:
            weights = torch.float64 if kind == torch.float64 else torch.float32
            own = copy.deepcopy(module).to(device, weights, memory_format=memory_format)  # type: ignore[call-overload]
            # Clips get no gradient.
            batch = {name: x.to(device, kind, copy=True).requires_grad_(not clips) for name, x in inputs.items()}
            given = batch if clips else batch["x"]
            with torch.autocast(device.type, kind) if kind == torch.bfloat16 else nullcontext():
                out = _fused(own, given) if fused else own(given)
            generator = torch.Generator().manual_seed(seed)
            out.backward(torch.randn(out.shape, generator=generator).bfloat16().to(device, out.dtype))
            tensors = {"output": out.detach()}
            tensors |= {f"gradient of {name}": p.grad for name, p in own.named_parameters() if p.grad is not None}
            tensors |= {f"gradient of {name}": x.grad for name, x in batch.items() if x.grad is not None}
            return {name: tensor.double().cpu() for name, tensor in tensors.items()}

        try:
            right, eager, fused = step(torch.float64), step(dtype), step(dtype, fused=True)
        except kernel_failures() as error:
            raise ToolError(f"the fused kernels fail: {type(error).__name__}: {error}") from error
        largest = max(tensor.norm().item() for name, tensor in right.items() if name != "output")

        def error_of(got: dict[str, Tensor], name: str) -> float:
            least = _LEAST_SCALE[dtype] * largest if name != "output" else 0.0
            return float((got[name] - right[name]).norm() / max(right[name].norm().item(), least))

        found = [
            KernelParity(error_of(fused, name), error_of(eager, name), dtype, f"{self.name}'s {name}") for name in right
        ]
        return max(found, key=lambda parity: float("inf") if math.isnan(parity._excess) else parity._excess)


def _parts(architecture: Architecture, *, clips: int, frames: int, size: int) -> list[_Part]:
    """Conv1 and a module of each kind, with the shapes of their inputs."""
    with torch.device("meta"):
        network = ActionNetwork(architecture)
    parts: dict[tuple[int, ...], _Part] = {(): _Part("conv1", network.conv1, (clips, 3, frames, size, size))}
    for name, module, shape in module_inputs(network, Bottleneck, batch=clips, frames=frames, size=size):
        kind = *shape, module.top.conv.out_channels, *module.bottom.conv.stride
        parts.setdefault(kind, _Part(name, module, shape))
    return list(parts.values())


def _fused(module: nn.Module, x: Any) -> Tensor:
    from resact.train.networks.fused.bottleneck import bottleneck
    from resact.train.networks.fused.conv1 import conv1

    with torch.cuda.device_of(next(module.parameters())):  # type: ignore[no-untyped-call]
        if isinstance(module, Bottleneck):
            return bottleneck(module, x)
        assert isinstance(module, Conv1)
        return conv1(module, x, next(iter(x.values())).dtype)
