"""One training step: forward, backward, the optimiser. Shapes: B clips of a batch, C classes."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from resact.errors import ToolError
from resact.train.runs.execution import autocast, memory_format
from resact.train.runs.files.config import RunConfig
from resact.train.runs.training.distributed import Ranks


class TrainStep:
    """Steps of one network."""

    def __init__(self, config: RunConfig, network: nn.Module, optimiser: torch.optim.SGD, ranks: Ranks) -> None:
        """Args:
        config: with nothing left to choose.
        network: on the ranks' device.
        optimiser: of its weights.
        ranks: that step together.

        """
        self._config, self._network, self._optimiser, self._ranks = config, network, optimiser, ranks
        self._trained: nn.Module = ranks.wrap(network)
        if config.compile:
            self._trained = torch.compile(self._trained)  # type: ignore[assignment]

    def __call__(self, batch: dict[str, Any], *, clips: int, lr: float, seed: int) -> Tensor:
        """Take a step.

        Args:
            batch: this rank's part, of one clip or more.
            clips: of all ranks' parts.
            lr: learning rate.
            seed: of the dropout, another one for each step and rank. Drawn for the step, not in sequence: what the
                dropout does is then no state that a checkpoint would have to keep.

        Returns:
            (2,) the sum of this rank's clips' losses, and how many of them score highest where they should.

        Raises:
            ToolError: the network was to be compiled, and cannot be on this machine.
        """
        with _compiler_failures_as_error() if self._config.compile else nullcontext():
            return self._taken(batch, clips, lr, seed)

    def _taken(self, batch: dict[str, Any], clips: int, lr: float, seed: int) -> Tensor:
        for group in self._optimiser.param_groups:
            group["lr"] = lr * group["lr_factor"]
        torch.manual_seed(seed)
        layout, streams = memory_format(self._config), self._config.geometry.streams
        inputs = {name: batch[name].to(memory_format=layout) for name in streams}
        with autocast(self._config, self._ranks.device):
            logits_BC: Tensor = self._trained(**inputs)
        logits_BC, label_B, recipe = logits_BC.float(), batch["label"], self._config.recipe
        loss = functional.cross_entropy(logits_BC, label_B, label_smoothing=recipe.label_smoothing, reduction="sum")
        self._optimiser.zero_grad(set_to_none=True)
        # Gradients are averaged over ranks, whose parts may differ by a clip: this makes it the mean over clips.
        (loss * (self._ranks.world_size / clips)).backward()  # type: ignore[no-untyped-call]
        if recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._network.parameters(), recipe.clip_norm)
        self._optimiser.step()
        return torch.stack([loss.detach(), (logits_BC.argmax(1) == label_B).sum()])


@contextmanager
def _compiler_failures_as_error() -> Iterator[None]:
    """Torch compiles in the first step, and says much when it cannot."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        raise ToolError(
            f"torch cannot compile the network here ({str(error).strip().splitlines()[0]}): install the compiler that "
            "it needs (g++; on a GPU gcc, too), or leave --compile out"
        ) from error
