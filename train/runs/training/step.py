"""One training step: forward, backward and optimiser. Shapes: B clips of a batch, C classes."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from resact.errors import ToolError
from resact.train.runs.distributed import Ranks
from resact.train.runs.execution import autocast, memory_format
from resact.train.runs.files.config import RunConfig
from resact.train.runs.training.graphed_step import GraphedPass, Pass


class TrainStep:
    """The training step of one network."""

    def __init__(
        self,
        config: RunConfig,
        network: nn.Module,
        optimiser: torch.optim.Optimizer,
        ranks: Ranks,
        *,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        """Args:
        config: complete config, without automatic choices left.
        network: on the ranks' device.
        optimiser: its optimiser.
        ranks: the processes that train together.
        class_weights: (C,) factor of each class's losses; None: 1.

        Raises:
            ToolError: the step should be a CUDA graph, and the device does not support them.

        """
        self._config, self._network, self._optimiser, self._ranks = config, network, optimiser, ranks
        self._weight_C = None if class_weights is None else torch.tensor(class_weights, device=ranks.device)
        self._wrapped = self._trained = ranks.wrap(network)
        if config.compile:  # for each size of a batch, of which an epoch has two at most
            self._trained = torch.compile(self._trained, dynamic=False)  # type: ignore[assignment]
        self._pass: Pass = GraphedPass(self._run, network, ranks.device) if config.graphed else self._run

    def __call__(self, batch: dict[str, Any], *, clips: int, lr: float, seed: int) -> Tensor:
        """Take a step.

        Args:
            batch: this rank's part of the batch, at least one clip, possibly mixed (`mix_batch`).
            clips: number of clips on all ranks.
            lr: learning rate.
            seed: seed of the dropout, different for each step and rank. Because it is set for each step, a checkpoint
                does not have to save the generator's state.

        Returns:
            (2,) sum of the losses of this rank's clips, and number of correctly classified clips (for a mixed clip, the
            class with the larger share counts).

        Raises:
            ToolError: the network should be compiled or the step captured, but cannot be on this machine.
        """
        with _compiler_failures_as_error() if self._config.compile else nullcontext():
            return self._taken(batch, clips, lr, seed)

    def _taken(self, batch: dict[str, Any], clips: int, lr: float, seed: int) -> Tensor:
        for group in self._optimiser.param_groups:
            group["lr"] = lr * group["lr_factor"]
        torch.manual_seed(seed)
        if not self._config.graphed:  # a graph has tensors of its own for them
            self._optimiser.zero_grad(set_to_none=True)
        figures = self._pass(batch, clips)
        self._optimiser.step()
        return figures

    def _run(self, batch: dict[str, Any], clips: int) -> Tensor:
        """Forward and backward; figures as `__call__` returns them."""
        # As many on each rank, whose parts may differ by a clip: norms may wait for each other in each of them.
        parts = _parts(batch, min(self._config.recipe.accumulate, clips // self._ranks.world_size))
        figures = [self._add_gradients(part, clips, last=part is parts[-1]) for part in parts]
        if self._config.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self._network.parameters(), self._config.recipe.clip_norm)
        return torch.stack(figures).sum(0)

    def _add_gradients(self, part: dict[str, Any], clips: int, *, last: bool) -> Tensor:
        """Of a part of a batch, to those that are there; figures as `__call__` returns them."""
        layout, streams = memory_format(self._config), self._config.geometry.streams
        inputs = {name: part[name].to(memory_format=layout) for name in streams}
        with self._exchanged(last=last):
            with autocast(self._config, self._ranks.device):
                logits_BC: Tensor = self._trained(**inputs)
            logits_BC = logits_BC.float()
            loss = self._loss(logits_BC, part)
            # Gradients are averaged over ranks, whose parts may differ by a clip: this makes it the mean over clips.
            (loss * (self._ranks.world_size / clips)).backward()  # type: ignore[no-untyped-call]
        label_B = part["label"]
        if "share" in part:
            label_B = torch.where(part["share"] < 0.5, part["partner_label"], label_B)
        return torch.stack([loss.detach(), (logits_BC.argmax(1) == label_B).sum()])

    def _exchanged(self, *, last: bool) -> AbstractContextManager[Any]:
        """Gradients of all ranks are averaged once a step, with the last part's."""
        if last or not isinstance(self._wrapped, DistributedDataParallel):
            return nullcontext()
        return self._wrapped.no_sync()

    def _loss(self, logits_BC: Tensor, part: dict[str, Any]) -> Tensor:
        """The sum over the clips."""
        if "share" in part:
            own_B, partner_B = self._losses(logits_BC, part["label"]), self._losses(logits_BC, part["partner_label"])
            share_B: Tensor = part["share"]
            return (share_B * own_B + (1 - share_B) * partner_B).sum()
        if self._weight_C is not None:
            return self._losses(logits_BC, part["label"]).sum()
        smoothing = self._config.recipe.label_smoothing
        return functional.cross_entropy(logits_BC, part["label"], label_smoothing=smoothing, reduction="sum")

    def _losses(self, logits_BC: Tensor, label_B: Tensor) -> Tensor:
        """(B,) each clip's, times its class's weight.

        These are not cross_entropy's own weights: with label smoothing those are of the classes that are scored, too.
        """
        smoothing = self._config.recipe.label_smoothing
        loss_B = functional.cross_entropy(logits_BC, label_B, label_smoothing=smoothing, reduction="none")
        return loss_B if self._weight_C is None else loss_B * self._weight_C[label_B]


def _parts(batch: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """A batch in so many parts, as even as can be."""
    clips = len(batch["label"])
    if count == 1:
        return [batch]
    tensors = {name: value for name, value in batch.items() if isinstance(value, Tensor)}
    cuts = [number * clips // count for number in range(count + 1)]
    return [{name: tensor[start:stop] for name, tensor in tensors.items()} for start, stop in pairwise(cuts)]


@contextmanager
def _compiler_failures_as_error() -> Iterator[None]:
    """Torch compiles in the first step, and says much when it cannot."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        raise ToolError(
            f"torch cannot compile the network here ({str(error).strip().splitlines()[0]}): install the compiler that "
            "it needs (g++; on a GPU gcc, too), or train with --kernels eager and leave --compile out"
        ) from error
