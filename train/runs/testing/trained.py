"""A run opened for inference: its network with weights, and its record."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resact.errors import CheckpointError, RunNotFoundError, UsageError
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.normalisation import Normalisation
from resact.train.networks.modules import use_form
from resact.train.runs.execution import autocast, chosen_device, convolution_form, memory_format, place
from resact.train.runs.files.folder import RunFolder, WeightsHeader, Which
from resact.train.runs.files.record import RunRecord
from resact.train.runs.files.tensors import read_with_sha256, sha256_of
from resact.train.runs.testing.predictions import Provenance


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """One run; made by `load_trained`."""

    name: str
    record: RunRecord
    network: nn.Module
    """The network on `device`, in evaluation mode."""
    device: torch.device
    weights: Which
    header: WeightsHeader
    weights_sha256: str
    """sha256 of the weights file, in hex."""

    @property
    def geometry(self) -> ClipGeometry:
        """Geometry of the clips that it was trained on."""
        return self.record.config.geometry

    @property
    def precision(self) -> str:
        """`bfloat16` (autocast) if it was trained that way, else `float32`."""
        return "bfloat16" if self.record.config.amp else "float32"

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names, in the order of the logits."""
        return self.record.classes

    @property
    def normalisation(self) -> Normalisation:
        """Normalisation of the clips that it was trained on."""
        return self.record.normalisation

    def logits(self, batch: Mapping[str, Any]) -> Tensor:
        """(B, C) float32, not yet softmaxed, on the run's device.

        Args:
            batch: `rgb` and/or `residual` (B, 3, T, D, D), as the run's network takes them, cropped and normalised as
                `ClipStream`, `ClipDataset` and `Run.batch` do it; on any device. What else it holds plays no part.

        Raises:
            UsageError: a modality is missing, or has a wrong shape or dtype.
        """
        return self._computed(self.network, batch)

    def features(self, batch: Mapping[str, Any]) -> Tensor:
        """(B, F) float32, on the run's device: what the last layer makes the logits of.

        Of the paper's networks that is fc1's output after its ReLU (F is 2048 times `width`). A network of your own
        says it with a method `features(rgb=, residual=)`.

        Args:
            batch: as in `logits`.

        Raises:
            UsageError: as in `logits`, or the network has no such method.
        """
        method = getattr(self.network, "features", None)
        if not callable(method) or isinstance(method, nn.Module):  # a part of that name takes no rgb= and residual=
            raise UsageError(
                f"the network of {self.name} has no method features(rgb=, residual=) that returns (B, F): "
                "give its class one, or use its logits"
            )
        features_BF = self._computed(method, batch)
        if features_BF.ndim != 2:
            raise UsageError(f"{self.name}: its network's features are {tuple(features_BF.shape)}, expected (B, F)")
        return features_BF

    def _computed(self, compute: Callable[..., Tensor], batch: Mapping[str, Any]) -> Tensor:
        config, streams = self.record.config, self.geometry.streams
        if missing := [name for name in streams if name not in batch]:
            raise UsageError(
                f"got a batch of {', '.join(batch) or 'nothing'} without {' and '.join(missing)}, which {self.name} "
                f"takes: make it with modality={self.geometry.modality!r}"
            )
        clips = {name: batch[name].to(self.device, memory_format=memory_format(config)) for name in streams}
        # Without inference mode, whose tensors could not go into training, such as that of a head on features.
        with torch.no_grad(), autocast(config, self.device):
            return compute(**clips).float()


def find_run(run: str | None, runs: Path) -> RunFolder:
    """The run with that name or path; default: the run whose weights were written last.

    Args:
        run: name below `runs`, or a path.
        runs: folder of runs.

    Raises:
        RunNotFoundError: there is no such run.
    """
    if run is not None:
        for path in (runs / run, Path(run)):
            if RunFolder(path).exists:
                return RunFolder(path)
    there = {folder: folder.weights("last") for folder in map(RunFolder, sorted(runs.glob("*"))) if folder.exists}
    if run is not None:
        names = ", ".join(folder.name for folder in there) or "no runs"
        raise RunNotFoundError(f"no run {run!r}: {runs} holds {names}; train one with `resact train`, or name another")
    trained = [folder for folder, weights in there.items() if weights.exists()]
    if not trained:
        raise RunNotFoundError(f"no trained run in {runs}: train one with `resact train`, or name another --runs")
    return max(trained, key=lambda folder: there[folder].stat().st_mtime_ns)


def load_trained(folder: RunFolder, *, weights: Which = "last", device: str | torch.device | None = None) -> TrainedRun:
    """Open a run for inference; nothing in its files is unpickled.

    Args:
        folder: folder of the run, which may still be training.
        weights: `last` (after the last completed epoch) or `best` (best validation accuracy).
        device: default: the GPU if there is one, else the CPU.

    Raises:
        RunNotFoundError: no run there.
        CheckpointError: no such weights yet, or they have changed since they were written.
    """
    record, path = folder.read_record(), folder.weights(weights)
    if not path.is_file():
        best = "it keeps best weights only where it holds out groups (--val-groups); " if weights == "best" else ""
        raise CheckpointError(
            f"{folder} has no {path.name}: {best}weights are first written at the end of the first epoch"
        )
    (network, header), digest = read_with_sha256(path, lambda: folder.read_network(weights))
    target = chosen_device(device)
    place(network, record.config, target)
    if target.type == "cuda":  # the form that was right there, for cuDNN's own 3D one may not be
        use_form(network, convolution_form(record.config))
    return TrainedRun(
        name=folder.name,
        record=record,
        network=network.eval(),
        device=target,
        weights=weights,
        header=header,
        weights_sha256=digest,
    )


def is_current(folder: RunFolder, made: Provenance) -> bool:
    """Whether predictions are from the run's current weights, not from weights before it was trained further."""
    path = folder.weights(made.weights)
    return path.is_file() and sha256_of(path) == made.weights_sha256
