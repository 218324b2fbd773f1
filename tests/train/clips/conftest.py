"""Streams over small stores, and the plain way to the same clips."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from resact.cache.store import ClipStore
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.normalisation import Normalisation
from resact.train.clips.plain_transform import transform_clip
from resact.train.clips.sampling import TrainPlan
from resact.train.clips.stream import ClipStream

GEOMETRY = ClipGeometry(modality="both", frames=8, step=2, size=12)
NORMALISATION = Normalisation(
    rgb_mean=(90, 80, 70), rgb_std=(60, 61, 62), residual_mean=(9, 8, 7), residual_std=(20, 21, 22)
)


def plan_of(store: ClipStore, *, seed=0, geometry=GEOMETRY):
    return TrainPlan(store.index, np.arange(len(store.index)), geometry, seed=seed, flip=True)


def stream_of(store: ClipStore, plan=None, **options):
    options = {"batch_size": 5, "normalisation": NORMALISATION, "threads": 2, **options}
    return ClipStream(store, plan or plan_of(store), **options)


def clip_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("resact-clips")]


def by_hand(store: ClipStore, plan, epoch: int, position: int) -> dict[str, torch.Tensor]:
    """One clip through the plain transform."""
    clip = plan.clip(epoch, position)
    frames = store.read(store.index.video_id[clip.video_index], clip.start, clip.stop)
    return transform_clip(torch.from_numpy(frames), clip, plan.geometry, NORMALISATION)


def assert_clips(batch: dict[str, Any], expected: Callable[[int], dict[str, torch.Tensor]]) -> None:
    """Each clip of a batch is the expected one of its position, to the bit."""
    for place, position in enumerate(batch["positions"]):
        for name, clip in expected(position).items():
            assert torch.equal(batch[name][place], clip), (name, position)
