"""Measures mean and standard deviation of the clips that a network is trained on."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from resact.cache.store import ClipStore
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.normalisation import Normalisation
from resact.train.clips.sampling import TrainPlan
from resact.train.clips.stream import ClipStream

_CLIPS_A_BATCH = 8


def measure_normalisation(
    store: ClipStore,
    video_indices: npt.NDArray[np.intp],
    geometry: ClipGeometry,
    *,
    seed: int,
    clips: int = 512,
    threads: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Normalisation:
    """Mean and standard deviation per colour channel over seeded training clips, for RGB and the residual at its step.

    Args:
        store: an open store.
        video_indices: the training videos; with fewer videos than `clips`, further epochs give other clips of them.
        geometry: geometry of the clips.
        seed: as in `TrainPlan`; clips are drawn as in training.
        clips: number of clips to measure.
        threads: number of reading threads; the result does not depend on it.
        progress: called with the number of clips done and the total.

    Returns:
        The normalisation, in 8-bit pixel values. A channel that never changes gets a standard deviation of 1.

    Raises:
        UsageError: there are no videos, or the seed is out of range.
        StoreError: a clip could not be read.

    Example:
        store = resact.open_store("data/sample.zarr")
        videos = store.index.video_indices("split1", "train")
        normalisation = resact.measure_normalisation(store, videos, resact.ClipGeometry(), seed=0)
    """
    plan = TrainPlan(store.index, video_indices, geometry, seed=seed, flip=False)
    zeros, ones = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    as_they_are = Normalisation(rgb_mean=zeros, rgb_std=ones, residual_mean=zeros, residual_std=ones)
    stream = ClipStream(store, plan, batch_size=_CLIPS_A_BATCH, normalisation=as_they_are, threads=threads)
    sums = {name: torch.zeros(2, 3, dtype=torch.float64) for name in geometry.streams}
    taken = epoch = 0
    while taken < clips:
        with stream.epoch(epoch) as reader:
            for batch in reader:
                count = min(len(batch["label"]), clips - taken)
                for name, total in sums.items():
                    # Whole numbers below 2^53: exact, in whatever order they are summed.
                    colours_CN = batch[name][:count].transpose(0, 1).flatten(1).double()
                    total += torch.stack([colours_CN.sum(1), colours_CN.square().sum(1)])
                taken += count
                progress(taken, clips)
                if taken == clips:
                    break
        epoch += 1
    values = clips * geometry.frames * geometry.size**2
    measured = {}
    for name, total in sums.items():
        mean, square = total / values
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        measured[f"{name}_mean"] = tuple(mean.tolist())
        measured[f"{name}_std"] = tuple(torch.where(deviation > 0, deviation, 1.0).tolist())
    return Normalisation(**measured)
