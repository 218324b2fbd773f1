"""All state of a training, and the files that it survives a kill in.

The clips and the dropout are pure functions of the seed and of where the run is, and so is the learning rate: what is
left are the tensors of network and optimiser and a few numbers.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resact.cache.durable import sync_folder
from resact.errors import CheckpointError
from resact.train.runs.files.atomic_write import write_failure_as_error
from resact.train.runs.files.tensors import from_header, read_tensors, require_like, write_tensors

_WEIGHT, _MOMENTUM = "network/", "momentum/"


@dataclass(kw_only=True)
class EpochSums:
    """Over the clips of an epoch so far."""

    loss: float = 0.0
    hits: int = 0
    clips: int = 0


@dataclass(kw_only=True)
class Progress:
    """Where a run is."""

    epoch: int = 0
    """Whole epochs behind it."""
    position: int = 0
    """Clips that it has had of the next one."""
    step: int = 0
    """Steps behind it, all epochs together."""
    sums: EpochSums = field(default_factory=EpochSums)
    """Of the epoch under way."""
    val_video_top1: float | None = None
    """Of the last validation."""
    best_epoch: int | None = None
    """Epochs that the best weights were trained for."""
    best_video_top1: float | None = None


class Checkpoints:
    """`last.ckpt`, and the one before it in case that one is damaged."""

    def __init__(self, folder: Path) -> None:
        self.last, self.previous = folder / "last.ckpt", folder / "previous.ckpt"

    @property
    def exist(self) -> bool:
        """Whether there is one, whole or not."""
        return self.last.exists() or self.previous.exists()

    def save(self, progress: Progress, network: nn.Module, optimiser: torch.optim.SGD) -> None:
        """Write `last.ckpt`, whole; what it was becomes `previous.ckpt`.

        Raises:
            RunWriteError: it could not be written; what was there still is.
        """
        tensors = {f"{_WEIGHT}{name}": tensor for name, tensor in network.state_dict().items()}
        tensors |= {f"{_MOMENTUM}{name}": tensor for name, tensor in _momenta(network, optimiser).items()}
        fresh = self.last.with_name("fresh.ckpt")
        write_tensors(fresh, tensors, asdict(progress))
        with write_failure_as_error(self.last):
            if self.last.exists():  # a kill between the two renames leaves `previous.ckpt` alone, which does as well
                self.last.replace(self.previous)
            fresh.replace(self.last)
            sync_folder(self.last.parent)

    def restore(self, network: nn.Module, optimiser: torch.optim.SGD) -> tuple[Progress, str | None]:
        """Load the newest whole checkpoint; where there never was one, all stays as it is.

        Returns:
            Where the run is, and what was wrong with `last.ckpt`, in words, or None.

        Raises:
            CheckpointError: there are checkpoints, and none is whole.
        """
        problems = []
        for path in (self.last, self.previous):
            if not path.exists():
                continue
            try:
                progress = _restore(path, network, optimiser)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            if path == self.previous:
                problems.append(f"continuing from {path}, step {progress.step:,}")
            return progress, "; ".join(problems) or None
        if problems:
            raise CheckpointError(f"{'; '.join(problems)}: restore one of them, or remove both to train from the start")
        return Progress(), None


def _restore(path: Path, network: nn.Module, optimiser: torch.optim.SGD) -> Progress:
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
    weights, momenta = _part(tensors, _WEIGHT), _part(tensors, _MOMENTUM)
    parameters = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    remembers = progress.step > 0 and any(group["momentum"] for group in optimiser.param_groups)
    require_like(path, weights, network.state_dict())
    require_like(path, momenta, parameters if remembers else {})
    network.load_state_dict(weights)
    for name, momentum in momenta.items():
        parameter = parameters[name]
        optimiser.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
    return progress


def _momenta(network: nn.Module, optimiser: torch.optim.SGD) -> dict[str, Tensor]:
    """The optimiser's memory by the weights' names; empty before the first step."""
    states: dict[str, Any] = {name: optimiser.state.get(p, {}) for name, p in network.named_parameters()}
    return {name: s["momentum_buffer"] for name, s in states.items() if s.get("momentum_buffer") is not None}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
