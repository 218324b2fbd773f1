"""Batch norm with the statistics of all processes' parts of a batch together, on any device.

PyTorch's own `SyncBatchNorm` refuses the CPU. This module computes the same on both, from a few sums that the processes
exchange in the forward and in the backward pass. Shapes: B batch, C channels, W processes.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resact.errors import UsageError

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SynchronisedNorm(_BatchNorm):
    """Batch norm of all processes' clips in training; in evaluation, plain batch norm.

    Each process must have at least one clip. Gradients are those of the sum of all processes' losses, as
    `DistributedDataParallel` expects.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) -> the same."""
        if not self.training:
            return super().forward(x)
        momentum = self.momentum
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:  # the mean over all batches
                momentum = 1.0 / float(self.num_batches_tracked)
        y, mean_C, var_C = _Normalise.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), momentum or 0.0)
                self.running_var.lerp_(var_C.to(self.running_var.dtype), momentum or 0.0)
        out: Tensor = y
        return out

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - as in PyTorch
        pass


class _Normalise(torch.autograd.Function):
    """The normalised batch, and the mean and unbiased variance of all processes' batches."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_C: Tensor | None, bias_C: Tensor | None, eps: float) -> Any:
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        own_var_C, own_mean_C = torch.var_mean(wide, _all_but_channels(x), correction=0)
        table = torch.zeros(dist.get_world_size(), 2 * x.shape[1] + 1, dtype=wide.dtype, device=x.device)
        own_count = own_mean_C.new_full((1,), x.numel() / x.shape[1])  # `new_tensor` would wait for the GPU
        table[dist.get_rank()] = torch.cat([own_mean_C, own_var_C, own_count])
        dist.all_reduce(table)
        mean_WC, var_WC, count_W1 = table.tensor_split((x.shape[1], 2 * x.shape[1]), dim=1)
        count = count_W1.sum()
        mean_C = (count_W1 * mean_WC).sum(0) / count
        var_C = (count_W1 * (var_WC + (mean_WC - mean_C).square())).sum(0) / count
        scale_C = torch.rsqrt(var_C + eps)
        y = (wide - _wide(mean_C, x)) * _wide(scale_C, x)
        if weight_C is not None:
            y = y * _wide(weight_C, x)
        if bias_C is not None:
            y = y + _wide(bias_C, x)
        ctx.save_for_backward(x, weight_C, mean_C, scale_C, count)
        unbiased_C = var_C * (count / (count - 1).clamp(min=1))
        ctx.mark_non_differentiable(mean_C, unbiased_C)
        return y.to(x.dtype), mean_C, unbiased_C

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        x, weight_C, mean_C, scale_C, count = ctx.saved_tensors
        wide_grad = grad.to(mean_C.dtype)
        normalised = (x.to(mean_C.dtype) - _wide(mean_C, x)) * _wide(scale_C, x)
        axes = _all_but_channels(x)
        bias_grad_C, weight_grad_C = wide_grad.sum(axes), (wide_grad * normalised).sum(axes)
        sums_2C = torch.stack([bias_grad_C, weight_grad_C])
        dist.all_reduce(sums_2C)
        mean_grad_C, mean_product_C = sums_2C / count
        x_grad = wide_grad - _wide(mean_grad_C, x) - normalised * _wide(mean_product_C, x)
        x_grad = x_grad * _wide(scale_C if weight_C is None else scale_C * weight_C, x)
        # Those of the parameters stay the process's own: the training averages them with all other gradients.
        wanted = ctx.needs_input_grad
        return x_grad.to(x.dtype), weight_grad_C if wanted[1] else None, bias_grad_C if wanted[2] else None, None


def synchronise_norms(network: nn.Module) -> None:
    """Replace all batch norms of a network by `SynchronisedNorm`, with the same parameters, buffers and names.

    Raises:
        UsageError: it has none, or one of another kind.
    """
    found = [
        (module, name, norm)
        for module in network.modules()
        for name, norm in module.named_children()
        if isinstance(norm, _BatchNorm)
    ]
    if not found:
        raise UsageError("got --sync-batch-norm with a network without batch norm: leave it out")
    for module, name, norm in found:
        if type(norm) not in _PLAIN:
            raise UsageError(
                f"got --sync-batch-norm with a network that has a {type(norm).__name__} ({name}), expected "
                "nn.BatchNorm1d, 2d or 3d: leave it out"
            )
        synchronised = SynchronisedNorm(
            norm.num_features,
            eps=norm.eps,
            momentum=norm.momentum,
            affine=norm.affine,
            track_running_stats=norm.track_running_stats,
            device="meta",
        )
        synchronised._parameters, synchronised._buffers = norm._parameters, norm._buffers
        synchronised.training = norm.training
        setattr(module, name, synchronised)


def _all_but_channels(x: Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


def _wide(values_C: Tensor, x: Tensor) -> Tensor:
    """(C,) as (1, C, 1, ...), to go with x."""
    return values_C.view(1, -1, *[1] * (x.ndim - 2))
