"""Each fused kernel becomes machine code for an H100, which needs no GPU, and asks for no more than one has.

The interpreter lets much pass that the compiler does not. What is compiled is what a training step of the paper's
network launches.
"""

import math

import pytest
import torch
from benchmarks.kernel_resources import SHARED_BYTES, Resources, compiled_kernels, launches_as
from tests.conftest import GAUNTLET

from resact.train.networks.cost import saved_storages
from resact.train.networks.fused.bottleneck import bottleneck
from resact.train.networks.fused.conv1 import conv1
from resact.train.networks.models import build_model


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float32, marks=pytest.mark.skipif(not GAUNTLET, reason="long"))]
)
def test_the_networks_kernels_compile(dtype, monkeypatch, tmp_path):
    """Those of conv1, of a module that projects and of one that does not, of the narrowest and the widest stage."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels = compiled_kernels(dtype)
    assert {kernel.name for kernel in kernels} == {
        "_stencil_forward", "_stencil_backward", "_residual_add_forward", "_residual_add_backward", "_norm_moments",
        "_norm_raw_gradient", "_norm_statistics", "_norm_gradients", "_conv1_forward", "_conv1_backward",
    }  # fmt: skip
    for kernel in kernels:
        need = Resources.of(kernel)
        assert need.shared_bytes <= SHARED_BYTES, kernel.metadata
        assert need.programs >= 1, kernel.metadata
        assert need.spilled_bytes <= 16 or "conv1" in kernel.name, kernel.metadata


def test_programs_a_processor_runs():
    assert Resources(threads=128, registers=63, spilled_bytes=0, shared_bytes=0).programs == 8
    assert Resources(threads=256, registers=245, spilled_bytes=0, shared_bytes=0).programs == 1
    assert Resources(threads=128, registers=32, spilled_bytes=0, shared_bytes=100 * 1024).programs == 2
    assert Resources(threads=32, registers=16, spilled_bytes=0, shared_bytes=0).programs == 32


def test_what_a_step_keeps():
    """One clip of the paper's network at its own size."""
    with torch.device("meta"):
        network = build_model("p3d-resnet50", modality="both")
        clips = {name: torch.empty(1, 3, 32, 112, 112) for name in ("rgb", "residual")}
    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    with launches_as(lambda *_, **__: None), saved_storages() as kept:
        x = conv1(network.conv1, clips, torch.bfloat16)
        for stage in (network.res2, network.res3, network.res4, network.res5):
            for module in stage:
                x = bottleneck(module, x)
    mebibytes = sum(storage.nbytes() for key, storage in kept.items() if key not in weights) / 2**20
    positions = 32 * 56 * 56 * 64 * 2 / 2**20  # a tensor of res2, in bfloat16; each later stage's is half as large
    tensors = {"conv1": 4, "res2": 3 * 5 + 0, "res3": (4 * 5 + 1) / 2, "res4": (6 * 5 + 1) / 4, "res5": (3 * 5 + 1) / 8}
    assert math.isclose(mebibytes, positions * (sum(tensors.values()) + 1), rel_tol=0.03)
    assert mebibytes < 600
