import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import resact
from resact.cli import app
from resact.errors import UsageError
from resact.train.networks.cost import count_saved_bytes, saved_storages
from resact.train.networks.models import build_model
from resact.train.networks.modules import use_form
from resact.train.networks.variants import PAPER_VARIANTS


def meta_model(*args, **options):
    with torch.device("meta"):
        return build_model(*args, **options)


def test_exact_cost_is_locked():
    cost = resact.count_cost(meta_model())
    assert (cost.multiply_adds, cost.parameters) == (30_008_989_696, 17_725_221)


def by_hand(*, streams, stem, conv, attention, feature_residual, network, classes, depths, width, frames, size):
    """Table 1 added up layer by layer: (multiply-adds, parameters)."""
    dense3d = network == "3d-resnet50"
    halve = lambda n: (n + 1) // 2  # noqa: E731
    size = halve(size)
    layers = []  # (weights, positions, has a norm of this many channels)
    for _ in range(streams):
        layers.append((3 * 49 * stem, frames * size * size, 0))
        layers.append((3 * stem * (stem if conv == "dense" else 1), frames * size * size, stem))
    channels, linear = streams * stem, []
    for stage, (base, depth) in enumerate(zip((64, 128, 256, 512), depths, strict=True)):
        c = round(base * width)
        for position in range(depth):
            strided = stage > 0 and position == 0
            size = halve(size) if strided else size
            v = frames * size * size
            layers.append((channels * c, v, c))
            if dense3d:
                layers.append((27 * c * c, v, c))
                features = 1
            else:
                across = c if conv == "dense" else 1
                layers += [(9 * c * across, v, c), (3 * c * across, v, c)]
                features = 3 if feature_residual else 2
                if attention:
                    linear.append((features * c, features * c))
            layers.append((features * c * c, v, c))
            if strided or channels != c:
                layers.append((channels * c, v, c))
            channels = c
    hidden = round(2048 * width)
    linear += [(channels, hidden), (hidden, classes)]
    multiply_adds = sum(weights * v for weights, v, _ in layers) + sum(a * b for a, b in linear)
    parameters = sum(weights + 2 * norm for weights, _, norm in layers) + sum((a + 1) * b for a, b in linear)
    return multiply_adds, parameters


@given(
    modality=st.sampled_from(["rgb", "residual", "both"]),
    stem=st.integers(1, 80),
    module=st.one_of(
        st.fixed_dictionaries(
            {
                "network": st.just("p3d-resnet50"),
                "conv": st.sampled_from(["separable", "dense"]),
                "attention": st.booleans(),
                "feature_residual": st.booleans(),
            }
        ),
        st.just({"network": "3d-resnet50", "conv": "dense", "attention": False, "feature_residual": False}),
    ),
    classes=st.integers(1, 500),
    width=st.sampled_from([0.125, 0.5, 1.0, 2.0]),
    depths=st.tuples(*[st.integers(1, 3)] * 4),
    frames=st.integers(1, 40),
    size=st.integers(1, 230),
)
@settings(max_examples=15)
def test_cost_equals_the_layers_added_up(modality, stem, module, classes, width, depths, frames, size):
    model = meta_model(**module, modality=modality, stem_channels=stem, num_classes=classes, width=width, depths=depths)
    cost = resact.count_cost(model, frames=frames, size=size)
    right = by_hand(
        streams=2 if modality == "both" else 1,
        stem=stem,
        classes=classes,
        width=width,
        depths=depths,
        frames=frames,
        size=size,
        **module,
    )
    assert (cost.multiply_adds, cost.parameters) == right


def test_any_size_and_no_memory():
    model = build_model(width=1 / 8)
    # One activation of conv1 alone would take 1 TB.
    large = resact.count_cost(model, frames=1024, size=8192)
    assert large.parameters == resact.count_cost(model, frames=1, size=1).parameters
    assert large.multiply_adds > 1e14


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_model_alone(training):
    model = build_model(width=1 / 16, depths=(1, 1, 1, 1)).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    resact.count_cost(model)
    assert model.training == training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(tensor.device.type == "cpu" for tensor in model.state_dict().values())


def test_saved_bytes_are_those_of_a_real_step():
    model = build_model(width=1 / 8, depths=(1, 1, 1, 1))
    use_form(model, "folded")  # as on a CPU
    with saved_storages() as kept:
        model(**{name: torch.zeros(3, 3, 4, 24, 24) for name in ("rgb", "residual")})
    real = sum(storage.nbytes() for storage in kept.values())
    assert count_saved_bytes(model, batch=3, frames=4, size=24) == pytest.approx(real, rel=0.05)


@pytest.mark.parametrize("view", [{"frames": 0}, {"size": -1}, {"size": 1.5}])
def test_wrong_view_is_a_usage_error(view):
    with pytest.raises(UsageError, match=r"(frames|size) got .*, expected a whole number above 0"):
        resact.count_cost(meta_model(width=1 / 16), **view)


@pytest.fixture(scope="module")
def result():
    return CliRunner(env={"COLUMNS": "80"}).invoke(app, ["cost", "--json"])


@pytest.fixture(scope="module")
def rows(result):
    return json.loads(result.stdout.splitlines()[-1])["rows"]


def test_rows_hold_every_variant_beside_the_paper(rows):
    keys = ["network", "modality", "conv", "attention", "feature_residual", "stem_channels"]
    assert all(list(row) == [*keys, "multiply_adds", "parameters", "paper_g"] for row in rows)
    assert len({tuple(row[key] for key in keys) for row in rows}) == len(rows) == 12
    shown = {tuple(row[key] for key in keys): (row["multiply_adds"] / 1e9, row["paper_g"]) for row in rows}
    locked = {  # 10^9 multiply-adds of 32x112x112, the paper's beside them, in the order of its tables
        ("p3d-resnet50", "rgb", "separable", True, True, 128): (30.01, 28),
        ("p3d-resnet50", "residual", "separable", True, True, 128): (30.01, 28),
        ("3d-resnet50", "both", "dense", False, False, 64): (196.31, 163),
        ("p3d-resnet50", "both", "separable", True, True, 64): (30.01, 30),
        ("p3d-resnet50", "both", "separable", False, False, 64): (23.42, None),
        ("p3d-resnet50", "both", "separable", False, True, 64): (30.00, None),
        ("p3d-resnet50", "both", "separable", True, False, 64): (23.43, None),
        ("p3d-resnet50", "rgb", "separable", True, True, 64): (27.81, 28),
        ("p3d-resnet50", "residual", "separable", True, True, 64): (27.81, 28),
        ("p3d-resnet50", "rgb", "dense", True, True, 128): (113.29, 28),
        ("p3d-resnet50", "residual", "dense", True, True, 128): (113.29, 28),
        ("p3d-resnet50", "both", "dense", True, True, 64): (110.83, 30),
    }
    assert {key: (round(billions, 2), paper) for key, (billions, paper) in shown.items()} == locked
    assert list(shown) == list(locked)


def test_command_prints_json_alone_to_standard_output(result):
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 1


def test_command_prints_a_table_that_fits_a_terminal(result):
    assert "multiply-adds of one 32x112x112 view (FLOPs are twice that)" in result.stderr
    rows = [line.split() for line in result.stderr.splitlines()]
    assert ["p3d-resnet50", "both", "separable", "yes", "yes", "64", "30.01", "30", "17.73"] in rows
    assert ["p3d-resnet50", "both", "separable", "no", "yes", "64", "30.00", "-", "6.40"] in rows
    assert "…" not in result.stderr


def test_command_takes_frames_and_size(monkeypatch):
    monkeypatch.setattr("resact.train.networks.cost.PAPER_VARIANTS", PAPER_VARIANTS[:1])
    monkeypatch.setattr("resact.train.networks.cost.OTHER_READINGS", ())
    result = CliRunner().invoke(app, ["cost", "--frames", "8", "--size", "64"])
    assert "multiply-adds of one 8x64x64 view" in result.stdout
    billions = resact.count_cost(meta_model(modality="rgb"), frames=8, size=64).multiply_adds / 1e9
    assert f" {billions:.2f} " in result.stdout


def test_command_refuses_a_wrong_size():
    result = CliRunner().invoke(app, ["cost", "--size", "0"])
    assert isinstance(result.exception, UsageError)
