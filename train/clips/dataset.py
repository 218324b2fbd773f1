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

    Each item is a dictionary: `rgb`, `residual` (3, T, D, D), as the plan's geometry asks; `label`; `video_id`. The
    plan orders the clips itself, so a loader needs no `shuffle`.

    Example:
        store = resact.open_store("data/sample.zarr")
        videos = store.index.video_indices("split1", "train")
        geometry = resact.ClipGeometry(modality="residual", frames=16)
        normalisation = resact.measure_normalisation(store, videos, geometry, seed=0)
        plan = resact.TrainPlan(store.index, videos, geometry, seed=0, flip=True)
        dataset = resact.ClipDataset(store, plan, normalisation=normalisation)
        loader = torch.utils.data.DataLoader(dataset, batch_size=4)
        for epoch in range(2):
            dataset.epoch = epoch  # other clips of the same videos; persistent workers see it too
            for batch in loader:
                residual_BCTHW, label_B = batch["residual"], batch["label"]
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

        Raises:
            UsageError: the normalisation lacks a modality of the plan.
        """
        for name in plan.geometry.streams:
            normalisation.scale_and_shift(name)  # raises now rather than in a worker
        self.store, self.plan, self.normalisation, self.dtype = store, plan, normalisation, dtype
        # Shared memory, or persistent workers would never see a new epoch.
        self._epoch = torch.tensor(epoch).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        """The epoch whose clips it gives."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, position: int) -> dict[str, Any]:
        clip = self.plan.clip(self.epoch, position)
        frames = torch.from_numpy(self.store.read_frames(clip.video_index, clip.start, clip.stop, crop=clip.crop))
        tensors = make_clip(frames, clip.cropped, self.plan.geometry, self.normalisation, dtype=self.dtype)
        index = self.store.index
        return {**tensors, "label": int(index.label[clip.video_index]), "video_id": index.video_id[clip.video_index]}
