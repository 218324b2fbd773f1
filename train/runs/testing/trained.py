"""A run opened for inference: its network with the weights that it has, and all that goes with them."""

from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resact.errors import CheckpointError, RunNotFoundError
from resact.train.clips.geometry import ClipGeometry
from resact.train.runs.execution import autocast, memory_format, place
from resact.train.runs.files.folder import RunFolder, WeightsHeader, Which
from resact.train.runs.files.record import RunRecord
from resact.train.runs.testing.predictions import Provenance


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """One run; made by `load_trained`."""

    name: str
    record: RunRecord
    network: nn.Module
    """On `device`, in evaluation mode."""
    device: torch.device
    weights: Which
    header: WeightsHeader
    weights_sha256: str
    """Of the file of weights, in hex."""

    @property
    def geometry(self) -> ClipGeometry:
        """Of the clips that it was trained on."""
        return self.record.config.geometry

    @property
    def precision(self) -> str:
        """`bfloat16` (autocast), where it was trained so, or `float32`."""
        return "bfloat16" if self.record.config.amp else "float32"

    def logits(self, batch: dict[str, Any]) -> Tensor:
        """(B, C) float32, on the device.

        Args:
            batch: as `ClipStream` gives it.
        """
        config = self.record.config
        clips = {name: batch[name].to(memory_format=memory_format(config)) for name in self.geometry.streams}
        with torch.inference_mode(), autocast(config, self.device):
            logits_BC: Tensor = self.network(**clips)
        return logits_BC.float()


def find_run(run: str | None, runs: Path) -> RunFolder:
    """The run of that name or at that path; left out, the one whose weights were written last.

    Args:
        run: name below `runs`, or a path.
        runs: folder of runs.

    Raises:
        RunNotFoundError: none.
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
        folder: of the run, which may still be training.
        weights: those of the last whole epoch, or of the best validation.
        device: left out, the GPU where there is one, else the CPU.

    Raises:
        RunNotFoundError: no run there.
        CheckpointError: no such weights yet, or not what was written.
    """
    record, path = folder.read_record(), folder.weights(weights)
    if not path.is_file():
        best = "it keeps best weights only where it holds out groups (--val-groups); " if weights == "best" else ""
        raise CheckpointError(
            f"{folder} has no {path.name}: {best}weights are first written at the end of the first epoch"
        )
    while True:
        digest = _sha256(path)
        network, header = folder.read_network(weights)
        if digest == _sha256(path):  # a training that goes on may have replaced the file between
            break
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    place(network, record.config, target)
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
    """Whether predictions are of the weights that the run has now, and not of those before it was trained further."""
    path = folder.weights(made.weights)
    return path.is_file() and _sha256(path) == made.weights_sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
