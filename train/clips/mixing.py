"""Changes to a batch of training clips before its step: mixup, and dropping one of two inputs.

Both are drawn per clip from seed, epoch and position. Shapes: B clips.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from resact.train.clips.sampling import Purpose, below, random_words, share


def mix_batch(
    batch: dict[str, Any],
    streams: Sequence[str],
    *,
    seed: int,
    epoch: int,
    mixup: float | None = None,
    drop_modality: float | None = None,
) -> dict[str, Any]:
    """The changed batch.

    Args:
        batch: a batch from `ClipStream`; its clips may be overwritten.
        streams: its inputs, such as `rgb` and `residual`.
        seed: seed of the run.
        epoch: epoch of the batch.
        mixup: alpha of the Beta distribution, both of its parameters (arXiv 1710.09412): each clip becomes `share`
            times itself plus `1 - share` times the clip after it in the batch, the last one with the first.
        drop_modality: probability that one of a clip's two inputs (either is equally likely) becomes 0, which is its
            mean.

    Returns:
        The batch; after mixup with `partner_label` (B,) and `share` (B,), float32.
    """
    if mixup is not None:
        batch = batch | _mixed(batch, streams, seed=seed, epoch=epoch, alpha=mixup)
    if drop_modality is not None:
        for position_in_batch, position in enumerate(batch["positions"]):
            dropped = dropped_stream(seed, epoch, position, streams, drop_modality)
            if dropped is not None:
                batch[dropped][position_in_batch].zero_()
    return batch


def mixup_share(seed: int, epoch: int, position: int, alpha: float) -> float:
    """A clip's share in its mixture, from Beta(alpha, alpha)."""
    words = np.random.Philox(key=[seed, Purpose.MIXUP], counter=[0, position, epoch, 0])
    # `RandomState` never changes its draws, unlike `Generator` (NEP 19).
    return float(np.random.RandomState(words).beta(alpha, alpha))


def dropped_stream(seed: int, epoch: int, position: int, streams: Sequence[str], probability: float) -> str | None:
    """The input of a clip that is dropped, if any."""
    whether, which, *_ = random_words(seed, Purpose.DROP, epoch, position)
    return streams[below(which, len(streams))] if share(whether) < probability else None


def _mixed(batch: dict[str, Any], streams: Sequence[str], *, seed: int, epoch: int, alpha: float) -> dict[str, Tensor]:
    label_B: Tensor = batch["label"]
    shares = [mixup_share(seed, epoch, position, alpha) for position in batch["positions"]]
    share_B = torch.tensor(shares).to(label_B.device, non_blocking=True)
    mixed = {"share": share_B, "partner_label": label_B.roll(-1)}
    for name in streams:
        clips: Tensor = batch[name]
        own_B1111 = share_B.to(clips.dtype).view(-1, 1, 1, 1, 1)
        mixed[name] = clips * own_B1111 + clips.roll(-1, 0) * (1 - own_B1111)
    return mixed
