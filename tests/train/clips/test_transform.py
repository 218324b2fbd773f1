"""The plain transform against its definition, and arguments that do not fit.

Shapes: N stored frames, T frames of a clip, C channels, H height, W width, D size of a clip.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.train.clips.random_clips import USUAL, assert_as_defined, geometries, packed_clips, random_clip, resized

from resact.errors import UsageError
from resact.train.clips import plain_transform
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.packed_clips import PackedClips
from resact.train.clips.plain_transform import resize_clip, transform_clip
from resact.train.clips.sampling import Clip
from resact.train.clips.transform import make_clip, transform_batch


@given(
    seed=st.integers(0, 2**32 - 1),
    geometry=geometries,
    num_frames=st.integers(1, 12),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    bf16=st.booleans(),
)
@example(seed=0, geometry=ClipGeometry(modality="both", frames=2, size=1), num_frames=1, height=1, width=1, bf16=False)
@settings(max_examples=150)
def test_a_clip_is_as_defined(seed, geometry, num_frames, height, width, bf16):
    clip, frames = random_clip(np.random.default_rng(seed), geometry, num_frames, height, width)
    dtype = torch.bfloat16 if bf16 else torch.float32
    actual = transform_clip(torch.from_numpy(frames), clip, geometry, USUAL, dtype=dtype)
    assert_as_defined(actual, frames, clip, geometry, USUAL, exact=False, dtype=dtype)


@given(seed=st.integers(0, 2**32 - 1), side=st.integers(1, 70), size=st.integers(1, 40))
@settings(max_examples=100)
def test_both_ways_to_resize_round_the_defined_value(seed, side, size):
    square = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (2, 3, side, side), dtype=np.uint8))
    clip = Clip(video_index=0, start=0, stop=2, order=np.arange(2), top=0, left=0, side=side, flip=False)
    exact = resized(square.permute(0, 2, 3, 1).numpy(), clip, size)
    floats = plain_transform._resize_floats(square, size).numpy()
    assert (np.abs(floats - exact) <= 0.501).all()
    assert (np.abs(plain_transform._resize_bytes(square, size).numpy() - exact) <= 1.05).all()  # it rounds twice


def test_the_two_ways_to_resize_mostly_agree():
    frames = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (4, 3, 96, 96), dtype=np.uint8))
    in_bytes, in_floats = plain_transform._resize_bytes(frames, 42), plain_transform._resize_floats(frames, 42)
    difference = (in_bytes.int() - in_floats.int()).abs()
    assert difference.max() == 1
    assert (difference > 0).float().mean() < 0.3


def test_the_square_alone_is_resized():
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (3, 30, 37, 3), dtype=np.uint8)
    other = rng.integers(0, 256, frames.shape, dtype=np.uint8)
    other[:, 7:27, 16:36] = frames[:, 7:27, 16:36]
    results = [resize_clip(torch.from_numpy(x), top=7, left=16, side=20, size=9) for x in (frames, other)]
    assert torch.equal(*results)


def test_a_clip_goes_where_it_is_wanted():
    geometry = ClipGeometry(modality="both", frames=4, step=2, size=6)
    clip, frames = random_clip(np.random.default_rng(5), geometry, 9, 20, 30)
    batch = {stream: torch.full((3, 3, 4, 6, 6), 77.0) for stream in geometry.streams}
    out = {stream: clips[1] for stream, clips in batch.items()}
    assert transform_clip(torch.from_numpy(frames), clip, geometry, USUAL, out=out) is out
    for stream, wanted in transform_clip(torch.from_numpy(frames), clip, geometry, USUAL).items():
        assert wanted.is_contiguous()
        assert torch.equal(batch[stream][1], wanted)
        assert (batch[stream][[0, 2]] == 77).all()


@pytest.mark.parametrize("modality", ["rgb", "residual", "both"])
def test_a_batch_is_its_clips(modality):
    rng = np.random.default_rng(6)
    geometry = ClipGeometry(modality=modality, frames=5, step=2, size=8)
    clips = [random_clip(rng, geometry, *shape) for shape in ((9, 12, 20), (3, 30, 8), (1, 1, 1))]
    batch = transform_batch(packed_clips(rng, clips), geometry, USUAL)
    for position, (clip, frames) in enumerate(clips):
        wanted = transform_clip(torch.from_numpy(frames), clip, geometry, USUAL)
        assert wanted.keys() == batch.keys()
        assert all(torch.equal(batch[stream][position], wanted[stream]) for stream in wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side": 0}, "got a crop of 0 at"),
        ({"top": -1}, r"at \(-1, 2\), expected it within frames of 20x30"),
        ({"left": 22}, r"got a crop of 9 at \(1, 22\)"),
        ({"order": np.arange(4)}, "got a clip of 4 frames, expected the geometry's 5"),
        ({"order": np.array([0, 1, 2, 3, 5])}, "expected positions among the 5 frames read"),
        ({"order": np.array([0, 1, 2, 3, -1])}, "expected positions among the 5 frames read"),
        ({"stop": 6}, r"got frames \(5, 20, 30, 3\) of uint8, expected \(6, H, W, 3\) of uint8"),
    ],
)
def test_frames_that_a_clip_does_not_fit(changes, message):
    geometry = ClipGeometry(modality="residual", frames=4, size=6)
    clip = Clip(video_index=0, start=0, stop=5, order=np.arange(5), top=1, left=2, side=9, flip=False)
    frames = torch.zeros(5, 20, 30, 3, dtype=torch.uint8)
    for make in (transform_clip, make_clip):
        make(frames, clip, geometry, USUAL)
        with pytest.raises(UsageError, match=message):
            make(frames, replace(clip, **changes), geometry, USUAL)


def test_out_has_to_fit():
    geometry = ClipGeometry(modality="rgb", frames=2, size=4)
    clip = Clip(video_index=0, start=0, stop=2, order=np.arange(2), top=0, left=0, side=8, flip=False)
    frames = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    for out in (torch.zeros(3, 2, 4, 5), torch.zeros(3, 2, 4, 4, dtype=torch.float64)):
        for make in (transform_clip, make_clip):
            with pytest.raises(UsageError, match=r"expected \(3, 2, 4, 4\) of torch.float32"):
                make(frames, clip, geometry, USUAL, out={"rgb": out})


def test_packed_clips_lie_within_their_buffer():
    clip = Clip(video_index=0, start=3, stop=5, order=np.arange(2), top=0, left=0, side=4, flip=False)
    fitting = {"frames": torch.zeros(101, dtype=torch.uint8), "offsets": [5], "heights": [4], "widths": [4]}
    assert PackedClips(**fitting, clips=[clip]).frames_of(0).shape == (2, 4, 4, 3)
    for offset in (-1, 6):
        with pytest.raises(UsageError, match=r"of a buffer of 101, expected it within"):
            PackedClips(**fitting | {"offsets": [offset]}, clips=[clip])
    with pytest.raises(UsageError, match=r"got 1 clips, 1 offsets, 2 heights and 1 widths"):
        PackedClips(**fitting | {"heights": [4, 4]}, clips=[clip])
    PackedClips(**fitting, clips=[clip], largest_side=4)
    with pytest.raises(UsageError, match="got a crop larger than the largest side, 3"):
        PackedClips(**fitting, clips=[clip], largest_side=3)
    for frames in (torch.zeros(101), torch.zeros(202, dtype=torch.uint8)[::2]):
        with pytest.raises(UsageError, match=r"got frames \(101,\) of \w+, expected contiguous"):
            PackedClips(**fitting | {"frames": frames}, clips=[clip])


def test_a_stream_needs_its_normalisation():
    geometry = ClipGeometry(modality="both", frames=2, size=4)
    clip = Clip(video_index=0, start=0, stop=3, order=np.arange(3), top=0, left=0, side=8, flip=False)
    frames = torch.zeros(3, 8, 8, 3, dtype=torch.uint8)
    for make in (transform_clip, make_clip):
        with pytest.raises(UsageError, match="without residual_mean and residual_std"):
            make(frames, clip, geometry, replace(USUAL, residual_mean=None, residual_std=None))
