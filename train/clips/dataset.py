"""Clips one by one, for code that brings its own loader."""

from typing import Any

import torch
from torch.utils.data import Dataset

from resact.cache.store import ClipStore
from resact.train.clips.normalisation import Normalisation
from resact.train.clips.sampling import ClipPlan
from resact.train.clips.transform import make_clip


class ClipDataset(Dataset[dict[str, Any]]):
    """The same clips as `ClipStream`'s, as a map from position to clip; may be sent to other processes.

    Each item is a dictionary: `rgb`, `residual` (3, T, D, D), those that the plan's geometry asks for; `label`;
    `video_id`.
    """

    def __init__(
        self,
        store: ClipStore,
        plan: ClipPlan,
        *,
        normalisation: Normalisation,
        dtype: torch.dtype = torch.float32,
        epoch: int = 0,
    ) -> None:
        """Args:
        store: an open store.
        plan: which clips.
        normalisation: of the plan's modalities.
        dtype: of the clips.
        epoch: whose clips; assign to `epoch` before a loader starts its next pass.

        """
        self.store, self.plan, self.normalisation, self.dtype, self.epoch = store, plan, normalisation, dtype, epoch

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, position: int) -> dict[str, Any]:
        clip = self.plan.clip(self.epoch, position)
        frames = torch.from_numpy(self.store.read_frames(clip.video_index, clip.start, clip.stop, crop=clip.crop))
        tensors = make_clip(frames, clip.cropped, self.plan.geometry, self.normalisation, dtype=self.dtype)
        index = self.store.index
        return {**tensors, "label": int(index.label[clip.video_index]), "video_id": index.video_id[clip.video_index]}
