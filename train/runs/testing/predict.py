"""A run's predictions for videos that are in no data set."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from resact.cache.store import ClipStore
from resact.errors import DecodeError
from resact.train.clips.sampling import TestPlan
from resact.train.runs.testing.evaluate import VIEWS, clip_logits
from resact.train.runs.testing.metrics import ranking, video_scores
from resact.train.runs.testing.predictions import require_finite
from resact.train.runs.testing.trained import TrainedRun


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """The prediction for one video."""

    logits: npt.NDArray[np.float32]
    """(K, C) logits of each view."""
    top: list[tuple[str, float]]
    """Classes and their probabilities, the most likely first."""
    num_frames: int
    """Number of frames at the frame rate of the run's store."""
    padded: bool
    """Whether a clip is longer than the video, which is then extended in time, as in training."""


def predict_video(trained: TrainedRun, store: ClipStore, *, views: int = VIEWS, top: int = 5) -> Prediction:
    """Predict a video as `evaluate_run` does: the softmax averaged over its views.

    Args:
        trained: the run.
        store: store of one video, decoded as the run's store was.
        views: number of clips to average.
        top: number of classes to return.

    Raises:
        DecodeError: the video has no two frames one step apart.
        DivergedError: the network's logits are not finite.
    """
    num_frames = int(store.index.num_frames[0])
    geometry = trained.geometry
    if "residual" in geometry.streams and num_frames <= geometry.step:
        raise DecodeError(
            f"too short: {num_frames} frames, and a residual needs two frames that are {geometry.step} apart"
        )
    plan = TestPlan(store.index, np.arange(1), geometry, views=views)
    logits = clip_logits(trained, store, plan)
    require_finite(logits, store.index.video_id)
    scores = video_scores(logits)
    best = ranking(scores)[0, :top]
    return Prediction(
        logits=logits[0],
        top=[(trained.record.classes[place], float(scores[0, place])) for place in best],
        num_frames=num_frames,
        padded=plan.padded_share > 0,
    )
