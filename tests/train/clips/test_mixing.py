"""Mixup, and leaving out one of two inputs: their definitions, and that seed, epoch and position alone decide."""

from collections import Counter

import numpy as np
import pytest
import torch

from resact.errors import UsageError
from resact.train.clips.mixing import dropped_stream, mix_batch, mixup_share
from resact.train.runs.files.config import RunConfig

STREAMS = ("rgb", "residual")


def batch_of(positions: range, seed: int = 0) -> dict:
    clips = len(positions)
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(clips, 3, 2, 4, 4, generator=generator) for name in STREAMS}
    return tensors | {"label": torch.arange(clips) % 3, "positions": positions}


def test_without_either_a_batch_stays_as_it_is(seed):
    batch = batch_of(range(4), seed)
    assert mix_batch(batch, STREAMS, seed=1, epoch=0) is batch


def test_mixup_is_its_definition(seed):
    batch = batch_of(range(7, 12), seed)
    clips = {name: batch[name].clone() for name in STREAMS}
    mixed = mix_batch(batch, STREAMS, seed=seed, epoch=2, mixup=0.3)
    for place, position in enumerate(batch["positions"]):
        own, partner = mixup_share(seed, 2, position, 0.3), (place + 1) % 5
        assert mixed["share"][place].item() == pytest.approx(own)
        assert mixed["partner_label"][place] == batch["label"][partner]
        for name in STREAMS:
            expected = own * clips[name][place] + (1 - own) * clips[name][partner]
            torch.testing.assert_close(mixed[name][place], expected)
    assert torch.equal(mixed["label"], batch["label"])


def test_the_shares_are_beta_distributed_and_frozen():
    shares = np.array([mixup_share(5, epoch, position, 0.4) for epoch in range(20) for position in range(100)])
    assert ((shares >= 0) & (shares <= 1)).all()
    assert shares.mean() == pytest.approx(0.5, abs=0.04)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.1)
    assert [round(mixup_share(1, 2, position, 0.2), 6) for position in range(3)] == [1e-06, 0.608597, 0.437092]
    assert mixup_share(1, 2, 0, 0.2) != mixup_share(1, 3, 0, 0.2) != mixup_share(2, 3, 0, 0.2)


def test_one_input_of_some_clips_is_left_out_and_never_both(seed):
    dropped = [dropped_stream(seed, epoch, position, STREAMS, 0.3) for epoch in range(20) for position in range(100)]
    counts = Counter(dropped)
    assert counts[None] == pytest.approx(1400, abs=120)
    assert counts["rgb"] == pytest.approx(300, abs=90)
    assert counts["residual"] == pytest.approx(300, abs=90)
    batch = batch_of(range(300, 340), seed)
    before = {name: batch[name].clone() for name in STREAMS}
    mixed = mix_batch(batch, STREAMS, seed=seed, epoch=3, drop_modality=0.3)
    for place, position in enumerate(batch["positions"]):
        out = dropped_stream(seed, 3, position, STREAMS, 0.3)
        for name in STREAMS:
            expected = torch.zeros(3, 2, 4, 4) if name == out else before[name][place]
            assert torch.equal(mixed[name][place], expected)


def test_what_is_left_out_of_a_mixed_clip_is_all_of_the_input(seed):
    mixed = mix_batch(batch_of(range(40), seed), STREAMS, seed=seed, epoch=0, mixup=0.4, drop_modality=0.9)
    for place in range(40):
        out = dropped_stream(seed, 0, place, STREAMS, 0.9)
        assert out is None or not mixed[out][place].any()


def test_a_network_with_one_input_cannot_go_without_it():
    with pytest.raises(UsageError, match=r"got --drop-modality 0.2 with --modality residual, expected --modality both"):
        RunConfig.of({"drop_modality": 0.2})
    assert RunConfig.of({"drop_modality": 0.2, "modality": "both"}).recipe.drop_modality == 0.2
