"""The exponential moving average (EMA) of a network's weights over training steps."""

import torch
from torch import Tensor, nn


class WeightAverage:
    """A network with the moving average of a trained network's weights: each step keeps a share `decay` of the old
    average.

    In step t, counted from 0, the decay is at most (1 + t) / (10 + t), so that the random initial weights are forgotten
    even in short trainings. Running statistics of norms are averaged like weights.
    """

    def __init__(self, network: nn.Module, trained: nn.Module, decay: float) -> None:
        """Args:
        network: of the same kind, with any weights; it takes those of `trained`, and is never trained itself.
        trained: the network that is trained.
        decay: decay of the average, above 0 and below 1.

        """
        self.network, self._decay = network.requires_grad_(requires_grad=False), decay
        network.load_state_dict(trained.state_dict())

    def update(self, trained: nn.Module, step: int) -> None:
        """Update the average after a step, counted from 0."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        pairs = list(zip(_tensors(self.network), _tensors(trained), strict=True))
        weights = [(mean, now) for mean, now in pairs if mean.is_floating_point()]
        torch._foreach_lerp_([mean for mean, _ in weights], [now for _, now in weights], share)
        for mean, now in pairs:
            if not mean.is_floating_point():  # how many batches a norm has seen
                mean.copy_(now)


def _tensors(network: nn.Module) -> list[Tensor]:
    """Parameters and buffers; one that has several names is there once."""
    return [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
