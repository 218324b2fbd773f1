"""Fused kernels beside PyTorch's operations and float64: computed here, perhaps in another process; tests judge."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resact.train.networks.modules import Bottleneck, Conv1, Pseudo3D, Stem

LEAST_SCALE = {torch.float32: 1e-3, torch.bfloat16: 1e-2}
"""Errors are relative to what is right, or to this share of the largest gradient: some are zero by the norms, so that
only what was rounded off is left of them."""


@dataclass(frozen=True, kw_only=True)
class Case:
    channels: int
    shape_BTHW: tuple[int, int, int, int]
    training: bool = True
    strided: bool = False
    """The input and the gradient that comes back are parts of larger tensors."""
    memory_format: torch.memory_format = torch.contiguous_format
    """Of weights."""
    large_blocks: bool = False
    """In the interpreter, which takes about as long for a small block as for a large one."""


@dataclass(frozen=True, kw_only=True)
class ModuleCase(Case):
    in_channels: int
    stride: int = 1
    attention: bool = True
    feature_residual: bool = True
    bias: float = 0
    """Added to what the spatial and the temporal convolution read: then their outputs lie far from zero."""

    def module(self) -> Bottleneck:
        body = Pseudo3D(self.channels, separable=True, attention=self.attention, feature_residual=self.feature_residual)
        return Bottleneck(self.in_channels, self.channels, body, stride=self.stride)


@dataclass(frozen=True, kw_only=True)
class Conv1Case(Case):
    streams: tuple[str, ...]

    def module(self) -> Conv1:
        return Conv1({name: Stem(self.channels, separable=True) for name in self.streams})


Errors = dict[str, tuple[float, float]]
"""Of the fused and of the eager, by what they are of."""


def errors(case: ModuleCase | Conv1Case, dtype: torch.dtype, device: str, seed: int) -> Errors:
    """Of outputs, of the gradients of input and weights, and of running statistics, after one step."""
    from resact.train.networks.fused.bottleneck import bottleneck
    from resact.train.networks.fused.conv1 import conv1

    torch.manual_seed(seed)
    module = case.module()
    _randomise(module, training=case.training)
    b, t, h, w = case.shape_BTHW
    if isinstance(case, ModuleCase):
        module.bottom.norm.bias.data += case.bias
        inputs = {"input": _drawn((b, case.in_channels, t, h, w), strided=case.strided)}
    else:
        inputs = {name: _drawn((b, 3, t, h, w), strided=case.strided) for name in case.streams}

    def step(kind: torch.dtype, device: str, *, fused: bool = False) -> dict[str, Tensor]:
        weights = torch.float64 if kind == torch.float64 else torch.float32
        own = copy.deepcopy(module).to(device, weights, memory_format=case.memory_format)
        own_inputs = {name: x.to(device, kind, copy=True) for name, x in inputs.items()}
        with torch.autocast(device, kind) if kind == torch.bfloat16 else nullcontext():
            if isinstance(case, Conv1Case):
                return _result(own, conv1(own, own_inputs, kind) if fused else own(own_inputs), case.strided)
            x = own_inputs["input"].requires_grad_()
            result = _result(own, bottleneck(own, x) if fused else own(x), case.strided)
            return result | {"gradient of the input": x.grad}

    right = step(torch.float64, "cpu")
    with _blocks(large=case.large_blocks and device == "cpu"):
        got = step(dtype, device, fused=True), step(dtype, device)
    largest = max(value.norm().item() for name, value in right.items() if name.startswith("gradient of"))

    def error(which: dict[str, Tensor], name: str) -> float:
        least = LEAST_SCALE[dtype] * largest if name.startswith("gradient of") else 1e-12
        difference = which[name].cpu().double() - right[name]
        return difference.norm().item() / max(right[name].double().norm().item(), least)

    return {name: (error(got[0], name), error(got[1], name)) for name in right}


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
