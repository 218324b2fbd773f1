"""A bottleneck module, forward and backward.

The backward pass keeps its input, its output and the raw outputs between them: five tensors of its width (six with a
projection). Results of norms, activations, the feature residual, the concatenation and attention are recomputed where
they are read.

Shapes: B clips, C channels of the module, K concatenated ones, (T, H, W) in, (T, h, w) out.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from resact.train.networks.fused import norm, pointwise, residual_add, stencil, top
from resact.train.networks.fused.norm import Sums
from resact.train.networks.modules import Bottleneck, ChannelAttention, ConvNorm, Pseudo3D


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
        body, stride = _body(module), module.bottom.conv.stride[1]
        bottom, moments = pointwise.forward(x, module.bottom.conv.weight, stride)
        b, t, h, w, _ = bottom.shape
        count = b * t * h * w
        bottom_state = norm.forward(module.bottom.norm, moments, count)
        s, m, s_moments, m_moments, clip_sums = stencil.forward(
            bottom, bottom_state, body.spatial.conv.weight, body.temporal.conv.weight
        )
        s_state = norm.forward(body.spatial.norm, s_moments, count)
        m_state = norm.forward(body.temporal.norm, m_moments, count)
        features = _Features.of(body, s_state, m_state, clip_sums / (t * h * w))
        raw, moments = top.forward(s, m, *features.recalibrated(), module.top.conv.weight)
        top_state = norm.forward(module.top.norm, moments, count)
        shortcut, shortcut_state = x, None
        if isinstance(module.shortcut, ConvNorm):
            shortcut, moments = pointwise.forward(x, module.shortcut.conv.weight, stride)
            shortcut_state = norm.forward(module.shortcut.norm, moments, count)
        out = torch.empty_like(raw)
        residual_add.forward(out, raw, top_state, shortcut, shortcut_state)
        projected = shortcut if shortcut_state is not None else None
        ctx.module = module
        ctx.training = {name: layer.training for name, layer in module.named_modules()}
        ctx.save_for_backward(
            x, bottom, bottom_state, s, m, s_state, m_state, features.pooled, features.mask, raw, top_state, out,
            projected, shortcut_state, *parameters,
        )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (
            x, bottom, bottom_state, s, m, s_state, m_state, pooled, mask, raw, top_state, out,
            projected, shortcut_state, *_,
        ) = ctx.saved_tensors  # fmt: skip
        module: Bottleneck = ctx.module
        body, stride = _body(module), module.bottom.conv.stride[1]
        b, t, h, w, _ = bottom.shape
        count = b * t * h * w
        features = _Features(s_state, m_state, pooled, mask)
        gradients: dict[str, Tensor] = {}

        def through_norm(name: str, state: Tensor, sums: Sums) -> Tensor:
            layer = module.get_submodule(name)
            assert isinstance(layer, ConvNorm)
            training = ctx.training[f"{name}.norm"]
            coefficients, of_weight, of_bias = norm.backward(layer.norm, state, sums, count, training=training)
            gradients[f"{name}.norm.weight"], gradients[f"{name}.norm.bias"] = of_weight, of_bias
            return coefficients

        added, added_sums = residual_add.backward(gradient.contiguous(), out, raw, top_state, projected, shortcut_state)
        above = added, raw, through_norm("top", top_state, Sums(added_sums))
        weight = module.top.conv.weight
        gradients["top.conv.weight"], of_mask = top.weight_gradient(*above, s, m, *features.plain(), mask, weight)
        constant = torch.zeros_like(mask)
        if isinstance(body.attention, ChannelAttention):
            linear = body.attention.linear
            of_logits = of_mask * mask * (1 - mask)
            gradients["body.attention.linear.weight"] = of_logits.t() @ pooled
            gradients["body.attention.linear.bias"] = of_logits.sum(0)
            constant = of_logits @ linear.weight / (t * h * w)
        of_s, of_m, s_sums, m_sums = top.input_gradient(*above, s, m, (s_state, m_state), 1 + mask, constant, weight)
        of_bottom, of_spatial, of_temporal, sums = stencil.backward(
            (of_s, of_m),
            (s, m),
            (through_norm("body.spatial", s_state, s_sums), through_norm("body.temporal", m_state, m_sums)),
            bottom,
            bottom_state,
            body.spatial.conv.weight,
            body.temporal.conv.weight,
        )
        gradients["body.spatial.conv.weight"], gradients["body.temporal.conv.weight"] = of_spatial, of_temporal
        below = of_bottom, bottom, through_norm("bottom", bottom_state, sums)
        gradients["bottom.conv.weight"] = pointwise.weight_gradient(*below, x, stride)
        convolutions = [(*below, module.bottom.conv.weight)]
        if isinstance(module.shortcut, ConvNorm):
            beside = added, projected, through_norm("shortcut", shortcut_state, Sums(added_sums, 0, 2))
            gradients["shortcut.conv.weight"] = pointwise.weight_gradient(*beside, x, stride)
            convolutions.append((*beside, module.shortcut.conv.weight))
        of_x = pointwise.input_gradient(x, stride, convolutions, None if projected is not None else added)
        return None, of_x, *(gradients[name] for name, _ in module.named_parameters())


@dataclass(frozen=True)
class _Features:
    """Gains and offsets that the top applies to raw outputs."""

    s_state: Tensor
    m_state: Tensor
    """(4, C) each: states of the two norms."""
    pooled: Tensor
    """(B, K): means of the normed features over a clip."""
    mask: Tensor
    """(B, K): attention's mask; zeros without attention."""

    @classmethod
    def of(cls, body: Pseudo3D, s_state: Tensor, m_state: Tensor, means_B3C: Tensor) -> "_Features":
        """From each clip's means of the raw outputs and of the temporal output's frame differences."""
        means_BK = means_B3C[:, : 3 if body.feature_residual else 2].flatten(1)
        plain = cls(s_state, m_state, means_BK, torch.zeros_like(means_BK))
        if not isinstance(body.attention, ChannelAttention):
            return plain
        gain, offset = plain.plain()
        pooled, linear = means_BK * gain + offset, body.attention.linear
        with torch.autocast(means_BK.device.type, enabled=False):
            mask = torch.sigmoid(torch.addmm(linear.bias, pooled, linear.weight.t()))
        return cls(s_state, m_state, pooled, mask)

    def plain(self) -> tuple[Tensor, Tensor]:
        """Gain and offset, (K,) each, before attention: a norm's shift drops out of a difference."""
        s, m = self.s_state, self.m_state
        gains, offsets = (s[0], m[0], m[0].abs()), (s[1], m[1], torch.zeros_like(m[1]))
        count = self.mask.shape[1] // s.shape[1]
        return torch.cat(gains[:count]), torch.cat(offsets[:count])

    def recalibrated(self) -> tuple[Tensor, Tensor]:
        """Gain and offset, (B, K) each, with attention."""
        gain, offset = self.plain()
        return (1 + self.mask) * gain, (1 + self.mask) * offset
