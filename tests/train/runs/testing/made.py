"""Predictions of a few videos, without a network."""

from typing import Any

import numpy as np

from resact.train.runs.testing.predictions import Predictions, Provenance

PROVENANCE = Provenance(
    run="a", weights="last", weights_sha256="ab" * 32, epoch=3, epochs=3, precision="float32", dataset="sample",
    store_fingerprint="cd" * 32, codec="zstd", differs_from_training={}, partial=None, split="1", membership="test",
    geometry={"modality": "rgb"}, padded_share=0.25,
)  # fmt: skip


def make(seed: int = 0, videos: int = 4, views: int = 3, num_classes: int = 6, **changes: Any) -> Predictions:
    random = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "logits": random.normal(0, 3, (videos, views, num_classes)).astype(np.float32),
        "starts": np.tile(np.arange(views), (videos, 1)),
        "label": np.arange(videos) % num_classes,
        "video_id": np.array([f"v_{i}\udce4ü" for i in range(videos)]),
        "group": np.array(["g1"] * videos),
        "classes": np.array([f"class {i}" for i in range(num_classes)]),
        "provenance": PROVENANCE,
    }
    return Predictions(**{**values, **changes})
