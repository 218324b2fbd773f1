"""Registers, spills and occupancy of the fused kernels, compiled for an H100 or H200; it needs no GPU.

`python benchmarks/kernel_resources.py` prints them for a step of 32 clips of the paper's network. The step runs on the
meta device, with kernels that only note how they are called; each is then compiled as it was called.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from resact.train.networks.fused import conv1, norm, residual_add, stencil
from resact.train.networks.fused.bottleneck import bottleneck
from resact.train.networks.models import build_model
from resact.train.networks.modules import Bottleneck

H100 = GPUTarget("cuda", 90, 32)
SHARED_BYTES = 227 * 1024
"""That a program may have there."""

KERNELS = {
    stencil: ("_stencil_forward", "_stencil_backward"),
    residual_add: ("_residual_add_forward", "_residual_add_backward"),
    norm: ("_norm_moments", "_norm_raw_gradient", "_norm_statistics", "_norm_gradients"),
    conv1: ("_conv1_forward", "_conv1_backward"),
}
_OPTIONS = ("num_warps", "num_stages", "maxnreg")
_TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32"}


@dataclass(frozen=True)
class Launch:
    """How a kernel is called, as far as its machine code depends on that."""

    module: str
    kernel: str
    types: tuple[tuple[str, str], ...]
    aligned: tuple[str, ...]
    """Arguments that 16 divides: the compiler makes other code for them, and more of it."""
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, int], ...]

    def compile(self) -> Any:
        """The kernel that Triton compiles."""
        module = next(module for module in KERNELS if module.__name__ == self.module)
        function = getattr(module, self.kernel)
        constants = {(function.arg_names.index(name),): value for name, value in self.constants}
        aligned = {(function.arg_names.index(name),): [["tt.divisibility", 16]] for name in self.aligned}
        source = ASTSource(function, dict(self.types), constants, aligned)
        return triton.compile(source, target=H100, options=dict(self.options))


class _Noted:
    """Stands in for a kernel, and notes how it is launched instead of running."""

    def __init__(self, module: ModuleType, name: str, launches: dict[Launch, set[tuple[int, ...]]]) -> None:
        self.module, self.name, self.kernel, self.launches = module, name, getattr(module, name), launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        assert all(0 < extent < 2**31 for extent in grid)
        assert all(extent < 2**16 for extent in grid[1:])  # CUDA's limit for all but the first

        def launch(*args: Any, **keywords: Any) -> None:
            values = dict(zip(self.kernel.arg_names, args, strict=False)) | keywords
            options = tuple((name, values.pop(name)) for name in _OPTIONS if name in values)
            assert values.keys() == set(self.kernel.arg_names)
            types, aligned, constants = {}, [], {}
            for name, value in values.items():
                if isinstance(value, torch.Tensor):
                    types[name] = _TYPES[value.dtype]
                    aligned.append(name)
                elif value is None or value == 1 or (name.isupper() and len(name) > 1):
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
            self.launches.setdefault(key, set()).add(grid)

        return launch


@contextmanager
def noted_launches() -> Iterator[dict[Launch, set[tuple[int, ...]]]]:
    """No kernel runs inside, also on the meta device; the dictionary gets each launch, with its grids."""
    found: dict[Launch, set[tuple[int, ...]]] = {}
    with ExitStack() as patches:
        patches.enter_context(patch.object(torch, "autocast", lambda *_, **__: nullcontext()))  # meta has none
        for module, names in KERNELS.items():
            for name in names:
                patches.enter_context(patch.object(module, name, _Noted(module, name, found)))
        yield found


def step(dtype: torch.dtype) -> None:
    """conv1, a module that projects and one that does not, of the narrowest and the widest stage, on the meta device.

    Forward and backward, of 32 clips of the paper's size.
    """
    with torch.device("meta"):
        network = build_model("p3d-resnet50", modality="both")
        clips = {name: torch.empty(32, 3, 32, 112, 112) for name in ("rgb", "residual")}
    conv1.conv1(network.conv1, clips, dtype).float().sum().backward()
    for module, shape in ((network.res2[1], (32, 64, 32, 56, 56)), (network.res5[0], (32, 256, 32, 14, 14))):
        assert isinstance(module, Bottleneck)
        x = torch.empty(shape, dtype=dtype, device="meta").to(memory_format=torch.channels_last_3d).requires_grad_()
        bottleneck(module, x).float().sum().backward()


@dataclass(frozen=True)
class Resources:
    """What a program of a compiled kernel needs."""

    threads: int
    registers: int
    """Of a thread."""
    spilled_bytes: int
    """Of a thread: its part of local memory, where what has no register goes."""
    shared_bytes: int

    @classmethod
    def of(cls, compiled: Any) -> "Resources":
        """Read from the machine code."""
        with tempfile.TemporaryDirectory() as folder:
            cubin = Path(folder) / "kernel.cubin"
            cubin.write_bytes(compiled.asm["cubin"])
            command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", cubin]
            usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        registers, stack = (int(re.findall(rf"{name}:(\d+)", usage)[-1]) for name in ("REG", "STACK"))
        return cls(32 * compiled.metadata.num_warps, registers, stack, compiled.metadata.shared)

    @property
    def programs(self) -> int:
        """That a processor (SM) of an H100 or H200 runs at a time.

        It has 65,536 registers, which a warp takes 256 at a time, 64 warps, and 228 KiB of shared memory, of which each
        program takes 1 KiB more.
        """
        warps = self.threads // 32
        by_registers = 65536 // (-(-self.registers * 32 // 256) * 256) // warps
        return min(by_registers, 64 // warps, 228 * 1024 // (self.shared_bytes + 1024), 32)


def main() -> None:
    """Print the table."""
    titles = "kernel", "threads", "registers", "spilled bytes", "shared KiB", "programs per SM", "occupancy"
    print("{:26}{:>9}{:>11}{:>15}{:>12}{:>17}{:>11}".format(*titles))
    with noted_launches() as launches:
        step(torch.bfloat16)
    for launch in launches:
        need = Resources.of(launch.compile())
        occupancy = need.programs * need.threads / 2048
        print(
            f"{launch.kernel.strip('_'):26}{need.threads:9}{need.registers:11}{need.spilled_bytes:15}"
            f"{need.shared_bytes / 1024:12.1f}{need.programs:17}{occupancy:11.0%}"
        )


if __name__ == "__main__":
    main()
