"""Late fusion: the scores of two evaluated runs, averaged. Shapes: V videos, C classes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from resact.errors import UsageError
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.testing.metrics import Scores, measure_videos
from resact.train.runs.testing.notes import notes_on
from resact.train.runs.testing.predictions import PREDICTIONS, Predictions, Provenance, read_predictions
from resact.train.runs.testing.trained import is_current


@dataclass(frozen=True, kw_only=True)
class FusedRun:
    """One of the two runs by itself."""

    provenance: Provenance
    scores: Scores
    notes: tuple[str, ...]
    """Notes for readers of its figures."""
    is_current: bool
    """Whether it has not been trained further since its evaluation."""


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """The averaged scores of two runs, and the scores of each."""

    runs: tuple[FusedRun, FusedRun]
    weight: float
    """Weight of the second run, in [0, 1]."""
    classes: tuple[str, ...]
    scores: Scores

    @property
    def name(self) -> str:
        """Its name, such as `0.5 x rgb-0 + 0.5 x residual-s1-0`."""
        first, second = (run.provenance.run for run in self.runs)
        return f"{1 - self.weight:g} x {first} + {self.weight:g} x {second}"


def fuse_runs(first: RunFolder, second: RunFolder, *, weight: float) -> Fusion:
    """Fuse two evaluated runs, using only their prediction files.

    Args:
        first: of one run.
        second: of another.
        weight: of the second, in [0, 1].

    Raises:
        RunError: one has no predictions.
        UsageError: as in `fuse`.
    """
    ours, theirs = (read_predictions(folder.path / PREDICTIONS) for folder in (first, second))
    classes = ours.classes.tolist()
    fused_VC = fuse(ours, theirs, weight)

    def alone(folder: RunFolder, predictions: Predictions) -> FusedRun:
        return FusedRun(
            provenance=predictions.provenance,
            scores=predictions.accuracy,
            notes=tuple(notes_on(predictions, folder.read_record().store.settings.dataset)),
            is_current=is_current(folder, predictions.provenance),
        )

    return Fusion(
        runs=(alone(first, ours), alone(second, theirs)),
        weight=weight,
        classes=tuple(classes),
        scores=measure_videos(fused_VC, ours.label, classes),
    )


def fuse(first: Predictions, second: Predictions, weight: float) -> npt.NDArray[np.float64]:
    """Late fusion of two runs: `(1 - weight) * first + weight * second`, of the video scores.

    Args:
        first: of one run.
        second: predictions of the other run, for the same videos.
        weight: of the second, in [0, 1].

    Returns:
        (V, C) probabilities.

    Raises:
        UsageError: the weight is out of range, or the two have different videos, labels or classes.
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
