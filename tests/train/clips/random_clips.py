"""Random clips, what the definition makes of them, and what PyTorch makes of them.

Shapes: B clips, N stored frames, F frames read of a clip, T frames, C channels, H height, W width, D size of a clip.
"""

import math

import numpy as np
import torch
from hypothesis import strategies as st

from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.normalisation import Normalisation
from resact.train.clips.packed_clips import PackedClips
from resact.train.clips.plain_transform import transform_clip
from resact.train.clips.sampling import Clip
from resact.train.clips.transform import make_clip

AS_IT_IS = Normalisation(rgb_mean=(0, 0, 0), rgb_std=(1, 1, 1), residual_mean=(0, 0, 0), residual_std=(1, 1, 1))
USUAL = Normalisation(
    rgb_mean=(101.5, 97.25, 90), rgb_std=(61, 60.5, 59), residual_mean=(9, 8, 7.5), residual_std=(17, 16, 15.5)
)


def weights(side, size):
    """(D, side) float64: the share of each input pixel in each output pixel, by the definition in `resize_clip`."""
    apart = side / size
    centres = (np.arange(size) + 0.5) * apart
    distance = np.abs(np.arange(side) + 0.5 - centres[:, None]) / max(apart, 1)
    triangle = np.clip(1 - distance, 0, None)
    return triangle / triangle.sum(axis=1, keepdims=True)


def resized(frames_NHWC, clip, size):
    """(N, C, D, D) float64, before it is rounded."""
    square = frames_NHWC[:, clip.top : clip.top + clip.side, clip.left : clip.left + clip.side].astype(np.float64)
    share = weights(clip.side, size)
    return np.einsum("yh,xw,nhwc->ncyx", share, share, square)


def expected(frames_NHWC, clip, geometry):
    """Stream -> pixel values (3, T, D, D) before normalisation, and a mask of those whose rounding is certain."""
    exact = resized(frames_NHWC, clip, geometry.size)[clip.order].transpose(1, 0, 2, 3)
    exact = exact[..., ::-1] if clip.flip else exact
    values, sure = np.rint(exact), np.abs(exact % 1 - 0.5) > 1e-3
    step = geometry.step
    return {
        "rgb": (values[:, : geometry.frames], sure[:, : geometry.frames]),
        "residual": (np.abs(values[:, step:] - values[:, :-step]), sure[:, step:] & sure[:, :-step]),
    }


def assert_as_defined(
    actual, frames_NHWC, clip, geometry, normalisation, *, exact, dtype=torch.float32, precision=2**-8
):
    """Within one level (two for a residual); with `exact`, equal except where the rounding is uncertain.

    `precision` is bfloat16's, when it rounds to the nearest.
    """
    assert actual.keys() == set(geometry.streams)
    wanted = expected(frames_NHWC, clip, geometry)
    for stream, clip_CTDD in actual.items():
        assert clip_CTDD.dtype == dtype
        assert clip_CTDD.shape == (3, geometry.frames, geometry.size, geometry.size)
        values, sure = wanted[stream]
        mean, std = (np.reshape(getattr(normalisation, f"{stream}_{name}"), (3, 1, 1, 1)) for name in ("mean", "std"))
        levels = (1 if stream == "rgb" else 2) * (~sure if exact else np.ones_like(sure))
        normalised = (values - mean) / std
        largest = np.abs(normalised) + levels / std
        allowed = levels / std + 1e-6 * (largest + np.abs(mean / std)) + (dtype == torch.bfloat16) * precision * largest
        assert (np.abs(clip_CTDD.double().numpy() - normalised) <= allowed).all(), stream
        assert not exact or sure.mean() > 0.5


def random_clip(rng, geometry, num_frames, height, width, *, side=None):
    """A clip of a random video, and the frames [start, stop) of it."""
    start = int(rng.integers(max(1, num_frames - geometry.frames_read + 1)))
    stop = min(num_frames, start + geometry.frames_read)
    side = side or int(rng.integers(1, min(height, width) + 1))
    top, left = (int(rng.choice([0, edge - side, (edge - side) // 2])) for edge in (height, width))
    order = geometry.frame_order(start, num_frames) - start
    flip = bool(rng.integers(2))
    clip = Clip(video_index=0, start=start, stop=stop, order=order, top=top, left=left, side=side, flip=flip)
    return clip, rng.integers(0, 256, (stop - start, height, width, 3), dtype=np.uint8)


def packed_clips(rng, clips_and_frames):
    """All clips in one buffer, with random bytes between them."""
    offsets, pieces = [], []
    for _, frames in clips_and_frames:
        pieces.append(rng.integers(0, 256, rng.integers(8), dtype=np.uint8))
        offsets.append(sum(map(len, pieces)))
        pieces.append(frames.reshape(-1))
    return PackedClips(
        frames=torch.from_numpy(np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.uint8)),
        offsets=offsets,
        heights=[frames.shape[1] for _, frames in clips_and_frames],
        widths=[frames.shape[2] for _, frames in clips_and_frames],
        clips=[clip for clip, _ in clips_and_frames],
    )


geometries = st.builds(
    lambda modality, step, more, size, short_clips: ClipGeometry(
        modality=modality, frames=step + more, step=step, size=size, short_clips=short_clips
    ),
    st.sampled_from(["rgb", "residual", "both"]),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 5),
    st.integers(1, 9),
    st.sampled_from(["mirror", "loop", "hold"]),
)


def random_normalisation(rng):
    mean, std = rng.uniform(-300, 300, (2, 3)), rng.uniform(0.01, 100, (2, 3))
    return Normalisation(rgb_mean=mean[0], rgb_std=std[0], residual_mean=mean[1], residual_std=std[1])


def assert_made_as_in_pytorch(rng, clip, frames, geometry, dtype, *, shift=0):
    """Bit for bit; written to a place `shift` numbers off the usual alignment, and nowhere else."""
    normalisation, frames = random_normalisation(rng), torch.from_numpy(frames)
    shape = (3, 3, geometry.frames, geometry.size, geometry.size)
    whole = {stream: torch.full((math.prod(shape) + 64,), 77, dtype=dtype) for stream in geometry.streams}
    batch = {stream: memory[shift:][: math.prod(shape)].view(shape) for stream, memory in whole.items()}
    out = {stream: clips[1] for stream, clips in batch.items()}
    assert make_clip(frames, clip, geometry, normalisation, dtype=dtype, out=out) is out
    wanted = transform_clip(frames, clip, geometry, normalisation, dtype=dtype)
    for stream, memory in whole.items():
        assert torch.equal(out[stream].view(torch.uint8), wanted[stream].view(torch.uint8)), stream
        assert (batch[stream][[0, 2]] == 77).all()
        assert (memory[:shift] == 77).all()
        assert (memory[shift + math.prod(shape) :] == 77).all()
