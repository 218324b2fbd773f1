"""The fused kernels are the function that PyTorch's operations are; their error is no larger.

On the CPU they run in Triton's interpreter, in a process of its own since that is chosen before Triton is imported; on
a GPU where there is one. That they compile for one is tested here too, without one.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from unittest.mock import patch

import pytest
import torch
from tests.conftest import GAUNTLET
from tests.train.networks.fused_cases import Conv1Case, ModuleCase, errors
from torch import Tensor
from torch.nn import BatchNorm3d

from resact.errors import ToolError, UsageError
from resact.train.networks.kernel_probe import KernelParity, probe_kernels
from resact.train.networks.kernels import fused_obstacle
from resact.train.networks.models import build_model
from resact.train.networks.parts import freeze

FLOAT32_ERROR = 1e-4
"""Of any output, gradient or statistic in float32; the largest seen was 1e-5."""

LONG_CLIPS_ERROR = 3e-3

TINY = {"width": 1 / 16, "depths": (1, 1, 1, 1), "dropout": 0, "zero_init": False}

LONG = pytest.mark.skipif(not (GAUNTLET or torch.cuda.is_available()), reason="long, but on a GPU")

NETWORK_MODULES = [
    # channels in and out, height and width in, stride: the distinct modules of table 1
    (128, 64, 56, 1),
    (64, 64, 56, 1),
    pytest.param(64, 128, 56, 2, marks=LONG),
    pytest.param(128, 128, 28, 1, marks=LONG),
    pytest.param(128, 256, 28, 2, marks=LONG),
    pytest.param(256, 256, 14, 1, marks=LONG),
    (256, 512, 14, 2),
    (512, 512, 7, 1),
]


def assert_right(place, case, seed: int) -> None:
    """In float32. In one draw in ten, either may round a value across a ReLU's zero, which moves many gradients: so
    these need be right in one of three draws, all else in each. Of clips as long as the network's, some value always
    is rounded so (on an H100, eager's gradients were off by 1.2e-3): as near as eager's is right for their gradients,
    up to `LONG_CLIPS_ERROR`."""
    long_clips = case.shape_BTHW[1] >= 32
    for draw in range(3):
        found = place(errors, case, torch.float32, place.device, seed + draw)
        assert any("num_batches" in name for name in found), "statistics are among what is compared"
        wrong = {}
        for name, (fused, eager) in found.items():
            as_eager = min(eager, LONG_CLIPS_ERROR) if long_clips and name.startswith("gradient of") else 0.0
            if not fused <= max(FLOAT32_ERROR, as_eager):
                wrong[name] = fused, eager
        assert all(name.startswith("gradient of") for name in wrong), wrong
        if not wrong:
            return
    pytest.fail(f"wrong in each draw: {wrong}")


def assert_right_in_bfloat16(place, case, seed: int) -> None:
    """As near as PyTorch's in the median of three draws: in one, either may round a value across a ReLU's zero."""
    case = replace(case, large_blocks=True)
    draws = [place(errors, case, torch.bfloat16, place.device, seed + draw) for draw in range(3)]
    for name in draws[0]:
        fused, eager = (median(draw[name][which] for draw in draws) for which in (0, 1))
        allowed = 1.25 * eager + 1e-3 if name == "output" else 2 * eager + 0.05
        assert fused <= allowed, f"{name}: {fused:.2e}, eager {eager:.2e}"


@pytest.mark.parametrize(("in_channels", "channels", "side", "stride"), NETWORK_MODULES)
def test_each_module_of_the_network(place, in_channels, channels, side, stride, seed):
    shape = (1, 32 if GAUNTLET or place.device == "cuda" else 2, side, side)
    case = ModuleCase(in_channels=in_channels, channels=channels, shape_BTHW=shape, stride=stride, large_blocks=True)
    assert_right(place, case, seed)


AWKWARD_MODULES = {
    "one frame": ModuleCase(in_channels=16, channels=24, shape_BTHW=(3, 1, 5, 6)),
    "one pixel": ModuleCase(in_channels=8, channels=16, shape_BTHW=(4, 3, 1, 1)),
    "odd sizes": ModuleCase(in_channels=20, channels=20, shape_BTHW=(2, 3, 7, 9)),
    "odd sizes, stride": ModuleCase(in_channels=20, channels=37, shape_BTHW=(2, 3, 9, 7), stride=2),
    "few channels": ModuleCase(in_channels=3, channels=5, shape_BTHW=(2, 4, 4, 11)),
    "more channels than a block": ModuleCase(in_channels=40, channels=72, shape_BTHW=(1, 2, 3, 5)),
    "parts of larger tensors": ModuleCase(in_channels=20, channels=20, shape_BTHW=(2, 3, 5, 4), strided=True),
    "weights with channels last": ModuleCase(
        in_channels=16, channels=20, shape_BTHW=(2, 3, 5, 4), memory_format=torch.channels_last_3d
    ),
    "no attention": ModuleCase(in_channels=16, channels=16, shape_BTHW=(2, 3, 4, 5), attention=False),
    "no feature residual": ModuleCase(in_channels=16, channels=16, shape_BTHW=(2, 3, 4, 5), feature_residual=False),
    "neither": ModuleCase(
        in_channels=16, channels=20, shape_BTHW=(2, 3, 4, 5), attention=False, feature_residual=False
    ),
    "running statistics": ModuleCase(in_channels=16, channels=20, shape_BTHW=(2, 3, 6, 5), stride=2, training=False),
    "far from zero": ModuleCase(in_channels=16, channels=20, shape_BTHW=(2, 3, 4, 5), bias=8),
}


@pytest.mark.parametrize("case", AWKWARD_MODULES.values(), ids=AWKWARD_MODULES)
def test_awkward_modules(place, case, seed):
    assert_right(place, case, seed)


@pytest.mark.parametrize("name", ["odd sizes, stride", "far from zero", pytest.param("running statistics", marks=LONG)])
def test_modules_in_bfloat16(place, name, seed):
    case = replace(AWKWARD_MODULES[name], shape_BTHW=(2, 2, 15, 31))  # large: then such values are many in each draw
    assert_right_in_bfloat16(place, case, seed)


CONV1 = {
    "of the network": Conv1Case(
        streams=("rgb", "residual"), channels=64, shape_BTHW=(1, 2, 112, 112), large_blocks=True
    ),
    "one stream": Conv1Case(streams=("residual",), channels=128, shape_BTHW=(1, 3, 16, 18)),
    "odd sizes": Conv1Case(streams=("rgb", "residual"), channels=20, shape_BTHW=(2, 3, 13, 9)),
    "one frame": Conv1Case(streams=("rgb",), channels=5, shape_BTHW=(3, 1, 7, 4)),
    "parts of larger tensors": Conv1Case(
        streams=("rgb", "residual"), channels=16, shape_BTHW=(2, 4, 10, 12), strided=True
    ),
    "weights with channels last": Conv1Case(
        streams=("rgb", "residual"), channels=16, shape_BTHW=(2, 3, 8, 10), memory_format=torch.channels_last_3d
    ),
    "running statistics": Conv1Case(streams=("rgb",), channels=16, shape_BTHW=(2, 3, 8, 8), training=False),
}


@pytest.mark.parametrize("case", CONV1.values(), ids=CONV1)
def test_conv1(place, case, seed):
    assert_right(place, case, seed)


def test_conv1_in_bfloat16(place, seed):
    # One stream: each has a launch of its own.
    case = replace(CONV1["odd sizes"], streams=("rgb",), shape_BTHW=(2, 4, 31, 33))
    assert_right_in_bfloat16(place, case, seed)


# Whole networks


def whole_network(case: dict, dtype: torch.dtype, device: str, seed: int) -> KernelParity:
    architecture = build_model(num_classes=5, width=1 / 16, depths=(1, 1, 1, 1), **case).architecture
    device = torch.device(device)
    last = torch.channels_last_3d
    return probe_kernels(architecture, device=device, dtype=dtype, frames=2, size=10, memory_format=last, seed=seed)


@pytest.mark.parametrize(
    "case", [{"modality": "both"}, {"modality": "rgb", "attention": False, "feature_residual": False}], ids=str
)
def test_the_probe_finds_whole_networks_right(place, case, seed):
    parity = place(whole_network, case, torch.float32, place.device, seed)
    assert parity.right, str(parity)
    assert 0 < parity.fused < 1e-2


def wrong_network(case: dict, dtype: torch.dtype, device: str, seed: int) -> KernelParity:
    """The scale of norms of 32 channels is off, by a tenth in float32."""
    from resact.train.networks.fused import norm

    right, factor = norm.forward, 1.1 if dtype == torch.float32 else 2.0

    def wrong(module: BatchNorm3d, *args: object) -> Tensor:
        return right(module, *args) * (factor if module.num_features == 32 else 1)

    with patch.object(norm, "forward", wrong):
        return whole_network(case, dtype, device, seed)


def failing_network(case: dict, dtype: torch.dtype, device: str, seed: int) -> KernelParity:
    from triton.runtime.errors import OutOfResources

    from resact.train.networks.fused import norm

    with patch.object(norm, "forward", side_effect=OutOfResources(300_000, 232_448, "shared memory")):
        return whole_network(case, dtype, device, seed)


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=LONG), torch.bfloat16])
def test_the_probe_finds_a_wrong_kernel(place, dtype, seed):
    parity = place(wrong_network, {"modality": "rgb"}, dtype, place.device, seed)
    assert not parity.right
    assert f"fused kernels wrong in {str(dtype)[6:]}: res5.0's " in str(parity)


def test_the_probe_says_what_fails(place, seed):
    with pytest.raises(ToolError, match=r"the fused kernels fail: OutOfResources: .*shared memory"):
        place(failing_network, {"modality": "both"}, torch.float32, place.device, seed)


def test_not_a_number_is_wrong():
    assert not KernelParity(float("nan"), 1.0, torch.bfloat16, "").right
    assert not KernelParity(1.0, float("nan"), torch.bfloat16, "").right


def behaviours(device: str, seed: int) -> dict[str, object]:
    """What a network with fused kernels does besides being right."""
    torch.manual_seed(seed)
    network = build_model(modality="rgb", num_classes=3, stem_channels=5, **TINY)
    network.to(device, memory_format=torch.channels_last_3d)
    eager = copy.deepcopy(network)
    network.use_kernels("fused")
    clip = torch.randn(2, 3, 2, 10, 10, device=device)
    found: dict[str, object] = {"copied": copy.deepcopy(network).kernels}
    with torch.no_grad():
        broken = clip.clone()
        broken[0, 0, 0, 6, 6] = float("nan")
        logits, right = network.eval()(rgb=broken), eager.eval()(rgb=clip)
        found["inference"] = (logits - right)[1].abs().max().item()
        found["spread"] = logits.isnan().any(1).tolist()

    def refused(error: type[Exception], call: Callable[[], object]) -> str:
        with pytest.raises(error) as raised:
            call()
        return str(raised.value)

    network.train()
    found["clip's gradient"] = refused(UsageError, lambda: network(rgb=clip.clone().requires_grad_()))
    found["double"] = refused(UsageError, lambda: copy.deepcopy(network).double()(rgb=clip.double()))
    found["one value"] = refused(UsageError, lambda: network(rgb=torch.randn(1, 3, 1, 2, 2, device=device)))
    of_top = []
    for one in (network, eager):
        loss = one.train()(rgb=clip).square().sum()
        one.eval()  # which is too late to change the gradient
        of_top += torch.autograd.grad(loss, one.res5[0].top.conv.weight, create_graph=True)
    found["eval before backward"] = ((of_top[0] - of_top[1]).norm() / of_top[1].norm()).item()
    found["twice"] = refused(RuntimeError, of_top[0].sum().backward)
    return found


def test_behaviour(place, seed):
    found = place(behaviours, place.device, seed)
    assert found["copied"] == "fused"
    assert found["inference"] < 1e-4
    assert found["spread"] == [True, False]  # a NaN reaches the logits of its clip
    assert "rgb that requires a gradient" in found["clip's gradient"]
    assert "bfloat16 or float32, got torch.float64" in found["double"]
    assert "1 value a channel" in found["one value"]
    assert found["eval before backward"] < 0.01
    assert "once_differentiable" in found["twice"]


def frozen_in_part(device: str, seed: int) -> float:
    """The largest error of a gradient or a statistic, fused beside eager, where whole parts and single norms freeze."""
    torch.manual_seed(seed)
    eager = build_model(modality="rgb", num_classes=3, **TINY).to(device)
    freeze(eager, ["conv1", "res2", "res3.0.top.norm.*", "res4.0.bottom.norm"])
    fused = copy.deepcopy(eager)
    fused.use_kernels("fused")
    clip = torch.randn(2, 3, 2, 10, 10, device=device)
    for network in (eager, fused):
        network(rgb=clip).square().sum().backward()
    learned = [[p.grad for p in network.parameters() if p.grad is not None] for network in (eager, fused)]
    counted = [[b.float() for b in network.buffers()] for network in (eager, fused)]
    pairs = [*zip(*learned, strict=True), *zip(*counted, strict=True)]
    return max(((b - a).norm() / a.norm().clamp(min=1e-3)).item() for a, b in pairs)


def test_frozen_parts(place, seed):
    assert place(frozen_in_part, place.device, seed) < 0.01


def test_where_they_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    separable, dense = build_model(width=1 / 16), build_model(width=1 / 16, conv="dense")
    cuda = torch.device("cuda")
    assert fused_obstacle(separable.architecture, cuda) is None
    assert "dense" in fused_obstacle(dense.architecture, cuda)
    assert "--checkpoint-activations" in fused_obstacle(separable.architecture, cuda, checkpointed=True)
    with pytest.raises(UsageError, match="they run on CUDA, and the network is on cpu; choose eager ones"):
        separable.use_kernels("fused")
    assert separable.kernels == "eager"
    monkeypatch.setattr("resact.train.networks.kernels.find_spec", lambda _name: None)
    assert "pip install triton" in fused_obstacle(separable.architecture, cuda)
