"""Shapes: B batch, C channels, T frames, H height, W width."""

import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

import resact
from resact.errors import UsageError
from resact.train.networks.architecture import Architecture
from resact.train.networks.models import ActionNetwork, build_model
from resact.train.networks.modules import Bottleneck

SMALL = {"num_classes": 5, "width": 1 / 16, "depths": (1, 1, 1, 1), "dropout": 0.0, "zero_init": False}


def clips(*shape, **options):
    return {name: torch.randn(shape, **options) for name in ("rgb", "residual")}


def stage_shapes(model, **inputs):
    """Output shape of each named part, in the order in which they run."""
    shapes = {}
    parts = {f"conv1.{name}": stem for name, stem in model.conv1.items()}
    parts |= {name: getattr(model, name) for name in ("res2", "res3", "res4", "res5", "fc1", "fc2")}
    handles = []
    for name, part in parts.items():
        last = part[-1] if isinstance(part, nn.Sequential) else part
        hook = last.register_forward_hook
        handles.append(hook(lambda _m, _a, out, name=name: shapes.__setitem__(name, tuple(out.shape))))
    model(**inputs)
    return shapes


@pytest.mark.parametrize("network", ["p3d-resnet50", "3d-resnet50"])
def test_stages_are_those_of_table_1(network):
    with torch.device("meta"):
        model = build_model(network)
        shapes = stage_shapes(model, **clips(2, 3, 32, 112, 112))
    assert shapes == {
        "conv1.rgb": (2, 64, 32, 56, 56),
        "conv1.residual": (2, 64, 32, 56, 56),
        "res2": (2, 64, 32, 56, 56),
        "res3": (2, 128, 32, 28, 28),
        "res4": (2, 256, 32, 14, 14),
        "res5": (2, 512, 32, 7, 7),
        "fc1": (2, 2048),
        "fc2": (2, 101),
    }
    assert [len(stage) for stage in (model.res2, model.res3, model.res4, model.res5)] == [3, 4, 6, 3]


@pytest.mark.parametrize("modality", ["rgb", "residual"])
def test_one_modality_doubles_conv1(modality):
    with torch.device("meta"):
        shapes = stage_shapes(build_model(modality=modality), **{modality: torch.empty(2, 3, 32, 112, 112)})
    conv1 = {name: shape for name, shape in shapes.items() if name.startswith("conv1")}
    assert conv1 == {f"conv1.{modality}": (2, 128, 32, 56, 56)}


@pytest.mark.parametrize("shape", [(1, 3, 32, 112, 112), (2, 3, 1, 7, 7), (1, 3, 2, 1, 1), (3, 3, 5, 30, 17)])
def test_any_frames_height_and_width(shape):
    model = build_model(**SMALL).eval()
    logits = model(**clips(*shape))
    assert logits.shape == (shape[0], 5)
    assert logits.isfinite().all()


def test_width_and_depths_scale_the_network():
    model = build_model(width=1 / 8, depths=(1, 2, 1, 3), num_classes=7)
    stages = (model.res2, model.res3, model.res4, model.res5)
    assert [len(stage) for stage in stages] == [1, 2, 1, 3]
    assert [stage[-1].top.conv.out_channels for stage in stages] == [8, 16, 32, 64]
    assert (model.architecture.stem_channels, model.fc1.out_features, model.fc2.out_features) == (8, 256, 7)


def test_what_is_said_of_the_paper_is_the_default():
    said = {"modality": "both", "num_classes": 101, "conv": "separable", "attention": True, "feature_residual": True}
    model = resact.build_model("p3d-resnet50", **said, width=1 / 16)
    assert model.architecture == build_model(width=1 / 16).architecture


def test_dropout_acts_in_training_alone():
    model = build_model(**SMALL | {"dropout": 0.5})
    inputs = clips(2, 3, 2, 16, 16)
    assert not torch.equal(model(**inputs), model(**inputs))
    model.eval()
    assert torch.equal(model(**inputs), model(**inputs))


WRONG_OPTIONS = [
    ({"network": "resnet50"}, "got --network 'resnet50', expected p3d-resnet50, 3d-resnet50 or"),
    ({"modality": "flow"}, "got --modality 'flow', expected rgb or residual or both"),
    ({"conv": "depthwise"}, "got --conv 'depthwise', expected separable or dense"),
    ({"attention": 1}, "got --attention 1, expected true or false"),
    ({"feature_residual": "no"}, "got --feature-residual 'no'"),
    ({"zero_init": 0}, "got --zero-init 0"),
    ({"num_classes": 0}, "got --num-classes 0, expected a whole number from 1"),
    ({"num_classes": 2.0}, r"got --num-classes 2\.0"),
    ({"num_classes": None}, "without num_classes"),
    ({"stem_channels": -1}, "got --stem-channels -1"),
    ({"dropout": 1.0}, r"got --dropout 1\.0, expected a number of 0 or more and below 1"),
    ({"width": 0}, "got --width 0, expected a number above 0"),
    ({"width": float("nan")}, "got --width nan"),
    ({"depths": (1, 1, 1)}, "got --depths .*, expected 4 whole numbers"),
    ({"depths": (1, 1, 1, 0)}, "got --depths"),
    ({"depths": 3}, "got --depths 3"),
    ({"width": "2"}, "got --width '2', expected a number"),
    ({"network": "3d-resnet50", "attention": True}, "3d-resnet50 with .* --attention .* leave them out"),
    ({"network": "3d-resnet50", "feature_residual": True}, "3d-resnet50 with .* --feature-residual, expected"),
    ({"network": "3d-resnet50", "conv": "separable"}, "3d-resnet50 with --conv separable"),
    ({"widht": 2}, "got widht, expected options among network, network_settings, conv"),
]


@pytest.mark.parametrize(("options", "message"), WRONG_OPTIONS, ids=lambda value: str(value)[:40])
def test_wrong_option_is_a_usage_error(options, message):
    with pytest.raises(UsageError, match=message):
        build_model(**options)


CLIP = torch.zeros(1, 3, 2, 8, 8)
WRONG_CLIPS = [
    ("both", {}, "got no clip, expected rgb and residual"),
    ("both", {"rgb": CLIP}, r"got rgb, expected rgb and residual.*model\(rgb=\.\.\., residual=\.\.\.\)"),
    ("rgb", {"residual": CLIP}, "got residual, expected rgb"),
    ("rgb", {"rgb": CLIP, "residual": CLIP}, "got rgb and residual, expected rgb"),
    ("residual", {"rgb": CLIP}, "got rgb, expected residual"),
    ("rgb", {"rgb": CLIP[0]}, r"rgb= got shape \(3, 2, 8, 8\), expected \(B, 3, T, H, W\)"),
    ("rgb", {"rgb": CLIP.movedim(1, -1)}, "rgb= got shape"),
    ("rgb", {"rgb": CLIP[:, :, :0]}, "rgb= got shape"),
    ("both", {"rgb": CLIP, "residual": torch.zeros(1, 3, 3, 8, 8)}, "residual= got shape"),
    ("rgb", {"rgb": CLIP.byte()}, "rgb= got dtype torch.uint8, expected torch.float32"),
    ("rgb", {"rgb": CLIP.double()}, "rgb= got dtype torch.float64, expected torch.float32"),
]


@pytest.mark.parametrize(("modality", "inputs", "message"), WRONG_CLIPS)
def test_wrong_clip_is_a_usage_error(modality, inputs, message):
    model = build_model(**SMALL, modality=modality)
    with pytest.raises(UsageError, match=message):
        model(**inputs)


def test_uint8_is_refused_under_autocast_too():
    model = build_model(**SMALL, modality="rgb")
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(UsageError, match="expected floating point"):
        model(rgb=CLIP.byte())


@pytest.mark.parametrize("options", [{}, {"modality": "rgb"}, {"network": "3d-resnet50"}, {"zero_init": True}], ids=str)
def test_a_saved_architecture_builds_the_same_network(options):
    model = build_model(**SMALL | options).eval()
    saved = json.loads(json.dumps(asdict(model.architecture)))
    again = ActionNetwork(Architecture(**saved)).eval()
    assert again.architecture == model.architecture
    again.load_state_dict(model.state_dict())
    inputs = {name: torch.randn(2, 3, 2, 16, 16) for name in model.architecture.streams}
    assert torch.equal(again(**inputs), model(**inputs))


def test_weights_are_he_normal():
    torch.manual_seed(0)
    model = build_model()
    fans = {nn.Conv3d: [], nn.Linear: []}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv3d):
            assert module.bias is None
            fan_in = module.weight[0].numel()
            fans[nn.Conv3d].append(module.weight.std().item() * (fan_in / 2) ** 0.5)
        elif isinstance(module, nn.Linear):
            gain = 2**0.5 if name == "fc1" else 1.0
            fans[nn.Linear].append(module.weight.std().item() * module.in_features**0.5 / gain)
            assert (module.bias == 0).all()
    assert len(fans[nn.Conv3d]) == 4 + 16 * 4 + 4
    assert len(fans[nn.Linear]) == 16 + 2
    # A separable 3x1x1 has as few as 192 weights: the deviation itself is uncertain by 5 %.
    assert fans[nn.Conv3d] == pytest.approx([1] * len(fans[nn.Conv3d]), abs=0.25)
    assert fans[nn.Linear] == pytest.approx([1] * len(fans[nn.Linear]), abs=0.03)


def test_zero_init_starts_each_module_as_its_shortcut():
    x = torch.randn(2, 8, 3, 6, 6)
    for zero_init in (True, False):
        model = build_model(**SMALL | {"depths": (2, 2, 2, 2), "zero_init": zero_init}, stem_channels=4)
        for module in model.modules():
            if isinstance(module, Bottleneck):
                x = torch.randn(2, module.bottom.conv.in_channels, 3, 6, 6)
                is_shortcut = torch.equal(module(x), module.shortcut(x).relu())
                assert is_shortcut == zero_init
