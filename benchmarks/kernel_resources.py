"""Registers, spills and occupancy of the fused kernels, compiled for an H100 or H200; it needs no GPU.

`python benchmarks/kernel_resources.py` prints them for a step of 32 clips of the paper's network. The step runs on the
meta device, where Triton compiles each kernel as it is launched, and none runs.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from resact.train.networks.fused.bottleneck import bottleneck
from resact.train.networks.fused.conv1 import conv1
from resact.train.networks.models import build_model
from resact.train.networks.modules import Bottleneck

H100 = GPUTarget("cuda", 90, 32)
SHARED_BYTES = 227 * 1024
"""That a program may have there."""


class _H100Driver:
    """All that Triton asks of a driver before it launches a kernel."""

    def get_current_target(self) -> GPUTarget:
        return H100

    def get_current_device(self) -> GPUTarget:
        return H100  # under which Triton keeps what it has compiled

    def get_current_stream(self, _: Any) -> int:
        return 0


@contextmanager
def launches_as(launch: Callable[..., Any]) -> Iterator[None]:
    """Inside, no kernel runs, also on the meta device: `launch(kernel, *args, grid=..., **options)` is called."""
    with (
        patch.object(torch, "autocast", lambda *_, **__: nullcontext()),  # meta has none
        patch.object(JITFunction, "run", launch),
    ):
        yield


def compiled_kernels(dtype: torch.dtype) -> list[Any]:
    """The kernels of a training step, as Triton compiles them for how they are launched."""
    compile_as_launched, found = JITFunction.run, {}

    def launch(kernel: JITFunction[Any], *args: Any, grid: tuple[int, ...], **options: Any) -> None:
        assert all(0 < extent < 2**31 for extent in grid)
        assert all(extent < 2**16 for extent in grid[1:])  # CUDA's limit for all but the first
        compiled = compile_as_launched(kernel, *args, grid=grid, **options | {"warmup": True})
        found[compiled.hash] = compiled

    with patch.object(type(driver), "active", _H100Driver()), launches_as(launch):
        step(dtype)
    return list(found.values())


def step(dtype: torch.dtype) -> None:
    """conv1, a module that projects and one that does not, of the narrowest and the widest stage, on the meta device.

    Forward and backward, of 32 clips of the paper's size.
    """
    with torch.device("meta"):
        network = build_model("p3d-resnet50", modality="both")
        clips = {name: torch.empty(32, 3, 32, 112, 112) for name in ("rgb", "residual")}
    conv1(network.conv1, clips, dtype).float().sum().backward()
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
    for kernel in compiled_kernels(torch.bfloat16):
        need = Resources.of(kernel)
        occupancy = need.programs * need.threads / 2048
        print(
            f"{kernel.name.strip('_'):26}{need.threads:9}{need.registers:11}{need.spilled_bytes:15}"
            f"{need.shared_bytes / 1024:12.1f}{need.programs:17}{occupancy:11.0%}"
        )


if __name__ == "__main__":
    main()
