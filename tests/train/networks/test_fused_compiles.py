"""Each fused kernel becomes machine code for an H100, which needs no GPU, and asks for no more than one has.

The interpreter lets much pass that the compiler does not. What is compiled is what a training step of the paper's
network launches: the step runs with kernels that only note how they are called.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
import torch
import triton
from tests.conftest import GAUNTLET
from torch.nn.modules.batchnorm import _BatchNorm
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from resact.train.networks.fused import conv1, norm, pointwise, residual_add, stencil, top
from resact.train.networks.fused.bottleneck import bottleneck
from resact.train.networks.models import build_model
from resact.train.networks.modules import Bottleneck

H100 = GPUTarget("cuda", 90, 32)
SHARED_BYTES = 227 * 1024
"""That a program may have there."""

KERNELS = {
    pointwise: ("_forward", "_weight_gradient", "_input_gradient"),
    stencil: ("_forward", "_backward"),
    top: ("_forward", "_clip_products", "_over_clips", "_input_gradient"),
    residual_add: ("_forward", "_backward"),
    norm: ("_statistics", "_gradients"),
    conv1: ("_forward", "_backward"),
}
OPTIONS = ("num_warps", "num_stages")
TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32"}


@dataclass(frozen=True)
class Launch:
    module: str
    kernel: str
    types: tuple[tuple[str, str], ...]
    aligned: tuple[str, ...]
    """Arguments that 16 divides: the compiler makes other code for them, and more of it."""
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, int], ...]


class Noted:
    """Stands in for a kernel, and notes how it is launched instead of running."""

    def __init__(self, module: ModuleType, name: str, launches: dict[Launch, Any]) -> None:
        self.module, self.name, self.kernel, self.launches = module, name, getattr(module, name), launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        assert all(0 < extent < 2**31 for extent in grid)
        assert all(extent < 2**16 for extent in grid[1:])  # CUDA's limit for all but the first

        def launch(*args: Any, **keywords: Any) -> None:
            values = dict(zip(self.kernel.arg_names, args, strict=False)) | keywords
            options = tuple((name, values.pop(name)) for name in OPTIONS if name in values)
            assert values.keys() == set(self.kernel.arg_names)
            types, aligned, constants = {}, [], {}
            for name, value in values.items():
                if isinstance(value, torch.Tensor):
                    types[name] = TYPES[value.dtype]
                    aligned.append(name)
                elif (
                    value is None
                    or value == 1
                    or (name.isupper() and name not in ("B", "C", "H", "K", "N", "P", "T", "W"))
                ):
                    types[name], constants[name] = "constexpr", value
                elif isinstance(value, float):
                    types[name] = "fp32"
                else:
                    types[name] = "i32" if value < 2**31 else "i64"
                    if value % 16 == 0:
                        aligned.append(name)
            key = Launch(
                self.module.__name__,
                self.name,
                tuple(types.items()),
                tuple(aligned),
                tuple(constants.items()),
                options,
            )
            self.launches[key] = self.kernel

        return launch


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch, tmp_path) -> dict[Launch, Any]:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found: dict[Launch, Any] = {}
    for module, names in KERNELS.items():
        for name in names:
            monkeypatch.setattr(module, name, Noted(module, name, found))
    return found


def compiled(launch: Launch, function: Any) -> Any:
    constants = {(function.arg_names.index(name),): value for name, value in launch.constants}
    aligned = {(function.arg_names.index(name),): [["tt.divisibility", 16]] for name in launch.aligned}
    source = ASTSource(function, dict(launch.types), constants, aligned)
    return triton.compile(source, target=H100, options=dict(launch.options))


def step(module: Bottleneck, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.empty(shape, dtype=dtype, device="meta").to(memory_format=torch.channels_last_3d).requires_grad_()
    bottleneck(module, x).float().sum().backward()


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float32, marks=pytest.mark.skipif(not GAUNTLET, reason="long"))]
)
def test_the_networks_kernels_compile(launches, dtype, monkeypatch):
    """Those of conv1, of a module that projects and of one that does not, of the narrowest and the widest stage."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # the meta device has none
    with torch.device("meta"):
        network = build_model("p3d-resnet50", modality="both")
        clips = {name: torch.empty(32, 3, 32, 112, 112) for name in ("rgb", "residual")}
    conv1.conv1(network.conv1, clips, dtype).float().sum().backward()
    step(network.res2[1], (32, 64, 32, 56, 56), dtype)
    step(network.res5[0], (32, 256, 32, 14, 14), dtype)
    assert {(launch.module, launch.kernel) for launch in launches} == {
        (module.__name__, name) for module, names in KERNELS.items() for name in names
    }
    for launch, function in launches.items():
        code = compiled(launch, function)
        assert code.asm["cubin"]

        assert code.metadata.shared <= SHARED_BYTES, (launch, code.metadata.shared)


def test_what_a_step_keeps(launches):
    """One clip of the paper's network at its own size."""
    network = build_model("p3d-resnet50", modality="both")
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    clips = {name: torch.zeros(1, 3, 32, 112, 112) for name in ("rgb", "residual")}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        x = conv1.conv1(network.conv1, clips, torch.bfloat16)
        for stage in (network.res2, network.res3, network.res4, network.res5):
            for module in stage:
                x = bottleneck(module, x)
    mebibytes = sum(storage.nbytes() for at, storage in kept.items() if at not in weights) / 2**20
    positions = 32 * 56 * 56 * 64 * 2 / 2**20  # a tensor of res2, in bfloat16; each later stage's is half as large
    tensors = {"conv1": 4, "res2": 3 * 5 + 0, "res3": (4 * 5 + 1) / 2, "res4": (6 * 5 + 1) / 4, "res5": (3 * 5 + 1) / 8}
    assert math.isclose(mebibytes, positions * (sum(tensors.values()) + 1), rel_tol=0.03)
    assert mebibytes < 600
    assert not any(isinstance(norm, _BatchNorm) and norm.running_mean.isnan().any() for norm in network.modules())
