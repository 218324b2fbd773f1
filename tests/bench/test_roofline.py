import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from resact.bench.rates import DeviceRates
from resact.bench.roofline import Work, list_work, print_roofline, roofline_rows, roofline_seconds
from resact.train.networks.cost import count_cost
from resact.train.networks.models import build_model


def meta_model(*args, **options):
    with torch.device("meta"):
        return build_model(*args, **options)


def rows_by_layer(model, **view):
    return {row["layer"]: row for row in roofline_rows(list_work(model, **view))}


# Two streams of 3 channels; res2 to res5 with 2, 4, 8, 16; one clip of 2x16x16, so 2x8x8 = 128 positions in res2, 32 in
# res3, 8, 2. A tensor of res2 has 2 * 2 * 128 = 512 bytes, one of res5 64. Weights: 4 bytes forward, 8 backward; norms
# 40 and 36 a channel.
TINY = {"num_classes": 5, "width": 1 / 32, "depths": (3, 1, 1, 1), "stem_channels": 3}
VIEW = {"batch": 1, "frames": 2, "size": 16}
BY_HAND = {  # forward, backward; the tensors first, then weights and norms, then numbers a clip
    # clip, raw; backward the gradient too. 450 weights.
    "conv1.rgb": (3072 + 768 + 1800 + 120, 3072 + 1536 + 3600 + 108),
    "conv1.rgb.add": (768, 0),
    # z; backward z, e, conv1's gradient, both raws
    "res2.0.bottom": (512 + 48 + 80, 1024 + 1536 + 1536 + 96 + 72),
    # p; backward p, g
    "res2.0.shortcut": (512 + 48 + 80, 1024 + 96 + 72),
    # z; backward g, t, z, e
    "res2.0.body": (512 + 96 + 160, 2048 + 192 + 144),
    # z, t; backward g, t, z
    "res2.0.top": (1024 + 48 + 80, 1536 + 96 + 72),
    # 6x6 weights and 6 biases; 4 and 6 numbers a channel
    "res2.0.attention": (168 + 96, 336 + 144),
    # t, p, from which the output is made again: nothing is written, and backward the next bottom has read them
    "res2.0.add": (1024, 0),
    # z; backward z, e, g before, t and p before, g
    "res2.1.bottom": (512 + 16 + 80, 3072 + 32 + 72),
    # t, t and p before, the output, which the next shortcut takes; backward t
    "res2.1.add": (2048, 512),
    # backward z, e, g and output before; of g the quarter that res3 reads
    "res2.2.bottom": (512 + 16 + 80, 2048 + 128 + 32 + 72),
    "res2.2.body": (512 + 96 + 160, 128 + 1536 + 192 + 144),
    "res2.2.top": (1024 + 48 + 80, 128 + 1024 + 96 + 72),
    # quarters of t and of the output before
    "res2.2.add": (256, 0),
    # z; backward z, e; quarters of g, t and of the output before that
    "res3.0.bottom": (256 + 32 + 160, 512 + 3 * 128 + 64 + 144),
    # No gradient is written after the last module: t and p give the output's mask.
    "res5.0.bottom": (64 + 512 + 640, 128 + 32 + 64 + 1024 + 576),
    "res5.0.shortcut": (64 + 512 + 640, 128 + 1024 + 576),
    "res5.0.body": (64 + 768 + 1280, 256 + 1536 + 1152),
    "res5.0.top": (128 + 3072 + 640, 192 + 6144 + 576),
    "res5.0.add": (128, 0),
    "pool": (64, 128 + 64),
    "fc1": (4352 + 320, 8704 + 384),
    "fc2": (1300 + 276, 2600 + 532),
}


def test_bytes_equal_those_worked_out_by_hand():
    rows = rows_by_layer(meta_model(**TINY), **VIEW)
    got = {layer: (row["forward_bytes"], row["backward_bytes"]) for layer, row in rows.items()}
    assert {layer: got[layer] for layer in BY_HAND} == BY_HAND
    assert got["conv1.residual"] == got["conv1.rgb"]
    assert got["optimiser"] == (0, 20 * sum(parameter.numel() for parameter in meta_model(**TINY).parameters()))


def test_multiply_adds_equal_those_worked_out_by_hand():
    rows = rows_by_layer(meta_model(**TINY), **VIEW)
    got = {layer: (row["forward_multiply_adds"], row["backward_multiply_adds"]) for layer, row in rows.items()}
    assert got["conv1.rgb"] == ((441 + 9) * 128, (441 + 2 * 9) * 128)
    assert got["res2.0.bottom"] == got["res2.0.shortcut"] == (6 * 2 * 128, 2 * 6 * 2 * 128)
    assert got["res2.0.body"] == ((9 + 3) * 2 * 128, 2 * (9 + 3) * 2 * 128)
    assert got["res2.0.top"] == (6 * 2 * 128, 2 * 6 * 2 * 128)
    assert got["res2.0.attention"] == (36, 72)
    assert got["fc1"] == (16 * 64, 2 * 16 * 64)
    assert got["optimiser"] == got["pool"] == got["res2.0.add"] == (0, 0)


@pytest.mark.parametrize(
    ("options", "tensors"),  # of 512 bytes, forward and backward
    [
        # fs and fm are written, and read in their place: fs, fm, z; fs, fm, t
        ({"conv": "dense"}, {"body": (3, 1 + 1 + 2 + 1 + 1), "top": (3, 1 + 1 + 2)}),
        # f, z; f, t. Backward the top writes d, its gradient through the ReLU, and the body reads d, f, z and writes e.
        ({"network": "3d-resnet50"}, {"body": (2, 4), "top": (2, 1 + 1 + 1 + 1)}),
        ({"attention": False}, {"body": (1, 4), "top": (2, 3)}),
        ({"feature_residual": False}, {"body": (1, 4), "top": (2, 3)}),
    ],
    ids=str,
)
def test_dense_results_are_written_and_separable_ones_recomputed(options, tensors):
    model = meta_model(**TINY, **options)
    one, two = (rows_by_layer(model, **VIEW | {"batch": batch}) for batch in (1, 2))
    for layer, (forward, backward) in tensors.items():  # weights cancel out
        before, after = one[f"res2.0.{layer}"], two[f"res2.0.{layer}"]
        assert after["forward_bytes"] - before["forward_bytes"] == 512 * forward
        assert after["backward_bytes"] - before["backward_bytes"] == 512 * backward
    assert ("res2.0.attention" in one) == model.architecture.attention


def test_a_dense_conv1_keeps_both_of_its_results():
    models = meta_model(**TINY), meta_model(**TINY, conv="dense")
    separable, dense = (rows_by_layer(model, **VIEW)["conv1.rgb"] for model in models)
    weights = 3 * 3 * 3 - 3 * 3
    assert dense["forward_bytes"] - separable["forward_bytes"] == 768 + 4 * weights
    assert dense["backward_bytes"] - separable["backward_bytes"] == 768 + 8 * weights


@pytest.mark.parametrize("module", ["res2.1", "res3.2", "res4.3"])
def test_an_identity_module_between_others_takes_twenty_tensors(module):
    model = meta_model(depths=(4, 5, 6, 3))
    work = [list_work(model, batch=batch) for batch in (1, 2)]
    one, two = (sum(piece.bytes for piece in pieces if piece.layer.startswith(module)) for pieces in work)
    stage = int(module[3]) - 2
    tensor = 2 * (64 * 2**stage) * 32 * (56 // 2**stage) ** 2
    # Before res2.1 a module is projected, and its output not written: its two parts are read instead, twice.
    assert (two - one) / tensor == pytest.approx(22 if module == "res2.1" else 20, rel=0.01)


NETWORKS = [
    {},
    {"modality": "rgb"},
    {"attention": False, "feature_residual": False},
    {"conv": "dense"},
    {"network": "3d-resnet50"},
]


@pytest.mark.parametrize("options", NETWORKS, ids=str)
@given(
    stem=st.integers(1, 9),
    width=st.sampled_from([1 / 64, 1 / 16, 1.0]),
    depths=st.tuples(*[st.integers(1, 3)] * 4),
    frames=st.integers(1, 9),
    size=st.integers(1, 50),
    batch=st.integers(1, 40),
)
@settings(max_examples=3)
def test_any_network_at_any_size(options, stem, width, depths, frames, size, batch):
    model = meta_model(**options, stem_channels=stem, width=width, depths=depths)
    clip = {"frames": frames, "size": size}
    work = {number: list_work(model, batch=number, **clip) for number in (batch, 1, 2, 3)}
    forward, backward = (
        sum(piece.multiply_adds for piece in work[batch] if piece.direction == direction)
        for direction in ("forward", "backward")
    )
    assert forward == batch * count_cost(model, **clip).multiply_adds
    conv1 = len(model.conv1) * batch * 3 * 49 * stem * frames * math.ceil(size / 2) ** 2
    assert backward == 2 * forward - conv1  # the clips need no gradient
    # Weights move once a batch, everything else with each clip.
    one, two, three = (sum(piece.bytes for piece in work[number]) for number in (1, 2, 3))
    assert three - two == two - one > 0
    assert all(piece.bytes >= 0 for piece in work[batch])


def test_the_papers_network_moves_less_than_two_gigabytes_a_clip():
    work = list_work(meta_model(), batch=32)
    assert 1.80e9 < sum(piece.bytes for piece in work) / 32 < 1.87e9  # the first estimate was "about 2 GB"
    # At 3 TB/s and 700 TFLOP/s, about what an H100 reaches.
    assert 0.55e-3 < sum(roofline_seconds(work, DeviceRates(3e12, 700e12))) / 32 < 0.7e-3


def test_a_sweep_takes_as_long_as_its_bytes_or_its_arithmetic():
    work = [
        Work("a", "forward", "into", bytes=100, multiply_adds=0),
        Work("b", "forward", "into", bytes=50, multiply_adds=100),
        Work("c", "forward", "c", bytes=10, multiply_adds=30),
        Work("b", "backward", "out of", bytes=0, multiply_adds=0),
    ]
    assert roofline_seconds(work, DeviceRates(bytes_per_second=10, flops_per_second=20)) == [10, 5, 3, 0]
    assert roofline_seconds(work, DeviceRates(bytes_per_second=10, flops_per_second=10)) == [0, 20, 6, 0]
    rows = roofline_rows(work, DeviceRates(bytes_per_second=10, flops_per_second=10))
    assert [(row["layer"], row["floor_milliseconds"]) for row in rows] == [("a", 0), ("b", 20_000), ("c", 6000)]
    assert (rows[1]["forward_bytes"], rows[1]["backward_bytes"], rows[1]["forward_multiply_adds"]) == (50, 0, 100)


def test_the_table_has_each_layer_and_the_totals_and_says_what_is_not_measured():
    console = Console(width=80, record=True, file=io.StringIO())
    work = list_work(meta_model(**TINY))
    print_roofline(console, roofline_rows(work), title="least")
    text = console.export_text()
    assert all(piece.layer in text for piece in work)
    assert "not measured" in text.splitlines()[-1]
    total = sum(piece.bytes for piece in work if piece.direction == "forward")
    assert f"{total / 1e6:,.1f}" in text.splitlines()[-1]
