"""A bottleneck module, forward and backward.

The backward pass keeps its input, its raw features (three tensors of its width), the top's raw output and its own
output: five tensors of its width without the input (six with a projection). The bottom is computed again. Results of
norms, activations, the concatenation and attention are recomputed where they are read.

Shapes: B clips, C channels of the module, K concatenated ones, N = C, (T, H, W) in, (T, h, w) out.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from resact.train.networks.fused import norm, pointwise, residual_add, stencil
from resact.train.networks.fused.norm import Sums
from resact.train.networks.fused.top import Top
from resact.train.networks.modules import Bottleneck, ConvNorm, Pseudo3D


def bottleneck(module: Bottleneck, x_BCTHW: Tensor) -> Tensor:
    """`module(x_BCTHW)`: (B, C, T, h, w), channels last in memory, with the input's dtype (bfloat16 or float32).

    Args:
        module: has channel-separable convolutions; on CUDA, or in Triton's interpreter.
        x_BCTHW: with channels last in memory; otherwise it is copied.
    """
    x_BTHWC = x_BCTHW.permute(0, 2, 3, 4, 1).contiguous()
    out_BTHWC: Tensor = _Bottleneck.apply(module, x_BTHWC, *module.parameters())
    return out_BTHWC.permute(0, 4, 1, 2, 3)


def _body(module: Bottleneck) -> Pseudo3D:
    assert isinstance(module.body, Pseudo3D)
    return module.body


class _Bottleneck(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, module: Bottleneck, x: Tensor, *parameters: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # types are chosen here
            return _forward(ctx, module, x, parameters)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(gradient.device.type, enabled=False):
            return _backward(ctx, gradient.contiguous())


def _forward(ctx: Any, module: Bottleneck, x: Tensor, parameters: tuple[Tensor, ...]) -> Tensor:
    body = _body(module)
    x_read = pointwise.strided(x, module.bottom.conv.stride[1])
    b, t, h, w, _ = x_read.shape
    count = b * t * h * w
    bottom = pointwise.forward(x_read, module.bottom.conv.weight)
    bottom_state = norm.forward(module.bottom.norm, norm.moments_of(bottom), count)
    features, s_moments, m_moments, means = stencil.forward(
        bottom,
        bottom_state,
        body.spatial.conv.weight,
        body.temporal.conv.weight,
        feature_residual=body.feature_residual,
    )
    s_state = norm.forward(body.spatial.norm, s_moments, count)
    m_state = norm.forward(body.temporal.norm, m_moments, count)
    top = Top.of(module, s_state, m_state, means)
    raw_BRN, constant = top.forward(features.flatten(1, 3))
    raw = raw_BRN.view_as(bottom)
    top_state = norm.forward(module.top.norm, norm.moments_of(raw, constant), count)
    projected, shortcut_state = None, None
    if isinstance(module.shortcut, ConvNorm):
        projected = pointwise.forward(x_read, module.shortcut.conv.weight)
        shortcut_state = norm.forward(module.shortcut.norm, norm.moments_of(projected), count)
    out = torch.empty_like(raw)
    residual_add.forward(out, raw, top_state, constant, x if projected is None else projected, shortcut_state)
    ctx.module = module
    ctx.training = {name: layer.training for name, layer in module.named_modules()}
    ctx.save_for_backward(
        x, bottom_state, features, s_state, m_state, means, top.mask, raw, constant, top_state, out,
        projected, shortcut_state, *parameters,
    )  # fmt: skip
    return out


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    (
        x, bottom_state, features, s_state, m_state, means, mask, raw, constant, top_state, out,
        projected, shortcut_state, *_,
    ) = ctx.saved_tensors  # fmt: skip
    module: Bottleneck = ctx.module
    body, stride = _body(module), module.bottom.conv.stride[1]
    count = raw.numel() // raw.shape[-1]
    gradients: dict[str, Tensor] = {}

    def through_norm(name: str, state: Tensor, sums: Sums) -> Tensor:
        layer = module.get_submodule(name)
        assert isinstance(layer, ConvNorm)
        training = ctx.training[f"{name}.norm"]
        coefficients, of_weight, of_bias = norm.backward(layer.norm, state, sums, count, training=training)
        gradients[f"{name}.norm.weight"], gradients[f"{name}.norm.bias"] = of_weight, of_bias
        return coefficients

    added, added_sums = residual_add.backward(gradient, out, raw, top_state, constant, projected, shortcut_state)
    of_raw = torch.empty_like(raw)
    coefficients = through_norm("top", top_state, Sums(added_sums))
    of_constant = norm.raw_gradient(added, raw, coefficients, constant, out=of_raw)
    top = Top(module, s_state, m_state, means, mask)
    of_top = top.backward(of_raw.flatten(1, 3), of_constant, features.flatten(1, 3))
    gradients |= of_top.parameters
    # (of the norm, of the raw output, constant; spatial, temporal; C); the first is in the top's weights.
    coefficients = torch.stack(
        [
            through_norm("body.spatial", s_state, of_top.s_sums),
            through_norm("body.temporal", m_state, of_top.m_sums),
        ],
        dim=1,
    )
    constants_BK = of_top.constant
    constants_BK[:, : coefficients[2].numel()] += coefficients[2].flatten()
    x_read = pointwise.strided(x, stride)
    bottom = pointwise.forward(x_read, module.bottom.conv.weight)
    of_bottom, of_spatial, of_temporal, sums = stencil.backward(
        of_top.features.view_as(features),
        features,
        coefficients[1],
        constants_BK,
        bottom,
        bottom_state,
        body.spatial.conv.weight,
        body.temporal.conv.weight,
    )
    gradients["body.spatial.conv.weight"], gradients["body.temporal.conv.weight"] = of_spatial, of_temporal

    def through_convolution(name: str, of_output: Tensor, onto: Tensor) -> None:
        weight = module.get_parameter(f"{name}.conv.weight")
        gradients[f"{name}.conv.weight"] = pointwise.weight_gradient(of_output, x_read, weight)
        pointwise.add_input_gradient(of_output, weight, onto)

    norm.raw_gradient(of_bottom, bottom, through_norm("bottom", bottom_state, sums), out=of_bottom)
    of_x = added
    if projected is not None:
        coefficients = through_norm("shortcut", shortcut_state, Sums(added_sums, 0, 2))
        norm.raw_gradient(added, projected, coefficients, out=added)
        of_x = torch.zeros_like(x_read)
        through_convolution("shortcut", added, of_x)
    through_convolution("bottom", of_bottom, of_x)
    if stride > 1:
        of_read, of_x = of_x, torch.zeros_like(x)
        of_x[:, :, ::stride, ::stride] = of_read
    return None, of_x, *(gradients[name] for name, _ in module.named_parameters())
