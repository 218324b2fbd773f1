"""A run's folder as training leaves it, with random weights: what evaluation needs, without the training."""

from pathlib import Path
from typing import Any

import torch

from resact.cache.store import ClipStore
from resact.train.clips.normalisation import Normalisation
from resact.train.runs.execution import build_network
from resact.train.runs.files.config import RunConfig
from resact.train.runs.files.folder import RunFolder, WeightsHeader
from resact.train.runs.files.record import RunRecord, StoreIdentity

SMALL = {"frames": 8, "size": 16, "width": 0.125, "depths": (1, 1, 1, 1), "amp": False, "flip": False}


def untrained_run(path: Path, store: ClipStore, *, seed: int = 0, epoch: int = 2, **settings: Any) -> RunFolder:
    """Write the folder of a small network of `store`'s classes."""
    split = store.settings.dataset.splits[0]
    config = RunConfig.of({"epochs": 2, "warmup_epochs": 0, "split": split, **SMALL, **settings})
    config = config.for_classes(len(store.index.classes))
    torch.manual_seed(seed)
    network = build_network(config)
    for module in network.modules():  # as after some training: statistics that are not those of no clips at all
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
    streams = config.geometry.streams
    folder = RunFolder(path)
    path.mkdir(parents=True)
    folder.write_record(
        RunRecord(
            config=config,
            normalisation=Normalisation(
                **{f"{name}_mean": (80.0, 90.0, 100.0) if name == "rgb" else (9.0, 8.0, 7.0) for name in streams},
                **{f"{name}_std": (50.0, 55.0, 60.0) if name == "rgb" else (20.0, 18.0, 16.0) for name in streams},
            ),
            classes=store.index.classes,
            store=StoreIdentity.of(store),
            world_size=1,
            train_videos=1,
            val_videos=0,
            held_out=(),
            padded_share=0.0,
            provenance={},
        )
    )
    folder.write_weights("last", network, WeightsHeader(epoch=epoch, epochs=2, step=epoch, val_video_top1=None))
    return folder
