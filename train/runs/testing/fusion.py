"""Late fusion: the scores of two evaluated runs, averaged. Shapes: V videos, C classes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resact.errors import UsageError
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.testing.metrics import Scores, measure, measure_videos
from resact.train.runs.testing.notes import notes_on
from resact.train.runs.testing.predictions import PREDICTIONS, Predictions, Provenance, read_predictions
from resact.train.runs.testing.trained import is_current


@dataclass(frozen=True, kw_only=True)
class FusedRun:
    """One of the two, by itself."""

    provenance: Provenance
    scores: Scores
    notes: tuple[str, ...]
    """What a reader of its figures should know."""
    is_current: bool
    """Whether it has not been trained further since."""


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """Two runs' scores, averaged, and those of each."""

    runs: tuple[FusedRun, FusedRun]
    weight: float
    """Of the second, in [0, 1]."""
    classes: tuple[str, ...]
    scores: Scores

    @property
    def name(self) -> str:
        """Such as `0.5 x rgb-0 + 0.5 x residual-s1-0`."""
        first, second = (run.provenance.run for run in self.runs)
        return f"{1 - self.weight:g} x {first} + {self.weight:g} x {second}"


def fuse_runs(first: RunFolder, second: RunFolder, *, weight: float) -> Fusion:
    """Fuse two evaluated runs, from disk alone.

    Args:
        first: of one run.
        second: of another.
        weight: of the second, in [0, 1].

    Raises:
        RunError: one has no predictions.
        UsageError: as for `fuse`.
    """
    ours, theirs = (read_predictions(folder.path / PREDICTIONS) for folder in (first, second))
    classes, label = ours.classes.tolist(), ours.label
    fused_VC = fuse(ours, theirs, weight)

    def alone(folder: RunFolder, predictions: Predictions) -> FusedRun:
        return FusedRun(
            provenance=predictions.provenance,
            scores=measure(predictions.logits, label, classes),
            notes=tuple(notes_on(predictions, folder.read_record().store.settings.dataset)),
            is_current=is_current(folder, predictions.provenance),
        )

    return Fusion(
        runs=(alone(first, ours), alone(second, theirs)),
        weight=weight,
        classes=tuple(classes),
        scores=measure_videos(fused_VC, label, classes),
    )


def fuse(first: Predictions, second: Predictions, weight: float) -> npt.NDArray[np.float64]:
    """Late fusion of two runs: `(1 - weight) * first + weight * second`, of the videos' scores.

    Args:
        first: of one run.
        second: of another, for the same videos.
        weight: of the second, in [0, 1].

    Returns:
        (V, C) probabilities.

    Raises:
        UsageError: the weight is none, or the two are not of the same videos, labels and classes.
    """
    if not 0 <= weight <= 1:
        raise UsageError(f"got --weight {weight}, expected 0 (the first run alone) to 1 (the second alone)")
    for name in ("classes", "video_id", "label"):
        ours, theirs = getattr(first, name), getattr(second, name)
        if not np.array_equal(ours, theirs):
            raise UsageError(
                f"cannot fuse {first.provenance.run} and {second.provenance.run}: {_difference(name, ours, theirs)}; "
                "evaluate both on the same split of the same data set"
            )
    return (1 - weight) * first.scores + weight * second.scores


def _difference(name: str, ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> str:
    if len(ours) != len(theirs):
        return f"{len(ours):,} and {len(theirs):,} of {name}"
    row = int(np.flatnonzero(ours != theirs)[0])
    return f"{name} differ, first {ours[row].item()!r} and {theirs[row].item()!r}"
