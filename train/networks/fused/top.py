"""The top 1x1x1 of a module: a matrix product per clip, which reads the features raw.

Feature k of clip b enters the top as `(1 + mask[b, k]) * ((raw - mean[k]) * gain[k] + bias[k])`: its norm, then
attention. Gain and `1 + mask` scale the top's weight instead, so that each clip has its own, and the rest adds a
constant per clip and output, which readers of the output add. No normed or recalibrated feature is ever computed. The
gradient of a clip's weight gives those of the weight, of the mask and of both norms.

Shapes: B clips, R rows of each, C channels of the module, K = 3C features (2C without feature residuals) in the order
fs, fm, fmres, N channels out.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from resact.train.networks.fused.norm import Sums
from resact.train.networks.fused.pointwise import clip_products
from resact.train.networks.modules import Bottleneck, ChannelAttention, Pseudo3D


@dataclass(frozen=True)
class TopGradients:
    """What `Top.backward` returns."""

    parameters: dict[str, Tensor]
    """By their names in the module: those of the top's convolution and of attention."""

    s_sums: Sums
    m_sums: Sums
    """Of the gradients of the spatial and of the temporal norm's output."""

    features: Tensor
    """(B, R, K): of the raw features, through the product alone."""

    constant: Tensor
    """(B, K): what attention's pooling adds to the gradient of each value of a raw feature."""


@dataclass(frozen=True)
class Top:
    """What the top's product is made of, besides the features."""

    module: Bottleneck
    s_state: Tensor
    m_state: Tensor
    """(4, C) each: states of the two norms."""

    means: Tensor
    """(B, K): means of the raw features over each clip."""

    mask: Tensor
    """(B, K): attention's mask; zeros without attention."""

    @classmethod
    def of(cls, module: Bottleneck, s_state: Tensor, m_state: Tensor, means_BK: Tensor) -> "Top":
        """With the mask computed."""
        top = cls(module, s_state, m_state, means_BK, torch.zeros_like(means_BK))
        if top._attention is None:
            return top
        linear = top._attention.linear
        mask_BK = torch.sigmoid(torch.addmm(linear.bias, top._pooled, linear.weight.t()))
        return cls(module, s_state, m_state, means_BK, mask_BK)

    def forward(self, features_BRK: Tensor) -> tuple[Tensor, Tensor]:
        """The output (B, R, N), and the constant (B, N) that it lacks."""
        weight_NK, (mean_K, _, bias_K) = self._weight, self._norms
        weights_BNK = self._clip_weights(features_BRK.dtype)
        # With the means times the rounded weights, rounding affects deviations from the means alone.
        constant_BN = ((1 + self.mask) * bias_K) @ weight_NK.t() - weights_BNK.float() @ mean_K
        return torch.bmm(features_BRK, weights_BNK.mT), constant_BN

    def backward(self, gradient_BRN: Tensor, sums_BN: Tensor, features_BRK: Tensor) -> TopGradients:
        """The backward pass.

        Args:
            gradient_BRN: gradient of the output.
            sums_BN: its sums over each clip.
            features_BRK: as in `forward`.
        """
        weight_NK, (mean_K, gain_K, bias_K), scale_BK = self._weight, self._norms, 1 + self.mask
        products_BNK = clip_products(gradient_BRN, features_BRK)
        products_BNK.addcmul_(sums_BN[:, :, None], mean_K, value=-1)  # as if features had been `raw - mean`
        of_weight_NK = (products_BNK * (scale_BK * gain_K)[:, None]).sum(0) + sums_BN.t() @ (scale_BK * bias_K)
        parameters = {"top.conv.weight": of_weight_NK.view_as(self.module.top.conv.weight)}
        # Of the recalibrated features: sums over each clip, plain and times `raw - mean`.
        plain_BK, weighted_BK = sums_BN @ weight_NK, (products_BNK * weight_NK).sum(1)
        of_pooled_BK = torch.zeros_like(plain_BK)
        if self._attention is not None:
            of_mask_BK = weighted_BK * gain_K + plain_BK * bias_K
            of_logits_BK = of_mask_BK * self.mask * (1 - self.mask)
            parameters["body.attention.linear.weight"] = of_logits_BK.t() @ self._pooled
            parameters["body.attention.linear.bias"] = of_logits_BK.sum(0)
            of_pooled_BK = of_logits_BK @ self._attention.linear.weight
        # Of the normed features.
        plain = (plain_BK * scale_BK + of_pooled_BK).sum(0).split(self._channels)
        weighted = (weighted_BK * scale_BK + of_pooled_BK * (self.means - mean_K)).sum(0).split(self._channels)
        s_weighted, m_weighted, *of_residual = weighted
        for residual_weighted in of_residual:  # it is scaled by the temporal norm's gain, or by its opposite
            m_weighted = m_weighted + self.m_state[0].sign() * residual_weighted
        sums = torch.stack([plain[0], s_weighted, plain[1], m_weighted])[None]
        return TopGradients(
            parameters,
            Sums(sums, 0, 1),
            Sums(sums, 2, 3),
            torch.bmm(gradient_BRN, self._clip_weights(gradient_BRN.dtype)),
            of_pooled_BK * gain_K / features_BRK.shape[1],
        )

    @property
    def _channels(self) -> int:
        return self.s_state.shape[1]

    @property
    def _weight(self) -> Tensor:
        return self.module.top.conv.weight.flatten(1)

    @property
    def _attention(self) -> ChannelAttention | None:
        assert isinstance(self.module.body, Pseudo3D)
        attention = self.module.body.attention
        return attention if isinstance(attention, ChannelAttention) else None

    @cached_property
    def _norms(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, gain and bias of each feature, (K,) each; a norm's shift drops out of a feature residual."""
        body, s, m = self.module.body, self.s_state, self.m_state
        assert isinstance(body, Pseudo3D)
        none = torch.zeros_like(s[0])
        norms = (s[2], m[2], none), (s[0], m[0], m[0].abs()), (body.spatial.norm.bias, body.temporal.norm.bias, none)
        count = self.means.shape[1] // self._channels
        mean_K, gain_K, bias_K = (torch.cat(parts[:count]) for parts in norms)
        return mean_K, gain_K, bias_K

    @property
    def _pooled(self) -> Tensor:
        """Means of the normed features over each clip."""
        mean_K, gain_K, bias_K = self._norms
        return (self.means - mean_K) * gain_K + bias_K

    def _clip_weights(self, dtype: torch.dtype) -> Tensor:
        """Each clip's weight, rounded once."""
        gain_K = self._norms[1]
        weights_BNK = gain_K.new_empty(len(self.mask), *self._weight.shape, dtype=dtype)
        return torch.mul(self._weight, ((1 + self.mask) * gain_K)[:, None], out=weights_BNK)
