"""The paper's test: 10 clips spread uniformly over each test video, scores averaged (paper, sec. 3).

Shapes: V videos, K views, C classes.
"""

from collections.abc import Callable
from dataclasses import asdict
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from resact.cache.leaks import leak_words, store_leaks
from resact.cache.settings import setting_words
from resact.cache.store import ClipStore
from resact.errors import SettingsError, UsageError
from resact.train.clips.sampling import TestPlan
from resact.train.clips.stream import ClipStream
from resact.train.runs.distributed import Ranks
from resact.train.runs.files.record import StoreIdentity
from resact.train.runs.testing.predictions import Predictions, Provenance
from resact.train.runs.testing.rows import network_rows
from resact.train.runs.testing.trained import TrainedRun

VIEWS = 10
"""Clips per video (paper, sec. 3)."""

_STORAGE = ("codec", "library", "decode.ffmpeg")  # settings that change how frames are stored, not which


def clip_logits(
    trained: TrainedRun,
    store: ClipStore,
    plan: TestPlan,
    *,
    batch_size: int | None = None,
    threads: int | None = None,
    ranks: Ranks | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """(V, K, C) logits of the plan's clips.

    Args:
        trained: the run.
        store: the plan's store.
        plan: videos and views.
        batch_size: clips per batch; default: those of one video, so that its logits do not depend on other videos.
        threads: number of threads that read and decode; default: one per core.
        ranks: the processes that divide the batches; each must call this, and gets all logits. None: this one alone.
        progress: called with the number of clips done and the total.
    """
    stream = ClipStream(
        store,
        plan,
        batch_size=plan.views if batch_size is None else batch_size,
        normalisation=trained.record.normalisation,
        device=trained.device,
        threads=threads,
    )
    logits_NC = network_rows(stream, trained.logits, ranks=ranks, progress=progress)
    logits: npt.NDArray[np.float32] = logits_NC.view(-1, plan.views, logits_NC.shape[1]).cpu().numpy()
    return logits


def evaluate_run(
    trained: TrainedRun,
    store: ClipStore,
    *,
    views: int = VIEWS,
    membership: str = "test",
    other_codec: bool = False,
    batch_size: int | None = None,
    threads: int | None = None,
    ranks: Ranks | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """A run's predictions for the videos on one side of its split, by default `test`.

    Args:
        trained: the run.
        store: its store, or another of the same data set, decoded in the same way.
        views: clips per video.
        membership: `test`, `val` or `train`.
        other_codec: allow frames with another codec, such as a lossless one.
        batch_size: as in `clip_logits`.
        threads: as in `clip_logits`.
        ranks: as in `clip_logits`.
        progress: as in `clip_logits`.

    Raises:
        SettingsError: the store has other videos, or was decoded in another way.
        UsageError: it has none of the split's videos.
        DivergedError: the network's logits are not finite.
    """
    differs = _differences(trained, store, other_codec=other_codec)
    index, split = store.index, trained.record.config.split
    assert split is not None
    video_indices = index.video_indices(split, membership)
    if not len(video_indices):
        others = [side for side, number in index.sides(split).items() if number and side != membership]
        raise UsageError(
            f"{store.files} has no {membership} video in {split}: choose another --membership, one of "
            f"{', '.join(others) or 'none'}"
        )
    plan = TestPlan(index, video_indices, trained.geometry, views=views)
    logits = clip_logits(trained, store, plan, batch_size=batch_size, threads=threads, ranks=ranks, progress=progress)
    starts = [plan.clip(0, position).start for position in range(len(plan))]
    return Predictions(
        logits=logits,
        starts=np.array(starts, np.int64).reshape(len(video_indices), views),
        label=index.label[video_indices].astype(np.int64),
        video_id=np.array([index.video_id[video_index] for video_index in video_indices]),
        group=np.array([index.group[video_index] for video_index in video_indices]),
        classes=np.array(trained.record.classes),
        provenance=Provenance(
            run=trained.name,
            weights=trained.weights,
            weights_sha256=trained.weights_sha256,
            epoch=trained.header.epoch,
            epochs=trained.record.config.recipe.epochs,
            precision=trained.precision,
            dataset=store.settings.dataset.name,
            store_fingerprint=store.settings.fingerprint,
            codec=store.settings.codec,
            differs_from_training=differs,
            partial=store.partial,
            split=split,
            membership=membership,
            geometry=asdict(trained.geometry),
            padded_share=plan.padded_share,
            compute_threads=torch.get_num_threads(),
            ema=trained.record.config.recipe.ema,
            leak=leak_words([leak for leak in store_leaks(store) if leak.split == split]),
        ),
    )


def _differences(trained: TrainedRun, store: ClipStore, *, other_codec: bool) -> dict[str, list[Any]]:
    """Setting -> its value in the run's store and in this one.

    Raises:
        SettingsError: they are such that the figures would mean something else.
    """
    ours, theirs = trained.record.store, StoreIdentity.of(store)
    differing = ours.settings.differences(theirs.settings)
    named = "; ".join(
        f"{setting_words(key)}: trained on {_short(was)}, store has {_short(now)}"
        for key, (was, now) in differing.items()
    )
    if "decode.rule" in differing:
        was, now = differing["decode.rule"]
        raise SettingsError(
            f"{store.files} was made by rule {now} for sampling and colours, and {trained.name} was trained on frames "
            f"by rule {was} (docs/videos.md): name the store that it was trained on with --store, or train again"
        )
    if any(key not in _STORAGE for key in differing):
        raise SettingsError(
            f"{store.files} differs from the store that {trained.name} was trained on ({named}): name one with "
            "--store that "
            "was made from the same data set with the same --fps, --short-side, --max-seconds and --classes"
        )
    if differing and not other_codec:
        raise SettingsError(
            f"{store.files} stores the frames of {trained.name}'s data set differently ({named}): name it with "
            "--store to evaluate on it anyway"
        )
    if ours.contents != theirs.contents and not differing:
        differing["contents"] = (ours.contents, theirs.contents)
    return {key: list(values) for key, values in differing.items()}


def _short(value: Any) -> str:
    return shorten(repr(value), 80, placeholder=" ...")  # a data set may have a hundred classes
