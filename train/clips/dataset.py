"""Clips one by one, for code with its own loader."""

from typing import Any

import torch
from torch.utils.data import Dataset

from resact.cache.store import ClipStore
from resact.train.clips.normalisation import Normalisation
from resact.train.clips.sampling import ClipPlan
from resact.train.clips.transform import make_clip


class ClipDataset(Dataset[dict[str, Any]]):
    """A map-style data set with the same clips as `ClipStream`; it can be pickled to other processes.

    Each item is a dictionary: `rgb`, `residual` (3, T, D, D), as the plan's geometry asks; `label`; `video_id`.
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
        normalisation: for the plan's modalities.
        dtype: dtype of the clips.
        epoch: the epoch whose clips to give; assign to `epoch` before each new pass of a loader.

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
