"""Shapes: B batch, C channels, T frames, H height, W width."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import resact
from resact.errors import UsageError
from resact.train.clips.residual import residual_frames

seeds = st.integers(0, 2**32 - 1)


def reference(clip_BCTHW: torch.Tensor, step: int) -> torch.Tensor:
    """The equation of section 2.1, frame by frame, in float64."""
    x = clip_BCTHW.double()
    return torch.stack([(x[:, :, t + step] - x[:, :, t]).abs() for t in range(x.shape[2] - step)], dim=2)


@given(seed=seeds, frames=st.integers(2, 9), data=st.data())
@settings(max_examples=40)
def test_uint8_is_exact_at_any_step(seed, frames, data):
    step = data.draw(st.integers(1, frames - 1))
    clip = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (2, 3, frames, 5, 4), dtype=np.uint8))
    residual = residual_frames(clip, step=step)
    assert residual.dtype == torch.uint8
    assert residual.shape == (2, 3, frames - step, 5, 4)
    assert torch.equal(residual.double(), reference(clip, step))


@given(seed=seeds, step=st.integers(1, 5))
@settings(max_examples=20)
def test_float_agrees_with_float64(seed, step):
    clip = torch.randn(2, 3, 6, 5, 4, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(residual_frames(clip, step=step).double(), reference(clip, step), atol=1e-6, rtol=0)


def test_uint8_does_not_wrap_around():
    clip = torch.tensor([255, 0, 255, 1], dtype=torch.uint8).reshape(1, 1, 4, 1, 1)
    assert residual_frames(clip).flatten().tolist() == [255, 255, 254]


def test_default_step_is_one_and_the_name_is_public():
    clip = torch.arange(8.0).reshape(1, 1, 8, 1, 1) ** 2
    assert torch.equal(resact.residual_frames(clip), reference(clip, 1).float())


def test_input_is_left_alone():
    clip = torch.randint(0, 256, (1, 3, 5, 4, 4), dtype=torch.uint8)
    before = clip.clone()
    residual_frames(clip, step=2)
    assert torch.equal(clip, before)


@pytest.mark.parametrize("step", [0, -1, 6, 7, 1.0, True, "1"])
def test_bad_step_is_a_usage_error(step):
    with pytest.raises(UsageError, match=r"got step=.* for a clip of 6 frames, expected"):
        residual_frames(torch.zeros(1, 3, 6, 2, 2), step=step)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int64, torch.bool, torch.complex64])
def test_bad_dtype_is_a_usage_error(dtype):
    with pytest.raises(UsageError, match=r"got dtype .* expected uint8 or floating point"):
        residual_frames(torch.zeros(1, 3, 6, 2, 2, dtype=dtype))


def test_bad_shape_or_type_is_a_usage_error():
    with pytest.raises(UsageError, match=r"got a clip of shape \(3, 6, 2, 2\), expected \(B, C, T, H, W\)"):
        residual_frames(torch.zeros(3, 6, 2, 2))
    with pytest.raises(UsageError, match=r"got a ndarray, expected a torch.Tensor"):
        residual_frames(np.zeros((1, 3, 6, 2, 2)))


def test_gradients_agree_with_finite_differences():
    clip = torch.randn(
        1, 2, 5, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    for step in (1, 2, 4):
        assert torch.autograd.gradcheck(lambda x, step=step: residual_frames(x, step=step), clip)
