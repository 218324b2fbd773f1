"""Activation checkpointing that updates batch norm's running statistics exactly as a plain step does."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def checkpointed(module: nn.Module, x: Tensor) -> Tensor:
    """`module(x)`, keeping only `x` for the backward pass, which recomputes the rest.

    `module` must not draw random numbers: the generator's state is not saved.
    """
    # The compiler updates statistics only once anyway, and does not support `context_fn`.
    if torch.compiler.is_compiling():
        compiled: Tensor = checkpoint(module, x, use_reentrant=False, preserve_rng_state=False)
        return compiled

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _frozen_statistics(module)

    y: Tensor = checkpoint(module, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    return y


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """A context without updates of running statistics: otherwise each step would count its batch twice."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, num_batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches
