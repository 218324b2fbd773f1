"""Runs as training and evaluation leave them, by the product's own writers, without either."""

from dataclasses import asdict, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resact.cache.codecs import build_codec
from resact.cache.settings import DatasetSettings, DecodeSettings, StoreSettings
from resact.cache.store import ClipStore
from resact.train.clips.normalisation import Normalisation
from resact.train.networks.models import ActionNetwork
from resact.train.runs.execution import build_network
from resact.train.runs.files.checkpoint import Progress
from resact.train.runs.files.config import RunConfig
from resact.train.runs.files.folder import RunFolder, WeightsHeader
from resact.train.runs.files.history import History
from resact.train.runs.files.record import InitialWeights, RunRecord, StoreIdentity
from resact.train.runs.testing.predictions import PREDICTIONS, Predictions, Provenance, write_predictions

CLASSES = tuple("ABCDEF")
GROUPS, CLIPS = 4, 3
VIDEOS = len(CLASSES) * GROUPS * CLIPS
SMALL = {"frames": 8, "size": 16, "width": 0.0625, "depths": (1, 1, 1, 1), "epochs": 2, "warmup_epochs": 0.5}


def write_run(
    runs: Path,
    name: str,
    *,
    correct: np.ndarray | float = 0.5,
    epoch: int = 2,
    evaluated: bool = True,
    views: int = 10,
    provenance: dict[str, Any] | None = None,
    dataset: str = "ucf101",
    partial: str | None = None,
    contents: str = "c0ffee" * 10,
    codec: str = "zstd",
    world_size: int = 1,
    padded_share: float = 0.0,
    clips: ClipStore | None = None,
    grouped: bool = True,
    initial: InitialWeights | None = None,
    **settings: Any,
) -> RunFolder:
    """`correct`: which videos are right, or the share of them; `epoch`: trained, of two; 0 writes no weights; `clips`:
    the store that it was trained on, whose videos are shown again and again; `grouped`: if not, each video is a group
    of its own, of a folder that was divided by chance."""
    said = {"split": "split1", "flip": True, "amp": False, "val_groups": 0, **SMALL, **settings}
    config, network = _built(tuple(said.items()), "meta" if epoch == 0 else "cpu")
    store = StoreSettings(
        dataset=DatasetSettings(
            name=dataset,
            videos=VIDEOS if grouped else None,
            all_classes=6,
            classes=CLASSES,
            splits=("split1", "split2"),
            flip_safe=True,
            division=None if grouped else "test share 0.3, seed 0",
        ),
        decode=DecodeSettings(fps="15", short_side=32, max_seconds=None, ffmpeg="7.0.2"),
        codec=codec,
        library=build_codec(codec).library(),
    )
    streams = config.geometry.streams
    folder = RunFolder(runs / name)
    folder.path.mkdir(parents=True)
    record = RunRecord(
        config=config,
        normalisation=Normalisation(
            **{f"{stream}_{what}": (9.0, 8.0, 7.0) for stream in streams for what in ("mean", "std")}
        ),
        classes=CLASSES,
        store=StoreIdentity.of(clips)
        if clips is not None
        else StoreIdentity(
            path="/data/store.zarr",
            dataset=dataset,
            fingerprint=store.fingerprint,
            contents=contents,
            settings=store,
            partial=partial,
        ),
        world_size=world_size,
        train_videos=100,
        val_videos=0,
        held_out=(),
        padded_share=padded_share,
        provenance={},
        initial=initial,
    )
    folder.write_record(record)
    if epoch == 0:
        return folder
    with History(folder.metrics, Progress()) as history:
        for step in range(4):
            history.add("step", epoch=step // 2, step=step + 1, clips=10, seconds=0.5 if step else 1.5)
            if step % 2:
                history.add("epoch", epoch=step // 2, step=step + 1, loss=2 - step / 4, top1=step / 4)
    folder.write_weights("last", network, WeightsHeader(epoch=epoch, epochs=2, step=2 * epoch, val_video_top1=None))
    if evaluated:
        made = predictions_of(folder, record, correct, views, provenance or {})
        if clips is not None:
            made = replace(made, video_id=np.resize(np.array(clips.index.video_id), VIDEOS))
        if not grouped:
            made = replace(made, group=made.video_id)
        write_predictions(folder.path / PREDICTIONS, made)
    return folder


@cache
def _built(settings: tuple[tuple[str, Any], ...], device: str) -> tuple[RunConfig, ActionNetwork]:
    config = RunConfig.of(dict(settings)).for_classes(len(CLASSES))
    with torch.device(device):
        return config, build_network(config)


def predictions_of(
    folder: RunFolder, record: RunRecord, correct: np.ndarray | float, views: int, provenance: dict[str, Any]
) -> Predictions:
    if isinstance(correct, float):
        correct = np.arange(VIDEOS) < correct * VIDEOS
    label = np.arange(VIDEOS) // (GROUPS * CLIPS)
    group = [f"g{place // CLIPS % GROUPS:02}" for place in range(VIDEOS)]
    logits = np.random.default_rng(0).normal(0, 0.1, (VIDEOS, views, len(CLASSES))).astype(np.float32)
    logits[np.arange(VIDEOS), :, np.where(correct, label, (label + 1) % len(CLASSES))] += 5
    made = Provenance(
        run=folder.name, weights="last", weights_sha256=sha256(folder.weights("last").read_bytes()).hexdigest(),
        epoch=2, epochs=2, precision="float32", dataset=record.store.dataset,
        store_fingerprint=record.store.fingerprint, codec="zstd", differs_from_training={},
        partial=record.store.partial, split=str(record.config.split), membership="test",
        geometry=asdict(record.config.geometry), padded_share=0.0,
    )  # fmt: skip
    return Predictions(
        logits=logits,
        starts=np.zeros((VIDEOS, views), np.int64),
        label=label,
        video_id=np.array([f"v{place:03}" for place in range(VIDEOS)]),
        group=np.array(group),
        classes=np.array(CLASSES),
        provenance=Provenance(**{**asdict(made), **provenance}),
    )
