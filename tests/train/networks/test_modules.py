"""Each equation beside its own float64 reference: taps and channels in plain sums, no torch layer.

Shapes: B batch, C channels, K concatenated channels, T frames, H height, W width.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck

from resact.errors import UsageError
from resact.train.networks.models import build_model
from resact.train.networks.modules import (
    Bottleneck,
    ChannelAttention,
    Dense3D,
    Pseudo3D,
    Stem,
    convolution,
    feature_residual,
    use_form,
)

seeds = st.integers(0, 2**32 - 1)
PLAIN = {"dropout": 0.0, "zero_init": False}
few = settings(max_examples=8)


def randn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shuffled(module, seed):
    """`module` in float64, every weight random, norms and biases too, so that none can hide behind 1 or 0."""
    module.double()
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, generator=generator)
    return module


def convolve(x, weight, stride=1):
    """Sum over the kernel's taps; a weight with one input channel is one filter a channel."""
    margins = [(size // 2, size // 2) for size in weight.shape[2:]]
    x_padded = torch.zeros(*x.shape[:2], *(n + 2 * m[0] for n, m in zip(x.shape[2:], margins, strict=True))).double()
    inner = tuple(slice(m[0], m[0] + n) for n, m in zip(x.shape[2:], margins, strict=True))
    x_padded[:, :, *inner] = x
    y = 0
    for dt, dy, dx in itertools.product(*map(range, weight.shape[2:])):
        frames, height, width = x.shape[2:]
        shifted = x_padded[:, :, dt : dt + frames, dy : dy + height : stride, dx : dx + width : stride]
        tap = weight[:, :, dt, dy, dx]
        if tap.shape[1] == 1 and x.shape[1] > 1:
            y = y + shifted * tap[None, :, 0, None, None, None]
        else:
            y = y + torch.stack([(shifted * row[None, :, None, None, None]).sum(1) for row in tap], dim=1)
    return y


def norm(x, state, name):
    """Batch norm with the batch's own statistics."""
    out = torch.empty_like(x)
    for c in range(x.shape[1]):
        values = x[:, c]
        mean = values.sum() / values.numel()
        variance = ((values - mean) ** 2).sum() / values.numel()
        scaled = (values - mean) / (variance + 1e-5) ** 0.5
        out[:, c] = scaled * state[f"{name}.weight"][c] + state[f"{name}.bias"][c]
    return out


def conv_norm(x, state, name, stride=1):
    return norm(convolve(x, state[f"{name}.conv.weight"], stride), state, f"{name}.norm")


def relu(x):
    return torch.where(x > 0, x, torch.zeros_like(x))


def stem(x, state, name):
    return relu(conv_norm(convolve(x, state[f"{name}.spatial.weight"], 2), state, f"{name}.temporal"))


def residual(motion):
    out = torch.zeros_like(motion)
    for t in range(motion.shape[2] - 1):
        out[:, :, t] = (motion[:, :, t + 1] - motion[:, :, t]).abs()
    return out


def attend(f, weight, bias):
    """M = sigmoid(W pool(f) + b), then f * M + f, channel by channel."""
    out = torch.empty_like(f)
    for b in range(f.shape[0]):
        pooled = [f[b, k].sum() / f[b, k].numel() for k in range(f.shape[1])]
        for k in range(f.shape[1]):
            z = sum(w * p for w, p in zip(weight[k], pooled, strict=True)) + bias[k]
            out[b, k] = f[b, k] * (1 / (1 + torch.exp(-z))) + f[b, k]
    return out


def pseudo3d(x, state, name, options):
    fs, fm = conv_norm(x, state, f"{name}.spatial"), conv_norm(x, state, f"{name}.temporal")
    f = torch.cat([fs, fm, residual(fm)] if options.get("feature_residual", True) else [fs, fm], dim=1)
    if not options.get("attention", True):
        return f
    return attend(f, state[f"{name}.attention.linear.weight"], state[f"{name}.attention.linear.bias"])


def bottleneck(x, state, name, options, stride):
    hidden = relu(conv_norm(x, state, f"{name}.bottom", stride))
    if options.get("network") == "3d-resnet50":
        hidden = relu(conv_norm(hidden, state, f"{name}.body.full"))
    else:
        hidden = pseudo3d(hidden, state, f"{name}.body", options)
    projected = f"{name}.shortcut.conv.weight" in state
    shortcut = conv_norm(x, state, f"{name}.shortcut", stride) if projected else x
    return relu(conv_norm(hidden, state, f"{name}.top") + shortcut)


def network(clips, state, options, depths):
    streams = [name for name in ("rgb", "residual") if name in clips]
    x = torch.cat([stem(clips[name], state, f"conv1.{name}") for name in streams], dim=1)
    for stage, depth in zip((2, 3, 4, 5), depths, strict=True):
        for i in range(depth):
            x = bottleneck(x, state, f"res{stage}.{i}", options, 2 if stage > 2 and i == 0 else 1)
    pooled = x.sum(dim=(2, 3, 4)) / x[0, 0].numel()
    hidden = relu(pooled @ state["fc1.weight"].T + state["fc1.bias"])
    return hidden @ state["fc2.weight"].T + state["fc2.bias"]


def close(got, right):
    torch.testing.assert_close(got, right, atol=1e-9, rtol=1e-9)


@given(seed=seeds)
@few
def test_attention_mask_and_f_times_m_plus_f(seed):
    attention, f = shuffled(ChannelAttention(6), seed), randn(2, 6, 3, 4, 5, seed=seed)
    mask = attention.mask(f)
    assert mask.shape == (2, 6)
    assert ((mask > 0) & (mask < 1)).all()
    close(attention(f), attend(f, attention.linear.weight, attention.linear.bias))


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("with_residual", [True, False])
@given(seed=seeds)
@few
def test_pseudo3d(separable, attention, with_residual, seed):
    options = {"attention": attention, "feature_residual": with_residual}
    body = shuffled(Pseudo3D(4, separable=separable, **options), seed)
    x = randn(2, 4, 3, 5, 4, seed=seed + 1)
    state = {f"body.{name}": tensor for name, tensor in body.state_dict().items()}
    assert state["body.spatial.conv.weight"].shape[1] == (1 if separable else 4)
    close(body(x), pseudo3d(x, state, "body", options))


def test_concatenation_order_is_fs_fm_fmres():
    body = shuffled(Pseudo3D(4, separable=True, attention=False, feature_residual=True), 1).eval()
    x = randn(2, 4, 3, 5, 4, seed=2)
    fs, fm = body.spatial(x), body.temporal(x)
    f = body(x)
    close(f[:, :4], fs)
    close(f[:, 4:8], fm)
    close(f[:, 8:], residual(fm))
    assert (f[:, 8:, -1] == 0).all()


@pytest.mark.parametrize("separable", [True, False])
@given(seed=seeds)
@few
def test_stem(separable, seed):
    module, clip = shuffled(Stem(4, separable=separable), seed), randn(2, 3, 3, 8, 9, seed=seed + 1)
    state = {f"conv1.{name}": tensor for name, tensor in module.state_dict().items()}
    assert state["conv1.temporal.conv.weight"].shape[1] == (1 if separable else 4)
    close(module(clip), stem(clip, state, "conv1"))


@pytest.mark.parametrize(("channels", "stride", "projected"), [(4, 1, False), (6, 1, True), (4, 2, True)])
def test_shortcut_is_projected_where_the_shape_changes(channels, stride, projected):
    module = shuffled(Bottleneck(channels, 4, Dense3D(4), stride=stride), 3)
    state = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    x = randn(2, channels, 3, 5, 6, seed=4)
    assert ("module.shortcut.conv.weight" in state) == projected
    close(module(x), bottleneck(x, state, "module", {"network": "3d-resnet50"}, stride))


NETWORKS = [
    {},
    {"modality": "rgb"},
    {"modality": "residual", "stem_channels": 2},
    {"attention": False},
    {"feature_residual": False},
    {"attention": False, "feature_residual": False},
    {"conv": "dense"},
    {"network": "3d-resnet50"},
]


@pytest.mark.parametrize("options", NETWORKS, ids=str)
@given(seed=seeds)
@settings(max_examples=2)
def test_whole_network(options, seed):
    depths = (2, 1, 1, 1)
    model = shuffled(build_model(**options, **PLAIN, num_classes=3, width=1 / 32, depths=depths), seed)
    clips = {name: randn(2, 3, 3, 9, 12, seed=seed + i) for i, name in enumerate(model.architecture.streams)}
    # Wide tolerance: small variances at this size magnify the last bits.
    right = network(clips, model.state_dict(), options, depths)
    torch.testing.assert_close(model(**clips), right, atol=1e-7, rtol=1e-6)


def test_streams_are_concatenated_rgb_first():
    model = build_model(width=1 / 16, depths=(1, 1, 1, 1), **PLAIN).eval()
    seen = []
    model.res2[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    rgb, residual_clip = torch.randn(2, 1, 3, 4, 16, 16)
    model(residual=residual_clip, rgb=rgb)
    torch.testing.assert_close(seen[0][:, :4], model.conv1["rgb"](rgb))
    torch.testing.assert_close(seen[0][:, 4:], model.conv1["residual"](residual_clip))
    assert not torch.allclose(seen[0][:, :4], seen[0][:, 4:])


def test_module_gradients_agree_with_finite_differences():
    # Random but fixed: at a kink of abs or ReLU finite differences say nothing.
    f = randn(2, 3, 3, 2, 2, seed=5).requires_grad_()
    assert gradcheck(shuffled(ChannelAttention(3), 6), f)
    for with_residual, attention in itertools.product([True, False], repeat=2):
        body = Pseudo3D(3, separable=True, attention=attention, feature_residual=with_residual)
        assert gradcheck(shuffled(body, 7), f)


@pytest.mark.parametrize("options", NETWORKS, ids=str)
def test_network_gradients_agree_with_finite_differences(options):
    torch.manual_seed(8)
    model = build_model(**options, **PLAIN, num_classes=3, width=1 / 32, depths=(1, 1, 1, 1)).double()
    names, weights = zip(*model.named_parameters(), strict=True)
    clips = {name: randn(3, 3, 3, 12, 12, seed=9 + i) for i, name in enumerate(model.architecture.streams)}

    def forward(*tensors):
        inputs = dict(zip(clips, tensors, strict=False))
        state = dict(zip(names, tensors[len(clips) :], strict=True))
        return torch.func.functional_call(model, state, kwargs=inputs)

    inputs = [tensor.detach().requires_grad_() for tensor in (*clips.values(), *weights)]
    assert gradcheck(forward, inputs, fast_mode=True)


@given(seed=seeds, frames=st.integers(1, 6))
@few
def test_feature_residual_has_a_zero_last_frame(seed, frames):
    motion = randn(2, 3, frames, 4, 5, seed=seed)
    assert torch.equal(feature_residual(motion), residual(motion))
    assert gradcheck(feature_residual, motion.requires_grad_())


@pytest.mark.parametrize("form", [None, "folded", "shifted"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("kernel", [(1, 7, 7), (1, 3, 3), (3, 1, 1), (1, 1, 1), (3, 3, 3)])
@pytest.mark.parametrize("stride", [1, 2])
@given(seed=seeds, frames=st.integers(1, 5), height=st.integers(1, 9), width=st.integers(1, 9))
@settings(max_examples=4)
def test_every_form_is_the_3d_convolution(form, layout, separable, kernel, stride, seed, frames, height, width):
    """The fast paths beside their plain twin: result, gradient of the input and of the weight."""
    stride = 1 if kernel[0] > 1 else stride
    conv = convolution(4, 4 if separable else 6, kernel, stride=stride, separable=separable).double()
    x = randn(2, 4, frames, height, width, seed=seed).to(memory_format=layout).requires_grad_()
    results = []
    for wanted in (form, "3d"):
        use_form(conv, wanted)
        y = conv(x)
        results.append((y, *torch.autograd.grad(y, (x, conv.weight), randn(*y.shape, seed=seed + 1))))
    for ours, plain in zip(*results, strict=True):
        assert ours.shape == plain.shape
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize(("form", "calls"), [(None, "conv2d"), ("folded", "conv2d"), ("3d", "conv3d"), ("shifted", "")])
def test_the_form_asked_for_is_the_one_computed(monkeypatch, form, calls):
    seen = []
    for name in ("conv2d", "conv3d"):
        plain = getattr(torch.nn.functional, name)
        spy = lambda *args, name=name, plain=plain, **options: seen.append(name) or plain(*args, **options)  # noqa: E731
        monkeypatch.setattr(torch.nn.functional, name, spy)
    module = nn.Sequential(*[convolution(4, 4, kernel, separable=True) for kernel in ((1, 3, 3), (3, 1, 1))])
    use_form(module, form)
    module(torch.randn(2, 4, 3, 5, 5))
    assert set(seen) == ({calls} if calls else set())
    with pytest.raises(UsageError, match="got form 'flat', expected one of 3d, folded, shifted"):
        use_form(module, "flat")


def test_strided_pointwise_convolutions_leave_the_heap_alone():
    """As a 1x1 `conv2d` on one thread, this very shape ended the process (torch 2.13)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        conv = convolution(4, 8, (1, 1, 1), stride=2)
        for seed in range(100):
            x = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_()
            gradients = torch.autograd.grad(conv(x).square().sum(), (x, conv.weight))
            plain = torch.autograd.grad(nn.Conv3d.forward(conv, x).square().sum(), (x, conv.weight))
            torch.testing.assert_close(gradients, plain, rtol=1e-4, atol=1e-4)
    finally:
        torch.set_num_threads(threads)
