"""Fused kernels beside PyTorch's operations and float64: computed here, perhaps in another process; tests judge."""

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resact.train.networks.modules import Bottleneck, Pseudo3D, Stem

LEAST_SCALE = {torch.float32: 1e-3, torch.bfloat16: 1e-2}
"""Errors are relative to what is right, or to this share of the largest gradient: some are zero by the norms, so that
only what was rounded off is left of them."""


@dataclass(frozen=True, kw_only=True)
class ModuleCase:
    in_channels: int
    channels: int
    shape_BTHW: tuple[int, int, int, int]
    stride: int = 1
    attention: bool = True
    feature_residual: bool = True
    training: bool = True
    bias: float = 0
    """Added to what the spatial and the temporal convolution read: then their outputs lie far from zero."""
    strided: bool = False
    """The input and the gradient that comes back are parts of larger tensors."""
    memory_format: torch.memory_format = torch.contiguous_format
    """Of weights."""
    large_blocks: bool = False
    """In the interpreter, which takes about as long for a small block as for a large one."""


@dataclass(frozen=True, kw_only=True)
class Conv1Case:
    streams: tuple[str, ...]
    channels: int
    shape_BTHW: tuple[int, int, int, int]
    training: bool = True
    strided: bool = False
    memory_format: torch.memory_format = torch.contiguous_format
    large_blocks: bool = False


Errors = dict[str, tuple[float, float]]
"""Of the fused and of the eager, by what they are of."""


def module_errors(case: ModuleCase, dtype: torch.dtype, device: str, seed: int) -> Errors:
    """Of outputs, of the gradients of input and weights, and of running statistics, after one step."""
    from resact.train.networks.fused.bottleneck import bottleneck

    torch.manual_seed(seed)
    body = Pseudo3D(case.channels, separable=True, attention=case.attention, feature_residual=case.feature_residual)
    module = Bottleneck(case.in_channels, case.channels, body, stride=case.stride)
    _randomise(module, training=case.training)
    module.bottom.norm.bias.data += case.bias
    b, t, h, w = case.shape_BTHW
    x = _drawn((b, case.in_channels, t, h, w), strided=case.strided)

    def step(of: Callable[[nn.Module, Tensor], Tensor], kind: torch.dtype, device: str) -> dict[str, Tensor]:
        own = copy.deepcopy(module).to(device, _weights(kind), memory_format=case.memory_format)
        x_own = x.to(device, kind, copy=True).requires_grad_()
        if kind == torch.bfloat16 and of is not bottleneck:
            with torch.autocast(device, kind):
                out = of(own, x_own)
        else:
            out = of(own, x_own)
        return _result(own, out, case.strided) | {"gradient of the input": x_own.grad}

    with _blocks(large=case.large_blocks and device == "cpu"):
        return _errors(step, bottleneck, lambda own, x: own(x), dtype, device)


def conv1_errors(case: Conv1Case, dtype: torch.dtype, device: str, seed: int) -> Errors:
    """Likewise."""
    from resact.train.networks.fused.conv1 import conv1

    torch.manual_seed(seed)
    stems = nn.ModuleDict({name: Stem(case.channels, separable=True) for name in case.streams})
    _randomise(stems, training=case.training)
    b, t, h, w = case.shape_BTHW
    clips = {name: _drawn((b, 3, t, h, w), strided=case.strided) for name in case.streams}

    def step(of: Callable[..., Tensor], kind: torch.dtype, device: str) -> dict[str, Tensor]:
        own = copy.deepcopy(stems).to(device, _weights(kind), memory_format=case.memory_format)
        autocast = torch.autocast(device, kind) if kind == torch.bfloat16 else nullcontext()
        with autocast:
            out = of(own, {name: clip.to(device, kind) for name, clip in clips.items()})
        return _result(own, out, case.strided)

    def fused(own: nn.ModuleDict, clips: dict[str, Tensor]) -> Tensor:
        return conv1(own, clips, dtype)

    def eager(own: nn.ModuleDict, clips: dict[str, Tensor]) -> Tensor:
        return torch.cat([stem(clips[name]) for name, stem in own.items()], dim=1)

    with _blocks(large=case.large_blocks and device == "cpu"):
        return _errors(step, fused, eager, dtype, device)


def _weights(kind: torch.dtype) -> torch.dtype:
    return torch.float64 if kind == torch.float64 else torch.float32


@contextmanager
def _blocks(*, large: bool) -> Iterator[None]:
    from resact.train.networks.fused import conv1, norm, residual_add, stencil

    sizes = {
        stencil: {"_BLOCK_H": 16, "_BLOCK_W": 32, "_BLOCK_C": 64},
        norm: {"_BLOCK_C": 128, "_BLOCK_ROWS": 1024},
        residual_add: {"_BLOCK_ROWS": 1024},
        conv1: {"_BLOCK_PIXELS": 512},
    }
    with ExitStack() as patches:
        for module, constants in sizes.items() if large else ():
            patches.enter_context(patch.multiple(module, **constants))
        yield


def _drawn(shape: tuple[int, ...], *, strided: bool) -> Tensor:
    """Exact in bfloat16."""
    if not strided:
        return torch.randn(shape).bfloat16().to(memory_format=torch.channels_last_3d)
    return torch.randn(*(2 * size for size in shape)).bfloat16()[tuple(slice(None, None, 2) for _ in shape)]


def _randomise(module: nn.Module, *, training: bool) -> None:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5)
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    module.train(training)


def _result(module: nn.Module, out: Tensor, strided: bool) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(out.shape, generator=generator).bfloat16().to(out.device, out.dtype)
    if strided:
        gradient = gradient[:, :, :1].expand_as(gradient)
    out.backward(gradient)
    result = {"output": out.detach()} | dict(module.named_buffers())
    return result | {f"gradient of {name}": p.grad for name, p in module.named_parameters()}


def _errors(step, fused, eager, dtype: torch.dtype, device: str) -> Errors:  # type: ignore[no-untyped-def]
    right = step(eager, torch.float64, "cpu")
    got = {name: step(of, dtype, device) for name, of in (("fused", fused), ("eager", eager))}
    largest = max(value.norm().item() for name, value in right.items() if name.startswith("gradient of"))

    def error(which: str, name: str) -> float:
        least = LEAST_SCALE[dtype] * largest if name.startswith("gradient of") else 1e-12
        difference = got[which][name].cpu().double() - right[name]
        return difference.norm().item() / max(right[name].double().norm().item(), least)

    return {name: (error("fused", name), error("eager", name)) for name in right}
