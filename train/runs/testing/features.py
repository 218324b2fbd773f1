"""Features of each video of a store: a run's activations before the last layer.

Shapes: V videos, K views, R rows: V, or V x K where each clip has one, F features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from resact.cache.layout import MEMBERSHIPS, STATUSES
from resact.cache.settings import setting_words
from resact.cache.store import ClipStore
from resact.errors import DivergedError, UsageError
from resact.train.clips.sampling import TestPlan
from resact.train.clips.stream import ClipStream
from resact.train.runs.distributed import Ranks
from resact.train.runs.testing.evaluate import VIEWS
from resact.train.runs.testing.rows import network_rows
from resact.train.runs.testing.trained import TrainedRun

Per = Literal["video", "clip"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureTable:
    """One row per video or per clip, in the order of the store's index."""

    features: npt.NDArray[np.float32]
    """(R, F), finite."""
    columns: dict[str, npt.NDArray[Any]]
    """Name -> (R,): `video_id`, `class_name`, `label` (place among the store's classes), `group`, `status`, `padded`
    (whether a clip is longer than the video), `membership_SPLIT` (train, val, test or none) for each split; where rows
    are clips `view`, `start_frame` and `stop_frame` too, of the stored frames [start, stop)."""
    provenance: dict[str, Any]
    """Run, weights, store, geometry and so on, as plain values."""
    left_out: list[str]
    """Videos of the store without frames."""
    notes: list[str]
    """Notes for readers of the features."""


def run_features(
    trained: TrainedRun,
    store: ClipStore,
    *,
    views: int = VIEWS,
    per: Per = "video",
    threads: int | None = None,
    ranks: Ranks | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureTable:
    """`TrainedRun.features` of clips spread uniformly over all videos of a store.

    Args:
        trained: the run.
        store: any store; its classes may differ from the run's.
        views: clips per video.
        per: `video`: the mean over its views; `clip`: one row per view.
        threads: number of threads that read and decode; default: one per core.
        ranks: the processes that divide the videos; each must call this, and gets all features. None: this one alone.
        progress: called with the number of clips done and the total.

    Raises:
        UsageError: the store has no videos, or the network has no method that gives features.
        DivergedError: a feature is not finite.
    """
    index = store.index
    video_indices = np.flatnonzero(index.num_frames > 0)
    if not len(video_indices):
        raise UsageError(f"{store.files} has no video with frames: `resact info` says what it holds")
    plan = TestPlan(index, video_indices, trained.geometry, views=views)
    # One video a batch, so that its features depend on no other video.
    stream = ClipStream(
        store,
        plan,
        batch_size=views,
        normalisation=trained.normalisation,
        device=trained.device,
        threads=threads,
    )

    def rows_of(batch: Mapping[str, Any]) -> Tensor:
        features_KF = trained.features(batch)
        return features_KF.mean(0, keepdim=True) if per == "video" else features_KF

    features: npt.NDArray[np.float32] = network_rows(stream, rows_of, ranks=ranks, progress=progress).cpu().numpy()
    columns = _columns(store, plan, per)
    if len(bad := np.flatnonzero(~np.isfinite(features).all(1))):
        raise DivergedError(
            f"the network of {trained.name} gives features that are not finite, such as for "
            f"{str(columns['video_id'][bad[0]])!r}: its weights have diverged; train again with a smaller --lr"
        )
    differing = {
        key: list(values)
        for key, values in trained.record.store.settings.differences(store.settings).items()
        if key == "codec" or key.startswith("decode.")
    }
    notes = [f"{setting_words(key)}: trained on {was}, the store has {now}" for key, (was, now) in differing.items()]
    return FeatureTable(
        features=features,
        columns=columns,
        provenance={
            "run": trained.name,
            "weights": trained.weights,
            "weights_sha256": trained.weights_sha256,
            "epoch": trained.header.epoch,
            "precision": trained.precision,
            "compute_threads": torch.get_num_threads(),
            "geometry": asdict(trained.geometry),
            "per": per,
            "views": views,
            "dataset": store.settings.dataset.name,
            "classes": list(index.classes),
            "store_fingerprint": store.settings.fingerprint,
            "partial": store.partial,
            "differs_from_training": differing,
        },
        left_out=[index.video_id[video_index] for video_index in np.flatnonzero(index.num_frames == 0)],
        notes=notes,
    )


def _columns(store: ClipStore, plan: TestPlan, per: Per) -> dict[str, npt.NDArray[Any]]:
    index, video_indices = store.index, plan.video_indices
    columns: dict[str, npt.NDArray[Any]] = {
        "video_id": _texts([index.video_id[video_index] for video_index in video_indices]),
        "class_name": _texts([index.classes[label] for label in index.label[video_indices]]),
        "label": index.label[video_indices].astype(np.int64),
        "group": _texts([index.group[video_index] for video_index in video_indices]),
        "status": np.array(STATUSES)[index.status_code[video_indices]],
        "padded": index.num_frames[video_indices] < plan.geometry.frames_read,
    }
    for split, codes in index.splits.items():
        columns[f"membership_{split}"] = np.array(MEMBERSHIPS)[codes[video_indices]]
    if per == "video":
        return columns
    clips = [plan.clip(0, position) for position in range(len(plan))]
    return {name: column.repeat(plan.views) for name, column in columns.items()} | {
        "view": np.tile(np.arange(plan.views), len(video_indices)),
        "start_frame": np.array([clip.start for clip in clips]),
        "stop_frame": np.array([clip.stop for clip in clips]),
    }


def _texts(words: Sequence[str]) -> npt.NDArray[np.str_]:
    """Bytes of file names that are no UTF-8 as their escapes, since not every format can hold them."""
    return np.array([word.encode("utf-8", "backslashreplace").decode() for word in words], np.str_)
