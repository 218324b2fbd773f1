"""The ways in which a network is run in practice, each beside plain float32."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resact.train.networks.models import build_model
from resact.train.networks.modules import ChannelAttention, feature_residual, use_form

SMALL = {"num_classes": 5, "width": 1 / 8, "depths": (1, 2, 1, 1), "dropout": 0.0, "zero_init": False}
NETWORKS = [{}, {"conv": "dense"}, {"network": "3d-resnet50"}, {"modality": "residual", "attention": False}]
seeds = st.integers(0, 2**32 - 1)
every_network = pytest.mark.parametrize("options", NETWORKS, ids=str)


def clips_of(model, batch=4):
    return {name: torch.randn(batch, 3, 4, 24, 24) for name in model.architecture.streams}


def relative_error(got, right):
    return ((got.float() - right).norm() / right.norm()).item()


def logits_and_gradients(model, clips):
    logits = model(**clips)
    logits.float().square().sum().backward()
    gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    return logits.detach(), gradients


@every_network
@given(seed=seeds)
@settings(max_examples=3)
def test_bfloat16_autocast_agrees_with_float32(options, seed):
    torch.manual_seed(seed)
    model = build_model(**SMALL, **options)
    again, clips = copy.deepcopy(model), clips_of(model)
    logits, gradients = logits_and_gradients(model, clips)
    with torch.autocast("cpu", torch.bfloat16):
        logits_bf16, gradients_bf16 = logits_and_gradients(again, clips)
    assert logits_bf16.dtype == torch.bfloat16
    # Over 60 seeds: at most 0.042, and at least 0.937. Gradients turn at each ReLU and abs whose argument
    # bfloat16 moves across zero.
    assert relative_error(logits_bf16, logits) < 0.08
    assert torch.cosine_similarity(gradients_bf16, gradients, dim=0) > 0.88


@every_network
@given(seed=seeds)
@settings(max_examples=3)
def test_channels_last_agrees_with_contiguous(options, seed):
    torch.manual_seed(seed)
    model = build_model(**SMALL, **options)
    clips = clips_of(model)
    again = copy.deepcopy(model).to(memory_format=torch.channels_last_3d)
    logits, gradients = logits_and_gradients(model, clips)
    last = {name: clip.to(memory_format=torch.channels_last_3d) for name, clip in clips.items()}
    logits_last, gradients_last = logits_and_gradients(again, last)
    # Over 60 seeds: at most 2.2e-6 and 4.4e-3, the latter where an argument of ReLU or abs crosses zero.
    assert relative_error(logits_last, logits) < 1e-5
    assert relative_error(gradients_last, gradients) < 0.02


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=["NCDHW", "last"])
@pytest.mark.parametrize("form", ["folded", "shifted"])
@pytest.mark.parametrize("options", NETWORKS[:2], ids=str)
@given(seed=seeds)
@settings(max_examples=2)
def test_every_form_of_convolution_gives_the_same_network(options, form, layout, seed):
    torch.manual_seed(seed)
    model = build_model(**SMALL, **options).double().to(memory_format=layout)
    again = copy.deepcopy(model)
    # 27 is odd down to res5: 14, 7, 4, 2.
    clips = {name: torch.randn(3, 3, 3, 27, 21).double().to(memory_format=layout) for name in ("rgb", "residual")}
    use_form(again, form)
    use_form(model, "3d")
    (logits, gradients), (right, right_gradients) = (logits_and_gradients(m, clips) for m in (again, model))
    torch.testing.assert_close(logits, right)
    torch.testing.assert_close(gradients, right_gradients)


@pytest.mark.parametrize("form", ["3d", "folded", "shifted"])
def test_every_form_computes_in_bfloat16_under_autocast(form):
    model = build_model(**SMALL)
    use_form(model, form)
    seen = set()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_hook(lambda _, inputs, y: seen.add(y.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(**clips_of(model))
    assert seen == {torch.bfloat16}


@pytest.mark.parametrize("operation", [feature_residual, ChannelAttention(8)], ids=["residual", "attention"])
def test_channels_last_is_kept(operation):
    # The convolutions' own choice of format is the backend's: on a CPU 3x1x1 gives a contiguous result.
    f = torch.randn(2, 8, 3, 4, 5).to(memory_format=torch.channels_last_3d)
    assert operation(f).is_contiguous(memory_format=torch.channels_last_3d)


@every_network
def test_compiles_without_graph_breaks(options):
    depths = (1, 1, 1, 1) if options else SMALL["depths"]  # one with a second module in a stage will do
    model = build_model(**SMALL | {"depths": depths}, **options)
    again, clips = copy.deepcopy(model), clips_of(model)
    torch._dynamo.reset()
    again.compile(fullgraph=True, backend="aot_eager")
    (logits, gradients), (right, right_gradients) = (logits_and_gradients(m, clips) for m in (again, model))
    assert relative_error(logits, right) < 1e-5
    assert relative_error(gradients, right_gradients) < 0.02
    assert torch._dynamo.utils.counters["graph_break"] == {}


@every_network
def test_export_agrees_at_any_batch(options):
    model = build_model(**SMALL, **options).eval()
    clips = clips_of(model)
    batch = {name: {0: torch.export.Dim("batch", min=1)} for name in clips}
    exported = torch.export.export(model, (), clips, dynamic_shapes=batch).module()
    for size in (1, 4, 7):
        clips = clips_of(model, size)
        torch.testing.assert_close(exported(**clips), model(**clips))
