import math

import pytest
import torch
from torch.nn import functional

from resact.train.networks.models import build_model
from resact.train.networks.parity import network_convolutions, probe_parity

SMALL = {"num_classes": 5, "width": 1 / 8, "depths": (1, 1, 1, 1), "dropout": 0.0, "zero_init": False}


def probe(convolve=functional.conv3d, **options):
    model = build_model(**SMALL, **{"modality": "rgb"} | options)
    return probe_parity(model, device=torch.device("cpu"), batch=3, frames=8, size=24, convolve=convolve)


@pytest.mark.parametrize("options", [{}, {"conv": "dense"}, {"network": "3d-resnet50"}], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d], ids=str)
def test_this_cpu_is_right(options, memory_format):
    model = build_model(**SMALL, **options)
    report = probe_parity(model, device=torch.device("cpu"), batch=3, frames=8, size=24, memory_format=memory_format)
    assert (report.passed, report.fallback) == (True, "none")
    assert (report.device, report.torch_version, report.cudnn_version) == ("cpu", torch.__version__, None)
    assert {parity.precision for parity in report.convolutions} == {"bfloat16", "autocast"}
    for parity in report.convolutions:
        # bfloat16 rounds: an error of exactly zero would mean that nothing was compared.
        assert all(0 < error < report.tolerance for error in parity.errors.values())
        assert set(parity.errors) == {"output", "input_gradient", "weight_gradient"}
    assert "agree with float64 on cpu" in str(report)


def test_convolutions_are_those_of_the_paper_at_its_shapes():
    with torch.device("meta"):
        model = build_model()
    found = network_convolutions(model, batch=8, frames=32, size=112)
    by_name = {conv.name: conv for conv in found}
    # A shortcut equals its module's bottom convolution, and conv1's 3x1x1 equals res2's.
    assert len(found) == 1 + 5 + 3 * 5
    stem = by_name["conv1.rgb.spatial"]
    assert (stem.input_shape, stem.weight_shape) == ((8, 3, 32, 112, 112), (64, 3, 1, 7, 7))
    spatial = by_name["res3.0.body.spatial.conv"]
    assert (spatial.input_shape, spatial.weight_shape) == ((8, 128, 32, 28, 28), (128, 1, 1, 3, 3))
    assert (spatial.groups, spatial.stride, spatial.padding) == (128, (1, 1, 1), (0, 1, 1))


def only(broken, *, precise_enough=torch.float32):
    """A convolution that `broken` spoils wherever it works in less than `precise_enough`."""

    def convolve(x, weight, **options):
        y = functional.conv3d(x, weight, **options)
        return y if y.dtype == precise_enough else broken(y, x, weight, options)

    return convolve


def lost_channel(y, x, weight, options):
    mask = torch.ones(x.shape[1], dtype=x.dtype)
    mask[-1] = 0
    return functional.conv3d(x * mask[:, None, None, None], weight, **options)


def wrong_at_the_far_end(y, x, weight, options):
    mask = torch.ones_like(y)
    mask[-1, :, -1, -1, -1] = 0
    return y * mask


def wrong_weight_gradient(y, x, weight, options):
    return functional.conv3d(x, weight.detach() / 2 + weight / 2, **options)


def wrong_input_gradient(y, x, weight, options):
    return functional.conv3d(x.detach() / 2 + x / 2, weight, **options)


def not_a_number(y, x, weight, options):
    return y * math.nan


WRONG = {
    lost_channel: "output",
    wrong_at_the_far_end: "output",
    wrong_weight_gradient: "weight_gradient",
    wrong_input_gradient: "input_gradient",
    not_a_number: "output",
}


@pytest.mark.parametrize(("broken", "where"), WRONG.items(), ids=lambda value: getattr(value, "__name__", value))
def test_a_wrong_convolution_is_caught(broken, where):
    report = probe(only(broken))
    assert (report.passed, report.fallback) == (False, "float32")
    for parity in report.convolutions:
        assert parity.fallback == "float32"
        assert not parity.errors[where] <= report.tolerance
    assert "wrong bfloat16 convolutions on cpu" in str(report)
    assert "falling back to float32" in str(report)


def test_one_wrong_kind_is_named_alone():
    def convolve(x, weight, **options):
        y = functional.conv3d(x, weight, **options)
        separable_1x3x3 = weight.shape[1:] == (1, 1, 3, 3)
        return y * 1.5 if separable_1x3x3 and y.dtype == torch.bfloat16 else y

    report = probe(convolve)
    wrong = {parity.convolution.name for parity in report.convolutions if parity.fallback != "none"}
    assert wrong == {f"res{stage}.0.body.spatial.conv" for stage in (2, 3, 4, 5)}
    assert all(name in str(report) for name in wrong)
    assert "res2.0.body.temporal" not in str(report)


def test_a_fault_of_cudnn_falls_back_to_doing_without():
    def convolve(x, weight, **options):
        y = functional.conv3d(x, weight, **options)
        return y * 2 if torch.backends.cudnn.enabled else y

    report = probe(convolve)
    assert (report.passed, report.fallback) == (False, "without cudnn")
    assert torch.backends.cudnn.enabled


def test_a_device_that_is_always_wrong_is_given_up():
    report = probe(lambda x, weight, **options: functional.conv3d(x, weight, **options) * 2)
    assert (report.passed, report.fallback) == (False, "another device")


def test_model_is_left_alone():
    model = build_model(**SMALL)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    probe_parity(model, device="cpu", batch=2, frames=2, size=16)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
