"""Notes for readers of an evaluation's figures."""

import numpy as np

from resact.cache.grouping import note_on_tests
from resact.cache.names import first_of
from resact.cache.settings import DatasetSettings, setting_words
from resact.train.clips.geometry import ClipGeometry
from resact.train.runs.testing.metrics import TOP
from resact.train.runs.testing.predictions import Predictions

_FEW = 5  # videos of a class: each is 20 points of its accuracy, or more


_EXTENDED = {"mirror": "it is mirrored in time", "loop": "it is repeated", "hold": "its last frame is held"}


def padding_note(geometry: ClipGeometry, num_frames: int) -> str | None:
    """The note on a video that is shorter than a clip; None for a longer one."""
    if num_frames >= geometry.frames_read:
        return None
    return (
        f"its {num_frames} frames are fewer than the {geometry.frames_read} of a clip: "
        f"{_EXTENDED[geometry.short_clips]}, as in training"
    )


def notes_on(predictions: Predictions, dataset: DatasetSettings) -> list[str]:
    """Notes if figures differ from the paper's protocol on the run's own store, or do not cover the whole data set."""
    made, notes = predictions.provenance, []
    for key, (was, now) in made.differs_from_training.items():
        if key == "contents":
            notes.append("the store's videos, or their bytes, have changed since the run was trained")
        else:
            notes.append(f"{setting_words(key)}: trained on {was}, evaluated on {now}")
    if made.partial:
        notes.append(made.partial)
    if made.leak:
        notes.append(made.leak)
    ids, groups = predictions.video_id.tolist(), predictions.group.tolist()
    if known := note_on_tests(ids, groups, dataset, partial=made.partial):
        notes.append(known)
    if few := _few_videos(predictions):
        notes.append(few)
    if len(predictions.classes) < TOP:
        notes.append(f"top-{TOP} means nothing with {len(predictions.classes)} classes")
    return notes


def _few_videos(predictions: Predictions) -> str | None:
    """Which classes have so few videos that their accuracy says little, and with it the mean over classes."""
    videos_C = np.bincount(predictions.label, minlength=len(predictions.classes))
    few = np.flatnonzero(videos_C < _FEW).tolist()
    if not few:
        return None
    membership = predictions.provenance.membership
    named = first_of(few, show=lambda label: f"{predictions.classes[label]} {videos_C[label]}")
    return (
        f"{len(few):,} of {len(videos_C):,} classes have fewer than {_FEW} {membership} videos ({named}): their "
        "accuracy, and so mean class accuracy, says little"
    )
