"""Checkpoints: the complete state of a training, in files that survive a kill.

Clips, dropout and learning rate are pure functions of the seed and the run's progress. So the state is the tensors of
network and optimiser, and a few numbers.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from resact.cache.durable import sync_folder
from resact.errors import CheckpointError
from resact.train.runs.files.atomic_write import write_failure_as_error
from resact.train.runs.files.tensors import from_header, read_tensors, require_like, write_tensors

_WEIGHT, _AVERAGE = "network/", "average/"
_STATE = {"momentum_buffer": "momentum/", "step": "step/", "exp_avg": "exp_avg/", "exp_avg_sq": "exp_avg_sq/"}
"""What an optimiser remembers of a parameter, by torch's names -> what its tensors are called."""


@dataclass(kw_only=True)
class EpochSums:
    """Sums over the clips of an epoch so far."""

    loss: float = 0.0
    hits: int = 0
    clips: int = 0


@dataclass(kw_only=True)
class Progress:
    """A run's progress."""

    epoch: int = 0
    """Completed epochs."""
    position: int = 0
    """Clips done in the current epoch."""
    step: int = 0
    """Completed steps in all epochs."""
    sums: EpochSums = field(default_factory=EpochSums)
    """Sums of the current epoch."""
    val_video_top1: float | None = None
    """Video top-1 of the last validation, in [0, 1]."""
    best_epoch: int | None = None
    """Epochs after which the best weights were saved."""
    best_video_top1: float | None = None


class Checkpoints:
    """`last.ckpt`, and the checkpoint before it in case the last one is damaged."""

    def __init__(self, folder: Path) -> None:
        self.last, self.previous = folder / "last.ckpt", folder / "previous.ckpt"

    @property
    def exist(self) -> bool:
        """Whether there is a checkpoint, intact or not."""
        return self.last.exists() or self.previous.exists()

    def save(
        self, progress: Progress, network: nn.Module, optimiser: torch.optim.Optimizer, average: nn.Module | None = None
    ) -> None:
        """Write `last.ckpt` atomically; the old one becomes `previous.ckpt`.

        Args:
            progress: the run's progress.
            network: the network with its weights.
            optimiser: its optimiser.
            average: the network with the mean of its weights over the steps, where there is one.

        Raises:
            RunWriteError: it could not be written; existing checkpoints are unchanged.
        """
        tensors = _weights(network, average)
        for name, parameter in _learning(network, progress).items():
            # A parameter that the network makes no use of has no memory: zeros are what it would begin with.
            state = _remembered(optimiser, parameter) | optimiser.state.get(parameter, {})
            tensors |= {f"{_STATE[key]}{name}": tensor for key, tensor in state.items() if tensor is not None}
        fresh = self.last.with_name("fresh.ckpt")
        write_tensors(fresh, tensors, asdict(progress))
        with write_failure_as_error(self.last):
            if self.last.exists():  # a kill between the two renames leaves `previous.ckpt` alone, which does as well
                self.last.replace(self.previous)
            fresh.replace(self.last)
            sync_folder(self.last.parent)

    def restore(
        self, network: nn.Module, optimiser: torch.optim.Optimizer, average: nn.Module | None = None
    ) -> tuple[Progress, str | None]:
        """Load the newest intact checkpoint; without any checkpoint, nothing changes.

        Returns:
            The run's progress, and what was wrong with `last.ckpt`, in words, or None.

        Raises:
            CheckpointError: there are checkpoints, but none is intact.
        """
        problems = []
        for path in (self.last, self.previous):
            if not path.exists():
                continue
            try:
                progress = _restore(path, network, optimiser, average)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            if path == self.previous:
                problems.append(f"continuing from {path}, step {progress.step:,}")
            return progress, "; ".join(problems) or None
        if problems:
            raise CheckpointError(f"{'; '.join(problems)}: restore one of them, or remove both to train from the start")
        return Progress(), None


def _remembered(optimiser: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """What the optimiser remembers of a parameter after a step, by torch's names; of any values."""
    if isinstance(optimiser, torch.optim.AdamW):
        place = parameter.device if optimiser.defaults["capturable"] else None
        moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": torch.zeros((), device=place), **moments}
    return {"momentum_buffer": torch.zeros_like(parameter)} if optimiser.defaults["momentum"] else {}


def memory_of(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    """All that it remembers after a step, in the order of its parameters; made where it is not there yet."""
    memory = []
    for parameter in (p for group in optimiser.param_groups for p in group["params"]):
        state = optimiser.state[parameter]
        memory += [state.setdefault(name, tensor) for name, tensor in _remembered(optimiser, parameter).items()]
    return memory


def _restore(path: Path, network: nn.Module, optimiser: torch.optim.Optimizer, average: nn.Module | None) -> Progress:
    """Load a checkpoint, or change nothing.

    Raises:
        CheckpointError: it is damaged, or of another network or optimiser.
    """
    tensors, header = read_tensors(path)
    progress = from_header(Progress, header, path)
    if progress.sums.clips != progress.position:
        raise CheckpointError(
            f"{path} is not of this run: got sums of {progress.sums.clips} clips, expected {progress.position}"
        )
    parameters = _learning(network, progress)
    states = {name: _remembered(optimiser, parameter) for name, parameter in parameters.items()}
    expected = {f"{_STATE[key]}{name}": tensor for name, state in states.items() for key, tensor in state.items()}
    require_like(path, tensors, _weights(network, average) | expected)
    network.load_state_dict(_part(tensors, _WEIGHT))
    if average is not None:
        average.load_state_dict(_part(tensors, _AVERAGE))
    for name, state in states.items():
        loaded = {key: tensor.copy_(tensors[f"{_STATE[key]}{name}"]) for key, tensor in state.items()}
        optimiser.state[parameters[name]].update(loaded)
    return progress


def _learning(network: nn.Module, progress: Progress) -> dict[str, nn.Parameter]:
    """Parameters that an optimiser remembers something of, by name: none before the first step."""
    named = network.named_parameters() if progress.step else ()
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def _weights(network: nn.Module, average: nn.Module | None) -> dict[str, Tensor]:
    """As a checkpoint calls them."""
    tensors = {f"{_WEIGHT}{name}": tensor for name, tensor in network.state_dict().items()}
    if average is not None:
        tensors |= {f"{_AVERAGE}{name}": tensor for name, tensor in average.state_dict().items()}
    return tensors


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
