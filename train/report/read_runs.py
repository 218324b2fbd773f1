"""Reads the runs of a folder as far as possible: damaged ones are named, and do not stop the report.

Shapes: V videos, C classes.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from resact.cache.grouping import note_on_tests
from resact.cache.settings import setting_words
from resact.errors import ResactError
from resact.train.networks.architecture import Architecture
from resact.train.networks.build import build
from resact.train.networks.cost import Cost, count_cost
from resact.train.networks.variants import VARIED
from resact.train.report.group import Group
from resact.train.report.paper import PAPER_ROWS, RowKey
from resact.train.runs.files.config import BALANCED, EXTRAS, SETTINGS
from resact.train.runs.files.folder import RunFolder, WeightsHeader
from resact.train.runs.files.history import read_metrics
from resact.train.runs.files.record import RunRecord
from resact.train.runs.testing.evaluate import VIEWS
from resact.train.runs.testing.metrics import TOP, ranking
from resact.train.runs.testing.predictions import PREDICTIONS, Predictions, read_predictions
from resact.train.runs.testing.trained import is_current

State = Literal["done", "training", "stopped", "not evaluated", "evaluated otherwise", "damaged"]

_EXECUTION = {"compile", "channels_last", "checkpoint_activations", "kernels"}
"""Settings of how a run is computed, which should not change its results."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """A run's correct videos, by the paper's protocol."""

    hits1: npt.NDArray[np.bool_]
    """(V,) whether the true class scores highest."""
    hits5: npt.NDArray[np.bool_] | None
    """(V,) whether the true class is among the five highest; None with fewer than five classes."""
    video_id: tuple[str, ...]
    cluster: tuple[tuple[int, str], ...]
    """(V,) class and group: equal values are videos that show one scene."""
    leak: str | None
    """Videos on two sides of the split, in words; None if none is known."""

    @property
    def top1(self) -> float:
        """Top-1 in percent of videos."""
        return 100 * float(self.hits1.mean())

    @property
    def top5(self) -> float | None:
        """Top-5 in percent of videos; None with fewer than five classes."""
        return None if self.hits5 is None else 100 * float(self.hits5.mean())


@dataclass(frozen=True, kw_only=True, eq=False)
class ReadRun:
    """One run."""

    folder: RunFolder
    record: RunRecord
    state: State
    problem: str | None
    """Explanation of a state other than `done`."""
    epoch: int
    """Epochs trained."""
    clips_per_second: float | None
    """Clips per second of its training steps; None before the first step."""
    evaluation: Evaluation | None
    """Evaluation of a finished run."""

    @property
    def path(self) -> str:
        """Path of its folder."""
        return str(self.folder)

    @property
    def tested(self) -> Evaluation:
        """Its evaluation; only for a finished run."""
        assert self.evaluation is not None
        return self.evaluation

    @property
    def key(self) -> RowKey:
        """The key of the row that it fills."""
        network, geometry = self.record.architecture, self.record.config.geometry
        return RowKey(
            network=network.network,
            modality=network.modality,
            step=geometry.step if "residual" in geometry.streams else None,
            attention=bool(network.attention),
            feature_residual=bool(network.feature_residual),
        )

    @property
    def fills_a_row(self) -> bool:
        """Whether it is one of the paper's: of its networks, from scratch, without parts that it does not mention."""
        settings = self.record.config.settings
        plain = self.record.initial is None and all(settings[name] == SETTINGS[name].default for name in EXTRAS)
        return plain and self.key in {row.key for row in PAPER_ROWS}

    @property
    def group(self) -> Group:
        """The group of runs that it may share a table with."""
        record = self.record
        settings = {
            name: value
            for name, value in record.config.settings.items()
            if name not in _EXECUTION.union(VARIED, ("split", "init_from"))
        }
        settings["conv"] = None if record.architecture.network == "3d-resnet50" else record.architecture.conv
        return Group(
            dataset=record.store.dataset,
            split=str(record.config.split),
            partial=record.store.partial,
            fingerprint=record.store.fingerprint,
            contents=record.store.contents,
            world_size=record.world_size,
            changed_devices=record.devices_in_words if record.earlier_devices else None,
            earlier_epochs=record.earlier_epochs,
            source=None if record.source is None else record.source.digest,
            initial=None if record.initial is None else record.initial.short_words,
            class_ratios=_class_ratios(record),
            settings=tuple(sorted(settings.items())),
        )

    @property
    def notes(self) -> list[str]:
        """Notes if recordings may be, or videos are, on both sides of the split."""
        if self.evaluation is None:
            return []
        store, groups = self.record.store, [group for _, group in self.evaluation.cluster]
        known = note_on_tests(self.evaluation.video_id, groups, store.settings.dataset, partial=store.partial)
        return [note for note in (self.evaluation.leak, known) if note is not None]

    @property
    def cost(self) -> Cost:
        """Cost of its own network for one of its own clips."""
        if self.record.source is not None:
            return self.record.source.cost
        geometry = self.record.config.geometry
        return _cost(self.record.architecture, geometry.frames, geometry.size)

    @property
    def next_command(self) -> str | None:
        """The next command to run; None if it is done or being trained."""
        if self.state == "stopped" or (self.state == "damaged" and self.epoch < self.record.config.recipe.epochs):
            return self.folder.resume_command(self.record.world_size)
        return f"resact evaluate {self.folder}" if self.state in _TO_EVALUATE else None


_TO_EVALUATE = ("not evaluated", "evaluated otherwise", "damaged")


@dataclass(frozen=True, kw_only=True)
class BrokenRun:
    """A folder whose record cannot be read."""

    path: str
    problem: str


def read_runs(runs: Path, *, without: Collection[str] = ()) -> tuple[list[ReadRun], list[BrokenRun]]:
    """The runs in a folder, by name; other folders in it are ignored."""
    found, broken = [], []
    for path in sorted(entry for entry in runs.iterdir() if entry.is_dir() and entry.name not in without):
        folder, problem = RunFolder(path), None
        if folder.exists:
            try:
                found.append(_read_run(folder, folder.read_record()))
            except UnicodeDecodeError as error:
                problem = f"{folder.config} is not a text file ({error}): restore it, or train again"
            except (ResactError, OSError) as error:
                problem = str(error)
        elif folder.is_held:
            problem = "a training is about to start here"
        elif folder.weights("last").exists() or folder.metrics.exists():
            problem = f"{folder.config.name} is missing: restore it, or train again"
        if problem is not None:
            broken.append(BrokenRun(path=str(path), problem=problem))
    return found, broken


def _read_run(folder: RunFolder, record: RunRecord) -> ReadRun:
    epoch, evaluation = 0, None
    state: State
    problem: str | None
    try:
        header = folder.weights_header()
        epoch = 0 if header is None else header.epoch
        state, problem, predictions = _state(folder, header, record)
        evaluation = None if predictions is None else _evaluation(predictions)
    except (ResactError, OSError, UnicodeDecodeError) as error:
        state, problem = "damaged", str(error)
    try:
        rate = _clips_per_second(folder)
    except (ResactError, OSError, KeyError, TypeError) as error:
        rate = None
        problem = "; ".join(filter(None, (problem, f"its speed is unknown ({error!s})")))
    return ReadRun(
        folder=folder,
        record=record,
        state=state,
        problem=problem,
        epoch=epoch,
        clips_per_second=rate,
        evaluation=evaluation,
    )


def _class_ratios(record: RunRecord) -> tuple[float, ...]:
    if record.class_weights is None or record.config.recipe.class_weights == BALANCED:
        return ()
    return tuple(float(f"{weight / record.class_weights[0]:.9g}") for weight in record.class_weights)


def _state(
    folder: RunFolder, header: WeightsHeader | None, record: RunRecord
) -> tuple[State, str | None, Predictions | None]:
    epochs = record.config.recipe.epochs  # not the weights' number, which may be older than --resume --epochs
    if header is None or header.epoch < epochs:
        trained = "no epoch is finished yet" if header is None else f"epoch {header.epoch} of {epochs}"
        return "training" if folder.is_held else "stopped", trained, None
    path = folder.path / PREDICTIONS
    if not path.exists():
        return "not evaluated", "training finished", None
    predictions = read_predictions(path)
    if other := _other_protocol(folder, predictions):
        return "evaluated otherwise", other, None
    return "done", None, predictions


def _other_protocol(folder: RunFolder, predictions: Predictions) -> str | None:
    """How predictions differ from the paper's test of this run; None if they do not."""
    made, views = predictions.provenance, predictions.logits.shape[1]
    if made.weights != "last":
        return f"evaluated with its {made.weights} weights, but the tables use the last epoch's"
    if not is_current(folder, made):
        return "its predictions are from other weights than it has now"
    if made.membership != "test" or views != VIEWS:
        return f"evaluated with {views} views of {made.membership} videos, and the paper has {VIEWS} of test videos"
    if made.differs_from_training:
        differing = ", ".join(map(setting_words, made.differs_from_training))
        return f"evaluated on another store than it was trained on ({differing})"
    return None


def _evaluation(predictions: Predictions) -> Evaluation:
    ranks_VC, label_V = ranking(predictions.scores), predictions.label
    top5_V = (ranks_VC[:, :TOP] == label_V[:, None]).any(1) if ranks_VC.shape[1] >= TOP else None
    return Evaluation(
        hits1=ranks_VC[:, 0] == label_V,
        hits5=top5_V,
        video_id=tuple(predictions.video_id.tolist()),
        cluster=tuple(zip(label_V.tolist(), predictions.group.tolist(), strict=True)),
        leak=predictions.provenance.leak,
    )


def _clips_per_second(folder: RunFolder) -> float | None:
    """Clips per second of all steps in the history, before and after a resumption, without validation."""
    steps = [line for line in read_metrics(folder.metrics) if line["kind"] == "step"]
    seconds = sum(line["seconds"] for line in steps)
    return sum(line["clips"] for line in steps) / seconds if seconds else None


@lru_cache
def _cost(architecture: Architecture, frames: int, size: int) -> Cost:
    with torch.device("meta"):
        network = build(architecture, frames=frames, size=size)
    return count_cost(network, frames=frames, size=size)
